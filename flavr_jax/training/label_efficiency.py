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
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, Key, PyTree

from flavr_jax import losses, program_cache
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

__all__ = ["Encoder", "Pretrained", "Programs", "Result", "Study", "StudyConfig"]

Encoder: TypeAlias = Literal["r3d", "r2plus1d", "mc3"]
# Less noise and drift than by default, and fewer objects, so that short trainings suffice.
_CLIPS = ActionConfig(size=32, n_others=1, drift=0.2, noise=0.01)


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Sizes of a study.

    Attributes:
        width: base number of channels of the networks.
        base: head of the interpolation network; see :class:`flavr_jax.config.ModelConfig`.
        clips: the synthetic clips.
        labelled: number of training clips.
        validated: number of clips by whose classification the learning rate is chosen.
        tested: number of test clips.
        pretraining: steps of training on interpolation.
        finetuning: steps of training on labels.
        batch_size: clips in a step.
        optimizer: update rule of pretraining and finetuning.
        learning_rate: highest learning rate of pretraining.
        learning_rates: those of finetuning that are tried, once for either start, with the most
            labels; the best is used with fewer labels and other seeds.
        weight_decay: decoupled weight decay of both.
        compute: dtype of the forward and backward passes; parameters are always float32.
    """

    width: int = 16
    base: Literal["mean", "warp"] = "warp"
    clips: ActionConfig = _CLIPS
    labelled: int = 20000
    validated: int = 480
    tested: int = 960
    pretraining: int = 2500
    finetuning: int = 700
    batch_size: int = 64
    optimizer: Literal["adam", "muon"] = "muon"
    learning_rate: float = 2e-3
    learning_rates: tuple[float, ...] = (1e-3, 4e-3)
    weight_decay: float = 1e-2
    compute: Compute = "bfloat16"

    def __post_init__(self) -> None:
        classes = len(actions.CLASSES)
        for name in ("labelled", "validated", "tested"):
            if getattr(self, name) % classes or getattr(self, name) < classes:
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}; use a multiple of {classes}, the number "
                    "of classes."
                )
        if not self.learning_rates:
            raise ValueError("`learning_rates` is empty; give one or more, such as 2e-3.")
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
        learning_rate: highest learning rate.
        validation: accuracy on the clips by which the learning rate is chosen.
        accuracy: share of test clips classified correctly.
        seconds: seconds of training.
    """

    encoder: Encoder
    pretrained: bool
    labels: int
    seed: int
    learning_rate: float
    validation: float
    accuracy: float
    seconds: float


class _Training(NamedTuple):
    """Arguments of a compiled training, so that one program serves all.

    Attributes:
        steps: number of steps.
        known: number of clips to train on, from the first.
        learning_rate: highest learning rate.
        key: random key that determines the batches.
    """

    steps: Int[Array, ""]
    known: Int[Array, ""]
    learning_rate: Float[Array, ""]
    key: Key[Array, ""]

    @classmethod
    def of(cls, steps: int, known: int, learning_rate: float, *, seed: int) -> _Training:
        rate = jnp.float32(learning_rate)
        return cls(jnp.int32(steps), jnp.int32(known), rate, jax.random.key(seed))


class Programs(NamedTuple):
    """Programs of an encoder, which may still be compiled."""

    classification: Future[None]
    interpolation: Future[None]


class Study:
    """Clips on the device, and programs that train on them."""

    def __init__(self, config: StudyConfig) -> None:
        """Begin to draw the clips; compilation can go on at the same time."""
        self.config = config
        self._pool = concurrent.futures.ThreadPoolExecutor()
        self._drawn = self._pool.submit(self._draw)
        self._programs: dict[Task, Callable[..., Any]] = {}

    @functools.cached_property
    def _train(self) -> LabelledSet:
        return jax.tree.map(lambda leaf: leaf[: self.config.labelled], self._drawn.result())

    @functools.cached_property
    def _test(self) -> LabelledSet:
        return jax.tree.map(lambda leaf: leaf[self.config.labelled :], self._drawn.result())

    def _draw(self) -> LabelledSet:
        # Drawn together, because each number of clips would need a program of its own.
        draw = jax.jit(actions.draw_set, static_argnums=(1, 2))
        count = self.config.labelled + self.config.validated + self.config.tested
        return jax.block_until_ready(draw(jax.random.key(0x5E7), count, self.config.clips))

    def model(self, encoder: Encoder) -> ModelConfig:
        """Return the interpolation network with an encoder."""
        return ModelConfig(width=self.config.width, encoder=encoder, base=self.config.base)

    def compile(self, encoder: Encoder) -> Programs:
        """Compile the programs of an encoder in threads."""
        tasks = self._classification(encoder), self._interpolation(encoder)
        return Programs(*(self._pool.submit(self._compile, task) for task in tasks))

    def blend(self) -> float:
        """Return the PSNR in dB of the average of the two middle inputs on test clips."""
        windows = interpolation_batch(self._test.clips, np.arange(min(100, self.config.tested)))
        middle = windows.inputs[:, 1:3].mean(axis=1, keepdims=True)
        return float(psnr_flavr(middle, windows.targets).mean())

    def pretrain(self, encoder: Encoder) -> Pretrained:
        """Train an interpolation network on the training clips, without their labels."""
        task, config = self._interpolation(encoder), self.config
        start = time.perf_counter()
        training = _Training.of(config.pretraining, config.labelled, config.learning_rate, seed=2)
        params, psnr = self._run(task, task.init(jax.random.key(1)), training)
        return Pretrained(params, float(psnr), time.perf_counter() - start)

    def finetune(
        self,
        encoder: Encoder,
        pretrained: Pretrained | None,
        labels: int,
        seed: int,
        learning_rate: float,
    ) -> Result:
        """Train a classifier on the first ``labels`` training clips, and test it.

        Args:
            encoder: kind of encoder.
            pretrained: network to take the encoder from; None starts at random.
            labels: number of labelled clips.
            seed: seed of initial parameters and of the order of clips.
            learning_rate: highest learning rate.
        """
        task = self._classification(encoder)
        params = task.init(jax.random.key(seed))
        if pretrained is not None:
            params = {**params, "encoder": pretrained.params["encoder"]}
        start = time.perf_counter()
        training = _Training.of(self.config.finetuning, labels, learning_rate, seed=seed)
        _, scores = self._run(task, params, training)
        validation, accuracy = np.asarray(scores).tolist()
        return Result(
            encoder, pretrained is not None, labels, seed,
            learning_rate, validation, accuracy, time.perf_counter() - start,
        )  # fmt: skip

    def results(
        self,
        encoder: Encoder,
        programs: Programs,
        shares: tuple[float, ...],
        seeds: int,
        known: Sequence[Result] = (),
    ) -> Iterator[Pretrained | Result]:
        """Yield the pretrained network, and the results for both starts, shares and seeds.

        Random starts are trained while the interpolation network is still compiled. Afterwards the
        two starts take turns, seed by seed, so that an interrupted study can compare them. Results
        in ``known`` are not computed again, and the others use their learning rates.
        """
        classes, labelled = len(actions.CLASSES), self.config.labelled
        # Every class has the same number of labels.
        counts = {max(1, round(share * labelled / classes)) * classes for share in shares}
        wanted = [(labels, seed) for seed in range(seeds) for labels in sorted(counts)[::-1]]
        rates = dict.fromkeys((False, True), self.config.learning_rates)
        rates |= {each.pretrained: (each.learning_rate,) for each in known}
        done = {(each.pretrained, each.labels, each.seed) for each in known}
        random, waiting = ([c for c in wanted if (kind, *c) not in done] for kind in rates)
        pretrained = None

        def best(start: Pretrained | None, labels: int, seed: int) -> Result:
            kind = start is not None
            tried = [self.finetune(encoder, start, labels, seed, rate) for rate in rates[kind]]
            found = max(tried, key=lambda result: result.validation)
            rates[kind] = (found.learning_rate,)
            return found

        programs.classification.result()
        while random or waiting:
            if waiting and pretrained is None and (programs.interpolation.done() or not random):
                programs.interpolation.result()
                pretrained = self.pretrain(encoder)
                yield pretrained
            if pretrained is not None and len(waiting) > len(random):
                yield best(pretrained, *waiting.pop(0))
            else:
                yield best(None, *random.pop(0))

    def _interpolation(self, encoder: Encoder) -> Interpolation:
        return Interpolation(self.model(encoder), losses.parse("charbonnier"))

    def _classification(self, encoder: Encoder) -> Classification:
        config = ClassifierConfig(len(actions.CLASSES), self.model(encoder), dropout=0.0)
        return Classification(config, actions.CLASSES)

    def _run(
        self, task: Interpolation | Classification, params: PyTree, training: _Training
    ) -> tuple[PyTree, Float[Array, "*part"]]:
        """Train and test; see :func:`_train_and_test`."""
        if task not in self._programs:
            self._compile(task)
        return self._programs[task](params, self._train, self._test, training)

    def _compile(self, task: Interpolation | Classification) -> None:
        """Compile the program of a task."""
        config = self.config
        train, test = map(self._shapes, (config.labelled, config.validated + config.tested))
        example = _Training.of(1, 1, 1.0, seed=0)
        lowered = _train_and_test.lower(task, config, task.init(example.key), train, test, example)
        self._programs[task] = program_cache.compile_lowered(lowered, jax.devices()[0])

    def _shapes(self, count: int) -> LabelledSet:
        draw = functools.partial(actions.draw_set, count=count, config=self.config.clips)
        return jax.eval_shape(draw, jax.random.key(0))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train_and_test(
    task: Interpolation | Classification,
    config: StudyConfig,
    params: PyTree,
    clips: LabelledSet,
    tested: LabelledSet,
    training: _Training,
) -> tuple[PyTree, Float[Array, "*part"]]:
    """Train; return the parameters and the score on other clips.

    The score is the PSNR in dB of an interpolation network. A classifier has two, its accuracies on
    the clips for validation and on those for testing.
    """
    params = _fit(task, config, params, clips, training)
    cast = _cast(params, config.compute)
    if isinstance(task, Classification):
        return params, _accuracy(task, config, cast, tested)
    return params, _psnr(task, config, cast, tested)


def interpolation_batch(clips: Array, numbers: Int[Array | np.ndarray, " batch"]) -> Batch:
    """Cut windows out of clips: frames 0, 2, 4 and 6 are the inputs, frame 3 is the target."""
    frames = clips[numbers].astype(jnp.float32) / 255.0
    return Batch(frames[:, 0:7:2], frames[:, 3:4], jnp.ones((len(numbers), 1)))


def _cast(params: PyTree, compute: Compute) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, compute), params)


def _fit(
    task: Task, config: StudyConfig, params: PyTree, clips: LabelledSet, training: _Training
) -> PyTree:
    """Train on random batches of the known clips, with a cosine schedule."""
    rule = optimizer(OptimizerConfig(config.optimizer, weight_decay=config.weight_decay))

    def step(number: Array, state: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        params, moments = state
        shape = (config.batch_size,)
        key = jax.random.fold_in(training.key, number)
        numbers = jax.random.randint(key, shape, 0, training.known)
        if isinstance(task, Classification):
            frames = clips.clips[numbers].astype(jnp.float32) / 255.0
            batch: Any = LabelledBatch(frames, clips.labels[numbers])
        else:
            batch = interpolation_batch(clips.clips, numbers)

        def loss(params: PyTree) -> Array:
            return task.loss(_cast(params, config.compute), batch, None)[0]

        gradient = jax.grad(loss)(params)
        updates, moments = rule.update(gradient, moments, params)
        done = number / training.steps
        rate = training.learning_rate * jnp.minimum(
            (number + 1) / 20.0, 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        )
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), moments

    return lax.fori_loop(0, training.steps, step, (params, rule.init(params)))[0]


def _accuracy(
    task: Classification, config: StudyConfig, params: PyTree, clips: LabelledSet
) -> Float[Array, "2"]:
    def right(some: LabelledSet) -> Array:
        frames = some.clips.astype(jnp.float32) / 255.0
        logits = _as_in_training(lambda p: classifier.apply(task.config, p, frames), params)
        return logits.argmax(axis=-1) == some.labels

    found = _in_parts(right, clips, config.batch_size).reshape(-1)
    parts = jnp.split(found, [config.validated])  # of classes that alternate, both balanced
    return jnp.stack([part.mean() for part in parts])


def _psnr(
    task: Interpolation, config: StudyConfig, params: PyTree, clips: LabelledSet
) -> Float[Array, ""]:
    def score(some: LabelledSet) -> Array:
        batch = interpolation_batch(some.clips, np.arange(len(some.clips)))
        made = _as_in_training(lambda p: flavr.apply(task.model, p, batch.inputs), params)
        return psnr_flavr(made, batch.targets)

    return _in_parts(score, clips, config.batch_size).mean()


def _as_in_training(function: Callable[[PyTree], Array], params: PyTree) -> Array:
    """Return ``function(params)``, computed as where its gradient is taken.

    A GPU runs other kernels where no gradient is taken, which would take as long to compile.
    """
    return jax.vjp(function, params)[0]


def _in_parts(function: Callable[[LabelledSet], Array], clips: LabelledSet, most: int) -> Array:
    """Apply a function to parts of equal size, of ``most`` clips or fewer, to save memory."""
    # Parts as large as the batches of training run the same kernels.
    size = math.gcd(len(clips.labels), most)
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), clips)
    return lax.map(function, parts)
