# SPDX-License-Identifier: Apache-2.0
"""How fast training steps are: with one batch over and over, and with batches read from disk.

The difference is what reading costs; where it is more than a few percent, the device waits. Both
are calls of the same compiled step, so they differ in nothing else. A loader with batches in store
would look faster than it is: it is timed from where it has none, and steps are issued only as fast
as the device takes them.
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

from flavr_jax import losses
from flavr_jax.config import ModelConfig
from flavr_jax.data import mixture, pipeline
from flavr_jax.data.sequences import Clip, ImageClip
from flavr_jax.training import inputs, state, step
from flavr_jax.training.optimizers import OptimizerConfig
from flavr_jax.training.parallel import Mapped, Parallel, Strategy
from flavr_jax.training.tasks import Interpolation

__all__ = ["Case", "Format", "Measurement", "Peer", "measure", "measure_peer", "write_clips"]

Format: TypeAlias = Literal["png", "jpg", "ppm"]

_WARM_UP = 3
_ROUNDS = 3
_AHEAD = 2  # steps that wait for the device; more would empty the loader before its batches count

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        model: the network.
        devices: how many share a step.
        batch: windows a device and step.
        crop: side of a window.
        strategy: how the step is spread over devices.
    """

    model: ModelConfig
    devices: int = 1
    batch: int = 24
    crop: int = 256
    strategy: Strategy = "pmap"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What came out; times are medians of three rounds.

    Attributes:
        implementation: whose training step it is.
        case: what was timed.
        fixed_seconds: of a step on the same batch every time.
        read_seconds: of a step on batches from disk; None where nothing was read.
        compile_seconds: until the step could run.
    """

    implementation: str
    case: Case
    fixed_seconds: float
    read_seconds: float | None
    compile_seconds: float

    @property
    def windows_per_second(self) -> float:
        """Of the steps on one batch, over all devices."""
        return self.case.batch * self.case.devices / self.fixed_seconds

    @property
    def reading_cost(self) -> float | None:
        """How much longer a step takes that waits for its batch: 0.03 is 3 %."""
        return None if self.read_seconds is None else self.read_seconds / self.fixed_seconds - 1.0

    def figures(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            **dataclasses.asdict(self),
            "windows_per_second": self.windows_per_second,
            "reading_cost": self.reading_cost,
        }


class Peer(Protocol):
    """Another implementation of training, on one device and one batch."""

    def step(self) -> Any:
        """Take a step, without waiting for it."""
        ...

    def wait(self) -> None:
        """Return when all steps are done."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


def measure(
    cases: list[Case], clips: tuple[Clip, ...], *, seconds: float, workers: int
) -> Iterator[Measurement]:
    """Time the cases one after the other; all are compiled first, at once.

    A case that the device cannot run, for lack of memory say, is logged and left out.

    Args:
        cases: what to time.
        clips: to read windows from; none times the fixed batch alone.
        seconds: that each round of each kind takes, about.
        workers: processes that read.
    """
    with ThreadPoolExecutor(len(cases)) as pool:
        compiling = [pool.submit(_compile, case) for case in cases]
    for case, compiled in zip(cases, compiling):
        try:
            found = _time(case, *compiled.result(), clips, seconds, workers)
        except jax.errors.JaxRuntimeError as error:
            logger.error("%s left out: %s", _name(case), str(error).partition("\n")[0])
        else:
            yield found


def measure_peer(
    name: str,
    make: Callable[..., Peer],
    cases: list[Case],
    clips: tuple[Clip, ...],
    *,
    seconds: float,
    workers: int,
) -> Iterator[Measurement]:
    """Time another implementation's steps on a fixed batch, where a case is of one device.

    Args:
        name: what it is called in the measurements.
        make: it, from a network's config, parameters, and a batch's inputs, targets and weights.
        cases: what to time.
        clips: not read.
        seconds: that each round takes, about.
        workers: not used.
    """
    for case in cases:
        if case.devices > 1:
            continue
        params = _fresh(case).params
        started = time.perf_counter()
        peer = make(case.model, params, *_noise(case))
        peer.step()
        peer.wait()
        seconds_to_compile = time.perf_counter() - started
        logger.info("%s of %s ready in %.0f s", _name(case), name, seconds_to_compile)
        fixed = _rounds(peer.step, peer.wait, seconds)
        peer.close()
        yield Measurement(name, case, fixed, None, seconds_to_compile)


def write_clips(folder: Path, kind: Format, *, count: int = 64) -> tuple[Clip, ...]:
    """Septuplets of Vimeo-90K's size, of moving textures that compress as photographs do."""
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


def _time(
    case: Case,
    run: Mapped,
    seconds_to_compile: float,
    clips: tuple[Clip, ...],
    seconds: float,
    workers: int,
) -> Measurement:
    parallel = _mapping(case)
    current = parallel.replicate(_fresh(case))
    shared = {"learning_rate": np.float32(1e-4), "resident": None}

    issued: collections.deque[PyTree] = collections.deque()

    def seconds_of(batches: Iterator[dict[str, Any]]) -> float:
        def step() -> None:
            nonlocal current
            current, metrics = run(current, shared, next(batches))
            issued.append(metrics)
            if len(issued) > _AHEAD:
                jax.block_until_ready(issued.popleft())

        return _rounds(step, lambda: jax.block_until_ready(current), seconds)

    fixed = _own(case, parallel.distribute(_noise(case)))
    fixed_seconds, read_seconds = seconds_of(itertools.repeat(fixed)), None
    if clips:
        reading = _reading(case, clips, workers)
        for _ in range(pipeline.BUFFERED_BATCHES * (1 + workers)):
            next(reading)
        read_seconds = seconds_of(reading)
    return Measurement("flavr_jax", case, fixed_seconds, read_seconds, seconds_to_compile)


def _rounds(step: Callable[[], Any], wait: Callable[[], Any], seconds: float) -> float:
    """Seconds a step: the median of rounds that follow a warm-up, and one another at once."""

    def steps(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        return (time.perf_counter() - started) / count

    steps(1)
    estimate = steps(_WARM_UP)
    count = max(_WARM_UP, round(seconds / estimate))
    return statistics.median(steps(count) for _ in range(_ROUNDS))


def _reading(case: Case, clips: tuple[Clip, ...], workers: int) -> Iterator[dict[str, Any]]:
    feed = _inputs(case, clips, workers).feed(_mapping(case))
    while True:
        yield _own(case, next(feed))


def _compile(case: Case) -> tuple[Mapped, float]:
    """The step as machine code, and how long that took."""
    parallel = _mapping(case)
    mapped = step.make_step(
        Interpolation(case.model, losses.parse("l1")),
        _inputs(case, (), 0),
        OptimizerConfig(),
        parallel,
    )
    shared = {"learning_rate": np.float32(1e-4), "resident": None}
    own = _own(case, parallel.distribute(_noise(case)))
    current = parallel.replicate(_fresh(case))
    started = time.perf_counter()
    compiled = mapped.lower(current, shared, own).compile()  # type: ignore[attr-defined]
    seconds = time.perf_counter() - started
    logger.info("%s ready in %.0f s", _name(case), seconds)
    return compiled, seconds


def _name(case: Case) -> str:
    return f"width {case.model.width} on {case.devices} device{'s' if case.devices > 1 else ''}"


def _mapping(case: Case) -> Parallel:
    return Parallel(case.strategy, tuple(jax.local_devices()[: case.devices]))


def _fresh(case: Case) -> state.TrainState:
    task = Interpolation(case.model, losses.parse("l1"))
    return state.create(task.init(jax.random.key(0)), OptimizerConfig(), 0)


def _inputs(case: Case, clips: tuple[Clip, ...], workers: int) -> inputs.Read:
    config = mixture.MixtureConfig(
        crop=case.crop, batch_size=case.batch * case.devices, synthetic_share=0.0
    )
    threads = max(1, (os.cpu_count() or 1) // max(1, workers))
    reading = inputs.ReadConfig(threads=min(threads, 16), workers=workers)
    return inputs.Read(case.model.n_outputs, clips, reading, config)


def _noise(case: Case) -> pipeline.Window:
    """A batch of windows in which nothing can be learned."""
    rng = np.random.default_rng(0)
    count, side, outputs = case.batch * case.devices, case.crop, case.model.n_outputs
    return pipeline.Window(
        rng.integers(0, 256, (count, 4, side, side, 3), np.uint8),
        rng.integers(0, 256, (count, outputs, side, side, 3), np.uint8),
        np.ones((count, outputs), np.float32),
    )


def _own(case: Case, fetched: PyTree) -> dict[str, Any]:
    signals = _mapping(case).distribute({"stop": np.zeros(case.devices, np.float32)})
    return {"fetched": fetched, "signals": signals}
