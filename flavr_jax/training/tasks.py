# SPDX-License-Identifier: Apache-2.0
"""Tasks that the training loop can train: interpolation, classification, motion magnification.

A task is a network, its loss, and how its parameters are scored and saved.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, PyTree

from flavr_jax import checkpoint, evaluation, losses
from flavr_jax.config import ModelConfig
from flavr_jax.data.mixture import Batch
from flavr_jax.data.sources import data_set
from flavr_jax.data.synthetic import magnified
from flavr_jax.models import classifier, flavr, magnifier
from flavr_jax.models.classifier import ClassifierConfig
from flavr_jax.models.magnifier import MagnifierConfig
from flavr_jax.typing import Windows

__all__ = ["Classification", "Interpolation", "LabelledBatch", "Magnification", "Task", "Terms"]

Terms: TypeAlias = dict[str, Float[Array, ""]]
"""Means over a batch by name: parts of the loss, and other values to log."""


@runtime_checkable
class Task(Protocol):
    """A network and the loss to minimise; hashable, because compiled steps are cached by task."""

    def init(self, key: Array) -> PyTree:
        """Random float32 parameters."""
        ...

    def loss(self, params: PyTree, batch: Any, key: Array | None) -> tuple[Float[Array, ""], Terms]:
        """Compute the loss and its terms, in the dtype of ``params``.

        Args:
            params: the network's parameters.
            batch: one device's part of a batch, from the inputs.
            key: random key in training; None in validation, which makes no random choices.
        """
        ...

    def preview(self, params: PyTree, batch: Any) -> Array | None:
        """Return an image in [0, 1] of the network's output for a batch; None if there is none."""
        ...

    def scores(self, params: PyTree) -> dict[str, float]:
        """Score parameters in host memory on the evaluation data set, if there is one."""
        ...

    def release(self, path: Path, params: PyTree, provenance: dict[str, Any]) -> None:
        """Write a checkpoint for inference, replacing an older one."""
        ...


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """Predict the frames inside the middle interval of a window, as FLAVR does.

    Attributes:
        model: the network.
        objective: the loss.
        remat: recompute blocks in the backward pass instead of keeping their activations.
        evaluation: name and folder of the data set that every report scores; None for none.
    """

    model: ModelConfig
    objective: losses.Objective
    remat: bool = False
    evaluation: tuple[str, Path] | None = None

    def init(self, key: Array) -> PyTree:
        """See :class:`Task`."""
        return flavr.init(self.model, key)

    def loss(
        self, params: PyTree, batch: Batch, key: Array | None
    ) -> tuple[Float[Array, ""], Terms]:
        """See :class:`Task`."""
        prediction = flavr.apply(
            self.model, params, batch.inputs, outputs=batch.outputs, remat=self.remat
        )
        return self.objective(prediction, batch.targets, batch.weights, key)

    def preview(self, params: PyTree, batch: Batch) -> Array:
        """Show the first window in a row: frame before, prediction, true frame, frame after."""
        inputs = batch.inputs[:1]
        outputs = None if batch.outputs is None else batch.outputs[:1]
        prediction = flavr.apply(self.model, params, inputs, outputs=outputs)
        middle, after = batch.targets.shape[1] // 2, self.model.n_inputs // 2
        row = (inputs[0, after - 1], prediction[0, middle], batch.targets[0, middle])
        return jnp.clip(jnp.concatenate([*row, inputs[0, after]], axis=1), 0.0, 1.0)

    def scores(self, params: PyTree) -> dict[str, float]:
        """PSNR in dB on the evaluation data set; empty if there is none."""
        if self.evaluation is None:
            return {}
        name, folder = self.evaluation
        params = _to_bfloat16(params)
        method = evaluation.method_of_network(
            lambda windows: _predict(self.model, params, windows), self.model.n_outputs
        )
        chosen = data_set(name)
        metrics = {"psnr_flavr": evaluation.METRICS["psnr_flavr"]}
        samples = evaluation.score(method, chosen.read(folder), metrics)
        return {f"{name} psnr": evaluation.mean(samples, chosen.average)["psnr_flavr"]}

    def release(self, path: Path, params: PyTree, provenance: dict[str, Any]) -> None:
        """See :class:`Task`."""
        checkpoint.save(
            path, self.model, _to_bfloat16(params), provenance=provenance, overwrite=True
        )


class LabelledBatch(NamedTuple):
    """Clips and the class of each, as an index."""

    clips: Windows
    labels: Int[Array, " batch"]


@dataclasses.dataclass(frozen=True)
class Classification:
    """Recognise the class of a clip with the encoder of an interpolation network.

    Attributes:
        config: the classifier.
        classes: names of the classes, in the order of their indices.
        remat: recompute blocks in the backward pass instead of keeping their activations.
    """

    config: ClassifierConfig
    classes: tuple[str, ...]
    remat: bool = False

    def init(self, key: Array) -> PyTree:
        """See :class:`Task`."""
        return classifier.init(self.config, key)

    def loss(
        self, params: PyTree, batch: LabelledBatch, key: Array | None
    ) -> tuple[Float[Array, ""], Terms]:
        """Return the cross entropy, and the share of clips classified correctly as ``accuracy``."""
        logits = classifier.apply(self.config, params, batch.clips, key, remat=self.remat)
        costs = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        correct = (logits.argmax(axis=-1) == batch.labels).mean()
        return costs.mean(), {"accuracy": correct.astype(jnp.float32)}

    def preview(self, params: PyTree, batch: LabelledBatch) -> None:
        """Return None, because a classifier has no image to show."""

    def scores(self, params: PyTree) -> dict[str, float]:
        """Return no scores; the validation already measures the accuracy."""
        return {}

    def release(self, path: Path, params: PyTree, provenance: dict[str, Any]) -> None:
        """Write the classifier, with the names of its classes in the provenance."""
        provenance = {**provenance, "classes": list(self.classes)}
        checkpoint.save(
            path, self.config, _to_bfloat16(params), provenance=provenance, overwrite=True
        )


@dataclasses.dataclass(frozen=True)
class Magnification:
    """Magnify the motion of a clip.

    Attributes:
        config: the network.
        objective: the loss.
        remat: recompute blocks in the backward pass instead of keeping their activations.
    """

    config: MagnifierConfig
    objective: losses.Objective
    remat: bool = False

    def init(self, key: Array) -> PyTree:
        """See :class:`Task`."""
        return magnifier.init(self.config, key)

    def loss(
        self, params: PyTree, batch: magnified.Sample, key: Array | None
    ) -> tuple[Float[Array, ""], Terms]:
        """Return the loss and its parts, and the PSNR in dB as ``psnr``."""
        prediction = magnifier.apply(
            self.config, params, batch.frames, batch.factor, remat=self.remat
        )
        total, terms = self.objective(prediction, batch.target, jnp.ones(prediction.shape[:2]), key)
        errors = jnp.square(prediction - batch.target).mean(axis=(1, 2, 3, 4))
        return total, {**terms, "psnr": -10.0 * jnp.log10(errors + 1e-9).mean()}

    def preview(self, params: PyTree, batch: magnified.Sample) -> Array:
        """Show the first sample in a row: frame at rest, current frame, prediction, truth."""
        prediction = magnifier.apply(self.config, params, batch.frames[:1], batch.factor[:1])
        row = (batch.frames[0, 0], batch.frames[0, 2], prediction[0, 0], batch.target[0, 0])
        return jnp.clip(jnp.concatenate(row, axis=1), 0.0, 1.0)

    def scores(self, params: PyTree) -> dict[str, float]:
        """Return no scores; the validation already measures the PSNR."""
        return {}

    def release(self, path: Path, params: PyTree, provenance: dict[str, Any]) -> None:
        """See :class:`Task`."""
        checkpoint.save(
            path, self.config, _to_bfloat16(params), provenance=provenance, overwrite=True
        )


def _to_bfloat16(params: PyTree) -> PyTree:
    """Round parameters as in a released checkpoint, so that scores hold for the checkpoint."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)


@functools.partial(jax.jit, static_argnums=0)
def _predict(model: ModelConfig, params: PyTree, windows: Windows) -> Windows:
    return flavr.apply(model, params, windows)
