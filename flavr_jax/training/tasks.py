# SPDX-License-Identifier: Apache-2.0
"""What is learned: frames between frames, or classes of clips. The loop is the same for both."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, PyTree

from flavr_jax import checkpoint, evaluation, losses
from flavr_jax.config import ModelConfig
from flavr_jax.data.mixture import Batch
from flavr_jax.data.sources import data_set
from flavr_jax.models import classifier, flavr
from flavr_jax.models.classifier import ClassifierConfig
from flavr_jax.typing import Windows

__all__ = ["Classification", "Interpolation", "LabelledBatch", "Task"]


@runtime_checkable
class Task(Protocol):
    """A network, what it is to minimise, and what comes out; hashable."""

    def init(self, key: Array) -> PyTree:
        """Random float32 parameters."""
        ...

    def loss(
        self, params: PyTree, batch: Any, key: Array | None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss, and what else is worth plotting; computed in the dtype of ``params``.

        ``key`` is for what is random in training; it is None where nothing is to be.
        """
        ...

    def preview(self, params: PyTree, batch: Any) -> Array | None:
        """A picture of what the network makes of a batch, in [0, 1]."""
        ...

    def scores(self, params: PyTree) -> dict[str, float]:
        """Scores of parameters on the host, on data sets that were asked for."""
        ...

    def release(self, path: Path, params: PyTree, provenance: dict[str, Any]) -> None:
        """Write the checkpoint that others load."""
        ...


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """FLAVR's own task.

    Attributes:
        model: the network.
        objective: what frames cost.
        remat: whether blocks are computed again for the gradient rather than kept.
        evaluation: data set and its folder, scored at every report.
    """

    model: ModelConfig
    objective: losses.Loss
    remat: bool = False
    evaluation: tuple[str, Path] | None = None

    def init(self, key: Array) -> PyTree:
        """See :class:`Task`."""
        return flavr.init(self.model, key)

    def loss(
        self, params: PyTree, batch: Batch, key: Array | None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """See :class:`Task`."""
        prediction = flavr.apply(self.model, params, batch.inputs, remat=self.remat)
        return self.objective(prediction, batch.targets, batch.weights, key)

    def preview(self, params: PyTree, batch: Batch) -> Array:
        """The middle of the first window: frame before, prediction, truth, frame after."""
        inputs = batch.inputs[:1]
        prediction = flavr.apply(self.model, params, inputs)
        middle, after = self.model.n_outputs // 2, self.model.n_inputs // 2
        row = (inputs[0, after - 1], prediction[0, middle], batch.targets[0, middle])
        return jnp.clip(jnp.concatenate([*row, inputs[0, after]], axis=1), 0.0, 1.0)

    def scores(self, params: PyTree) -> dict[str, float]:
        """PSNR on the data set."""
        if self.evaluation is None:
            return {}
        name, folder = self.evaluation
        params = _half(params)
        method = evaluation.method_of_network(
            lambda windows: _predict(self.model, params, windows), self.model.n_outputs
        )
        chosen = data_set(name)
        metrics = {"psnr_flavr": evaluation.METRICS["psnr_flavr"]}
        samples = evaluation.score(method, chosen.read(folder), metrics)
        return {f"{name} psnr": evaluation.mean(samples, chosen.average)["psnr_flavr"]}

    def release(self, path: Path, params: PyTree, provenance: dict[str, Any]) -> None:
        """See :class:`Task`."""
        checkpoint.save(path, self.model, _half(params), provenance=provenance, overwrite=True)


class LabelledBatch(NamedTuple):
    """Clips and the class of each."""

    clips: Windows
    labels: Int[Array, " batch"]


@dataclasses.dataclass(frozen=True)
class Classification:
    """Which class a clip is of, by the encoder of an interpolation network.

    Attributes:
        config: the classifier.
        classes: their names.
        remat: whether blocks are computed again for the gradient rather than kept.
    """

    config: ClassifierConfig
    classes: tuple[str, ...]
    remat: bool = False

    def init(self, key: Array) -> PyTree:
        """See :class:`Task`."""
        return classifier.init(self.config, key)

    def loss(
        self, params: PyTree, batch: LabelledBatch, key: Array | None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Cross entropy, and the share of clips whose class was found."""
        logits = classifier.apply(self.config, params, batch.clips, key, remat=self.remat)
        costs = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        right = (logits.argmax(axis=-1) == batch.labels).mean()
        return costs.mean(), {"accuracy": right.astype(jnp.float32)}

    def preview(self, params: PyTree, batch: LabelledBatch) -> None:
        """Nothing to see."""

    def scores(self, params: PyTree) -> dict[str, float]:
        """Nothing beside the validation's accuracy."""
        return {}

    def release(self, path: Path, params: PyTree, provenance: dict[str, Any]) -> None:
        """The classifier and the names of its classes."""
        provenance = {**provenance, "classes": list(self.classes)}
        checkpoint.save(path, self.config, _half(params), provenance=provenance, overwrite=True)


def _half(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)


@functools.partial(jax.jit, static_argnums=0)
def _predict(model: ModelConfig, params: PyTree, windows: Windows) -> Windows:
    return flavr.apply(model, params, windows)
