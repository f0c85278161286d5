# SPDX-License-Identifier: Apache-2.0
"""Speed of training steps: on the same batch every time, and on batches read from disk.

The difference is the cost of reading; more than a few percent means that the device waits for data.
Both cases call the same compiled step and differ in nothing else. A loader with buffered batches
looks faster than it is, so timing begins with an empty buffer, and steps are issued only as fast as
the device executes them.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import jax
import numpy as np
from jaxtyping import PyTree
from PIL import Image

from flavr_jax import losses, program_cache
from flavr_jax.config import ModelConfig
from flavr_jax.data import mixture, pipeline
from flavr_jax.data.sequences import Clip, ImageClip
from flavr_jax.training import inputs, loop, state, step
from flavr_jax.training.optimizers import OptimizerConfig
from flavr_jax.training.parallel import Mapped, Parallel, Strategy
from flavr_jax.training.step import DeviceInputs, SharedInputs, make_signals
from flavr_jax.training.tasks import Interpolation

__all__ = [
    "Format",
    "Measurement",
    "Peer",
    "TrainingCase",
    "measure",
    "measure_peer",
    "rounds",
    "write_clips",
]

Format: TypeAlias = Literal["png", "jpg", "ppm"]

_WARM_UP = 3  # steps before the first round
_ROUNDS = 3
_AHEAD = 2  # steps in the device's queue; more would empty the loader before timing starts

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingCase:
    """A training step to time.

    Attributes:
        model: the network.
        devices: number of devices that share a step.
        batch: windows per device and step.
        crop: side of a window in pixels.
        strategy: how the step is mapped over devices.
        one_target: a window has one target, not all frames that the network predicts.
    """

    model: ModelConfig
    devices: int = 1
    batch: int = 24
    crop: int = 256
    strategy: Strategy = "pmap"
    one_target: bool = False


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Times of a training step; medians of three rounds.

    Attributes:
        implementation: name of the implementation.
        case: the step that was timed.
        fixed_seconds: time of a step on the same batch every time.
        read_seconds: time of a step on batches from disk; None if nothing was read.
        compile_seconds: time until the step could run.
    """

    implementation: str
    case: TrainingCase
    fixed_seconds: float
    read_seconds: float | None
    compile_seconds: float

    @property
    def windows_per_second(self) -> float:
        """Windows per second over all devices, on the same batch every time."""
        return self.case.batch * self.case.devices / self.fixed_seconds

    @property
    def reading_cost(self) -> float | None:
        """Relative increase of a step's time when batches are read: 0.03 is 3 %."""
        return None if self.read_seconds is None else self.read_seconds / self.fixed_seconds - 1.0

    def figures(self) -> dict[str, Any]:
        """Return all values and derived values, for JSON."""
        return {
            **dataclasses.asdict(self),
            "windows_per_second": self.windows_per_second,
            "reading_cost": self.reading_cost,
        }


class Peer(Protocol):
    """Another implementation's training, on one device and one batch."""

    def step(self) -> Any:
        """Issue a step without waiting for it."""
        ...

    def wait(self) -> None:
        """Wait for all steps issued so far."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


def measure(
    cases: list[TrainingCase], clips: tuple[Clip, ...], *, seconds: float, workers: int
) -> Iterator[Measurement]:
    """Compile all cases at once, then time them one after the other.

    A case that the device cannot run, for example for lack of memory, is logged and skipped.

    Args:
        cases: the steps to time.
        clips: clips to read windows from; if empty, only the fixed batch is timed.
        seconds: approximate length of a round.
        workers: number of processes that read.
    """
    # XLA compiles without the GIL, so threads compile in parallel.
    with ThreadPoolExecutor(len(cases)) as pool:
        compiling = [pool.submit(_compile, case) for case in cases]
    for case, compiled in zip(cases, compiling):
        try:
            found = _time_steps(case, *compiled.result(), clips, seconds, workers)
        except jax.errors.JaxRuntimeError as error:
            logger.error("%s left out: %s", _name(case), str(error).partition("\n")[0])
        else:
            yield found


def measure_peer(
    name: str,
    make: Callable[..., Peer],
    cases: list[TrainingCase],
    clips: tuple[Clip, ...],
    *,
    seconds: float,
    workers: int,
) -> Iterator[Measurement]:
    """Time another implementation's steps on a fixed batch; cases of several devices are skipped.

    Args:
        name: name of the implementation in the measurements.
        make: creates the peer from the config and parameters of a network, and the inputs, targets
            and weights of a batch; with one target, also from the index of each window's target.
        cases: the steps to time.
        clips: not used; present so that the signature is that of :func:`measure`.
        seconds: approximate length of a round.
        workers: not used, likewise.
    """
    for case in cases:
        if case.devices > 1:
            continue
        params = _fresh(case).params
        started = time.perf_counter()
        peer = make(case.model, params, *_peers_batch(case))
        peer.step()
        peer.wait()
        seconds_to_compile = time.perf_counter() - started
        logger.info("%s of %s ready in %.0f s", _name(case), name, seconds_to_compile)
        fixed = rounds(peer.step, peer.wait, seconds)
        peer.close()
        yield Measurement(name, case, fixed, None, seconds_to_compile)


def write_clips(folder: Path, kind: Format, *, count: int = 64) -> tuple[Clip, ...]:
    """Write septuplets of Vimeo-90K's size: moving textures that compress like photographs.

    Args:
        folder: parent of the clips' folders.
        kind: suffix of the image files.
        count: number of clips.
    """
    rng = np.random.default_rng(0)
    clips = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (40, 64, 3), np.uint8))
        texture = np.asarray(coarse.resize((512, 320), Image.Resampling.BICUBIC), np.int16)
        texture = np.clip(texture + rng.integers(-6, 7, texture.shape), 0, 255).astype(np.uint8)
        paths = []
        for time_ in range(7):
            path = folder / f"{number:03d}" / f"{time_}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            window = texture[4 * time_ : 4 * time_ + 256, 8 * time_ : 8 * time_ + 448]
            Image.fromarray(window).save(path)
            paths.append(path)
        clips.append(ImageClip(str(number), tuple(paths)))
    return tuple(clips)


def _time_steps(
    case: TrainingCase,
    run: Mapped,
    seconds_to_compile: float,
    clips: tuple[Clip, ...],
    seconds: float,
    workers: int,
) -> Measurement:
    """Time a compiled step on a fixed batch and on batches that are read."""
    parallel = _mapping(case)
    current = parallel.replicate(_fresh(case))
    shared = SharedInputs(np.float32(1e-4), None)
    issued: collections.deque[PyTree] = collections.deque()

    def seconds_of(batches: Iterator[DeviceInputs]) -> float:
        def step() -> None:
            nonlocal current
            current, metrics = run(current, shared, next(batches))
            issued.append(metrics)
            if len(issued) > _AHEAD:
                jax.block_until_ready(issued.popleft())

        return rounds(step, lambda: jax.block_until_ready(current), seconds)

    fixed = DeviceInputs(parallel.distribute(_noise(case)), make_signals(parallel))
    fixed_seconds, read_seconds = seconds_of(itertools.repeat(fixed)), None
    if clips:
        reading = _reading(case, clips, workers)
        for _ in range(pipeline.BUFFERED_BATCHES * (1 + workers)):
            next(reading)
        read_seconds = seconds_of(reading)
    return Measurement("flavr_jax", case, fixed_seconds, read_seconds, seconds_to_compile)


def rounds(step: Callable[[], Any], wait: Callable[[], Any], seconds: float) -> float:
    """Return the seconds per step: the median of three rounds, after a warm-up and without pauses.

    Args:
        step: starts a step.
        wait: waits for all steps started so far.
        seconds: approximate length of a round.
    """

    def steps(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        return (time.perf_counter() - started) / count

    steps(1)  # includes any set-up in the first step
    estimate = steps(_WARM_UP)
    count = max(_WARM_UP, round(seconds / estimate))
    return statistics.median(steps(count) for _ in range(_ROUNDS))


def _reading(case: TrainingCase, clips: tuple[Clip, ...], workers: int) -> Iterator[DeviceInputs]:
    """Yield batches of windows read from clips, endlessly."""
    parallel = _mapping(case)
    feed, signals = _inputs(case, clips, workers).feed(parallel), make_signals(parallel)
    while True:
        yield DeviceInputs(next(feed), signals)


def _compile(case: TrainingCase) -> tuple[Mapped, float]:
    """Compile the step, and return it and the time that this took in seconds."""
    parallel = _mapping(case)
    mapped = step.make_step(
        Interpolation(case.model, losses.parse("l1")),
        _inputs(case, (), 0),
        OptimizerConfig(),
        parallel,
    )
    shared = SharedInputs(np.float32(1e-4), None)
    own = DeviceInputs(parallel.distribute(_noise(case)), make_signals(parallel))
    current = parallel.replicate(_fresh(case))
    started = time.perf_counter()
    compiled = loop.compiled(mapped, (current, shared, own), f"step of {case}", parallel)
    if compiled is mapped:  # the first call would compile it
        lowered = mapped.lower(current, shared, own)  # type: ignore[attr-defined]
        compiled = program_cache.compile_lowered(lowered, parallel.local[0])
    seconds = time.perf_counter() - started
    logger.info("%s ready in %.0f s", _name(case), seconds)
    return compiled, seconds


def _name(case: TrainingCase) -> str:
    """Name a case for messages."""
    return f"width {case.model.width} on {case.devices} device{'s' if case.devices > 1 else ''}"


def _mapping(case: TrainingCase) -> Parallel:
    """Return the first ``case.devices`` devices of this machine."""
    return Parallel(case.strategy, tuple(jax.local_devices()[: case.devices]))


def _fresh(case: TrainingCase) -> state.TrainState:
    """Return the state before the first step."""
    task = Interpolation(case.model, losses.parse("l1"))
    return state.create(task.init(jax.random.key(0)), OptimizerConfig(), 0)


def _inputs(case: TrainingCase, clips: tuple[Clip, ...], workers: int) -> inputs.Read:
    """Return inputs that read windows of the case's size; none are synthetic."""
    config = mixture.MixtureConfig(
        crop=case.crop,
        batch_size=case.batch * case.devices,
        synthetic_share=0.0,
        one_target=case.one_target,
    )
    # The workers share the cores.
    threads = max(1, (os.cpu_count() or 1) // max(1, workers))
    reading = inputs.ReadConfig(threads=min(threads, 16), workers=workers)
    return inputs.Read(case.model.n_outputs, clips, reading, config)


def _noise(case: TrainingCase) -> pipeline.Window:
    """Return a batch of noise; a step takes as long on it as on real frames."""
    rng = np.random.default_rng(0)
    count, side, outputs = case.batch * case.devices, case.crop, case.model.n_outputs
    return pipeline.Window(
        rng.integers(0, 256, (count, 4, side, side, 3), np.uint8),
        rng.integers(0, 256, (count, outputs, side, side, 3), np.uint8),
        np.ones((count, outputs), np.float32),
    )


def _peers_batch(case: TrainingCase) -> tuple[np.ndarray, ...]:
    """Return a batch of noise for a peer, which does not choose targets itself."""
    inputs, targets, weights = _noise(case)
    if not case.one_target:
        return inputs, targets, weights
    chosen = np.random.default_rng(1).integers(0, case.model.n_outputs, (len(inputs), 1))
    targets = np.take_along_axis(targets, chosen[:, :, None, None, None], 1)
    return inputs, targets, np.take_along_axis(weights, chosen, 1), chosen
