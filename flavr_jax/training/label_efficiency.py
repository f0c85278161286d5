# SPDX-License-Identifier: Apache-2.0
"""Action recognition from few labels, with and without pretraining on interpolation.

FLAVR section 5 studies this on real video. Here the clips are short and synthetic
(:mod:`flavr_jax.data.synthetic.actions`). An encoder learns to interpolate clips without labels.
Then one classifier is trained from that encoder and another one from random parameters, for
several numbers of labels.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, Key, PyTree

from flavr_jax import losses
from flavr_jax.config import ModelConfig
from flavr_jax.data.mixture import Batch
from flavr_jax.data.synthetic import actions
from flavr_jax.data.synthetic.actions import ActionConfig, LabelledSet
from flavr_jax.metrics.psnr import psnr_flavr
from flavr_jax.models import classifier, flavr
from flavr_jax.models.classifier import ClassifierConfig
from flavr_jax.training.optimizers import OptimizerConfig, optimizer
from flavr_jax.training.step import Compute
from flavr_jax.training.tasks import Classification, Interpolation, LabelledBatch, Task

__all__ = ["Encoder", "Pretrained", "Result", "Study", "StudyConfig"]

Encoder: TypeAlias = Literal["r3d", "r2plus1d", "mc3"]


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Sizes of a study.

    Attributes:
        width: base number of channels of the networks.
        base: head of the interpolation network; see :class:`flavr_jax.config.ModelConfig`.
        clips: the synthetic clips.
        labelled: number of training clips.
        tested: number of test clips.
        pretraining: steps of training on interpolation.
        finetuning: steps of training on labels.
        batch_size: clips in a step.
        learning_rate: highest learning rate of pretraining and finetuning.
        compute: dtype of the forward and backward passes; parameters are always float32.
    """

    width: int = 16
    base: Literal["mean", "warp"] = "warp"
    clips: ActionConfig = dataclasses.field(default_factory=ActionConfig)
    labelled: int = 4000
    tested: int = 1000
    pretraining: int = 800
    finetuning: int = 150
    batch_size: int = 64
    learning_rate: float = 2e-3
    compute: Compute = "bfloat16"

    def __post_init__(self) -> None:
        classes = len(actions.CLASSES)
        for name in ("labelled", "tested"):
            if getattr(self, name) % classes or getattr(self, name) < classes:
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}; it is a multiple of {classes}, the number "
                    "of classes."
                )
        if self.clips.frames < 7:
            raise ValueError(
                f"`frames` is {self.clips.frames}; four inputs with a frame between them need 7."
            )


class Pretrained(NamedTuple):
    """An interpolation network, its PSNR in dB on test clips, and the seconds of its training."""

    params: PyTree
    psnr: float
    seconds: float


class Result(NamedTuple):
    """Accuracy on test clips of one classifier, from 0 to 1.

    Attributes:
        encoder: kind of encoder.
        pretrained: whether it began with a pretrained encoder.
        labels: number of labelled clips.
        seed: seed of initial parameters and of the order of clips.
        accuracy: share of test clips classified correctly.
        seconds: seconds of training.
    """

    encoder: Encoder
    pretrained: bool
    labels: int
    seed: int
    accuracy: float
    seconds: float


class Study:
    """Clips on the device, and programs that train on them."""

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        keys = jax.random.split(jax.random.key(0x5E7))
        make = jax.jit(actions.draw_set, static_argnums=(1, 2))
        self._train = make(keys[0], config.labelled, config.clips)
        self._test = make(keys[1], config.tested, config.clips)

    def model(self, encoder: Encoder) -> ModelConfig:
        """Return the interpolation network with an encoder."""
        return ModelConfig(width=self.config.width, encoder=encoder, base=self.config.base)

    def compile(self, encoders: tuple[Encoder, ...]) -> dict[Encoder, list[Future[Any]]]:
        """Compile the programs of each encoder in threads, by training for 0 steps.

        A study can begin with the first encoder while the programs of the others are compiled.
        """
        brief = dataclasses.replace(self.config, pretraining=0, finetuning=0)
        pool = concurrent.futures.ThreadPoolExecutor()
        started: dict[Encoder, list[Future[Any]]] = {
            encoder: [
                pool.submit(self.pretrain, encoder, brief),
                pool.submit(self.finetune, encoder, None, 20, 0, brief),
            ]
            for encoder in encoders
        }
        pool.shutdown(wait=False)  # it goes on with what was submitted
        return started

    def blend(self) -> float:
        """Return the PSNR in dB of the average of the two middle inputs on test clips."""
        windows = interpolation_batch(self._test.clips, np.arange(100))
        middle = windows.inputs[:, 1:3].mean(axis=1, keepdims=True)
        return float(psnr_flavr(middle, windows.targets).mean())

    def pretrain(self, encoder: Encoder, config: StudyConfig | None = None) -> Pretrained:
        """Train an interpolation network on the training clips, without their labels."""
        config = config or self.config
        task = Interpolation(self.model(encoder), losses.parse("charbonnier"))
        params = task.init(jax.random.key(1))
        start = time.perf_counter()
        params = _fit(
            task, self.config, _optimization(config), params, self._train,
            config.pretraining, config.labelled, jax.random.key(2),
        )  # fmt: skip
        jax.block_until_ready(params)
        seconds = time.perf_counter() - start
        return Pretrained(
            params,
            float(_psnr(task.model, _cast(params, config.compute), self._test.clips)),
            seconds,
        )

    def finetune(
        self,
        encoder: Encoder,
        pretrained: Pretrained | None,
        labels: int,
        seed: int,
        config: StudyConfig | None = None,
    ) -> Result:
        """Train a classifier on the first ``labels`` training clips, and test it.

        Args:
            encoder: kind of encoder.
            pretrained: network to take the encoder from; None starts at random.
            labels: number of labelled clips.
            seed: seed of initial parameters and of the order of clips.
            config: sizes, if they are not those of the study.
        """
        config = config or self.config
        task = Classification(
            ClassifierConfig(len(actions.CLASSES), self.model(encoder), dropout=0.0),
            actions.CLASSES,
        )
        params = task.init(jax.random.key(seed))
        if pretrained is not None:
            params = {**params, "encoder": pretrained.params["encoder"]}
        start = time.perf_counter()
        params = _fit(
            task, self.config, _optimization(config), params, self._train,
            config.finetuning, labels, jax.random.key(seed),
        )  # fmt: skip
        accuracy = float(_accuracy(task.config, _cast(params, config.compute), self._test))
        seconds = time.perf_counter() - start
        return Result(encoder, pretrained is not None, labels, seed, accuracy, seconds)

    def results(
        self, encoder: Encoder, pretrained: Pretrained, shares: tuple[float, ...], seeds: int
    ) -> Iterator[Result]:
        """Yield the results for both starts and every share of labels, seed by seed."""
        classes = len(actions.CLASSES)
        for seed in range(seeds):
            for share in shares:
                # Every class has the same number of labels.
                labels = max(1, round(share * self.config.labelled / classes)) * classes
                for start in (None, pretrained):
                    yield self.finetune(encoder, start, labels, seed)


def interpolation_batch(
    clips: Array, numbers: Int[Array, " batch"] | Int[np.ndarray, " batch"]
) -> Batch:
    """Cut windows out of clips: frames 0, 2, 4 and 6 are the inputs, frame 3 is the target."""
    frames = clips[numbers].astype(jnp.float32) / 255.0
    return Batch(frames[:, 0:7:2], frames[:, 3:4], jnp.ones((len(numbers), 1)))


def _cast(params: PyTree, compute: Compute) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, compute), params)


def _optimization(config: StudyConfig) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=config.learning_rate, weight_decay=1e-2)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _fit(
    task: Task,
    config: StudyConfig,
    optimization: OptimizerConfig,
    params: PyTree,
    clips: LabelledSet,
    steps: Int[Array, ""] | int,
    known: Int[Array, ""] | int,
    key: Key[Array, ""],
) -> PyTree:
    """Train on random batches of the first ``known`` clips, with a cosine schedule.

    The number of steps is an argument of the compiled program, so that one program serves all.
    """
    rule = optimizer(optimization)

    def step(number: Array, state: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        params, moments = state
        shape = (config.batch_size,)
        numbers = jax.random.randint(jax.random.fold_in(key, number), shape, 0, known)
        if isinstance(task, Classification):
            frames = clips.clips[numbers].astype(jnp.float32) / 255.0
            batch: Any = LabelledBatch(frames, clips.labels[numbers])
        else:
            batch = interpolation_batch(clips.clips, numbers)

        def loss(params: PyTree) -> Array:
            return task.loss(_cast(params, config.compute), batch, None)[0]

        gradient = jax.grad(loss)(params)
        updates, moments = rule.update(gradient, moments, params)
        done = number / steps
        rate = optimization.learning_rate * jnp.minimum(
            (number + 1) / 20.0, 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        )
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), moments

    return lax.fori_loop(0, steps, step, (params, rule.init(params)))[0]


@functools.partial(jax.jit, static_argnums=0)
def _accuracy(config: ClassifierConfig, params: PyTree, clips: LabelledSet) -> Float[Array, ""]:
    def right(some: LabelledSet) -> Array:
        frames = some.clips.astype(jnp.float32) / 255.0
        return classifier.apply(config, params, frames).argmax(axis=-1) == some.labels

    return _in_parts(right, clips).mean()


@functools.partial(jax.jit, static_argnums=0)
def _psnr(config: ModelConfig, params: PyTree, clips: Array) -> Float[Array, ""]:
    def score(some: Array) -> Array:
        batch = interpolation_batch(some, np.arange(len(some)))
        return psnr_flavr(flavr.apply(config, params, batch.inputs), batch.targets)

    return _in_parts(score, clips).mean()


def _in_parts(function: Callable[[Any], Array], clips: PyTree) -> Array:
    """Apply a function to 20 clips at a time, to save memory."""
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, 20, *leaf.shape[1:]), clips)
    return lax.map(function, parts)
