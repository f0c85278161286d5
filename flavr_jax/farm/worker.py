# SPDX-License-Identifier: Apache-2.0
"""Steps by which workers render a clip in a farm.

A step returns its result and its warnings, which the head shows.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from flavr_jax.farm import plan
from flavr_jax.farm.clip import Clip, Plan, Setup, Stretch, Times
from flavr_jax.inference import job, stream
from flavr_jax.inference.interpolator import Interpolator, load
from flavr_jax.inference.options import Resources
from flavr_jax.inference.pipeline import Pipeline
from flavr_jax.timeline.clock import output_info
from flavr_jax.timeline.keys import Key
from flavr_jax.timeline.schedule import Request
from flavr_jax.video.files import sinks
from flavr_jax.video.frames import FrameSink, FrameSource, MappedSink, TimedFrame
from flavr_jax.video.journal.journal import Part

__all__ = ["STEPS", "WITHOUT_NETWORK", "Hand", "Step"]

Step: TypeAlias = Literal["prepare", "scan", "render", "join", "whole"]
Result = TypeVar("Result")

_STALLED = 120.0  # seconds that a decoder may work on one frame
_AHEAD = 16  # made frames that wait to be encoded
_NO_PIXELS = np.zeros((1, 1, 3), np.uint8)


def _step(function: Callable[..., Result]) -> Callable[..., tuple[Result, list[str]]]:
    """Return a function that also returns the warnings that were logged meanwhile."""

    @functools.wraps(function)
    def run(*arguments: Any) -> tuple[Any, list[str]]:
        heard = _Warnings()
        logger = logging.getLogger("flavr_jax")
        logger.addHandler(heard)
        try:
            return function(*arguments), heard.messages
        finally:
            logger.removeHandler(heard)

    return run


class _Warnings(logging.Handler):
    """Collects warnings, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (message := record.getMessage()) not in self.messages:
            self.messages.append(message)


@_step
def prepare(clip: Clip) -> Setup:
    """Determine how a clip is rendered on this kind of machine.

    Raises:
        OSError: the input cannot be read.
        ValueError: the clip cannot be rendered as the options ask; the message says why.
    """
    source, network = clip.source.open(clip.path), _network(clip)
    info = output_info(source.info, clip.motion.timing)
    grid = stream.grid_of(network, clip.motion)
    fitted = network.fit(
        source.info.height,
        source.info.width,
        max(grid.levels or (network.factor,)),
        Resources(memory_limit=clip.memory_limit, tiles=clip.tiles),
        clip.motion.batch,
    )
    return Setup(
        _facts(clip, network),
        info,
        grid,
        fitted.batch,
        fitted.tiling,
        margin=network.config.n_inputs,
        # Other sources can only be read from their beginning.
        splittable=hasattr(source, "since")
        and sinks.is_splittable(clip.output, info, clip.encoding),
    )


@_step
def scan(clip: Clip, setup: Setup) -> Plan:
    """List the frames of a clip; see :func:`flavr_jax.farm.plan.scan`."""
    return plan.scan(clip, setup)


@_step
def render(clip: Clip, setup: Setup, stretch: Stretch, folder: Path) -> int:
    """Render a stretch of a clip into the journal's folder; return the number of frames.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: this worker would render the clip differently, or its input has changed.
    """
    network = _checked(clip, setup)
    part = Part(folder, setup.job(clip), stretch.first, last=stretch.last)
    source = clip.source.open(clip.path)
    with tempfile.TemporaryDirectory(prefix="flavr-farm-") as scratch:
        sink = sinks.open_sink(
            str(Path(scratch) / Path(clip.output).name),
            setup.info,
            source=None,
            encoding=clip.encoding,
            job=part,
        )
        with sink, Pipeline("encode") as pipeline:
            found = _with_pixels(source, stretch, clip.path)
            rows = pipeline.stage("decode", found, limit=_STALLED)
            made = stream.computed(
                rows, network, setup.grid, batch=setup.batch, conversion=sink.conversion
            )
            computed = pipeline.stage("network", made, capacity=_AHEAD, patience=600.0)
            fetched = stream.fetched(computed, sink.conversion)
            ready = pipeline.stage("download", fetched, capacity=_AHEAD)
            # Frames before the first segment have no pixels; they complete the first batch.
            wanted = itertools.islice(ready, stretch.skipped, None)
            for (pts, duration), frame in zip(stretch.times, wanted, strict=False):
                sink.write(TimedFrame(frame.picture, pts, duration, frame.stored))
    return len(stretch.times)


@_step
def join(clip: Clip, setup: Setup, times: Times) -> int:
    """Write the output from its finished segments, with sound and subtitles.

    Returns:
        The number of packets of sound and subtitles that were left out because they are broken.

    Raises:
        OSError: a file cannot be read or written, or segments are gone.
    """
    with _output(clip, setup, clip.source.open(clip.path)) as sink:
        if getattr(sink, "done", 0) < len(times):
            raise OSError(f"{clip.output}: finished segments are gone. Run the same command again.")
        writer = sink
        while isinstance(writer, MappedSink):
            writer = writer.inner  # there are no pixels to change
        for pts, duration in times:
            writer.write(TimedFrame(_NO_PIXELS, pts, duration))
    return getattr(sink, "broken", 0)


@_step
def whole(clip: Clip, setup: Setup) -> tuple[stream.Summary, str | None]:
    """Render a whole clip; return counts of frames, and a reason if the input is damaged."""
    network, summary = _checked(clip, setup), stream.Summary()
    source = clip.source.open(clip.path)
    motion = dataclasses.replace(clip.motion, batch=setup.batch)
    sink = _output(clip, setup, source)
    with sink, Pipeline("encode") as pipeline:
        frames = stream.overlapped(
            pipeline, source, network, motion, summary, sink.conversion,
            getattr(sink, "done", 0), _STALLED,
        )  # fmt: skip
        for frame in frames:
            sink.write(frame)
    return summary, source.damage


STEPS: dict[Step, Callable[..., tuple[Any, list[str]]]] = {
    "prepare": prepare,
    "scan": scan,
    "render": render,
    "join": join,
    "whole": whole,
}
"""Steps by name."""

WITHOUT_NETWORK: tuple[Step, ...] = ("scan", "join")
"""Steps that need no GPU."""


class Hand:
    """A worker: a process of its own, which keeps the network that it has loaded."""

    def ready(self) -> None:
        """Return at once; the head calls it to learn that the process has started."""

    def run(self, step: Step, *arguments: Any) -> tuple[Any, list[str]]:
        """Run a step; return its result and its warnings."""
        return STEPS[step](*arguments)


def _output(clip: Clip, setup: Setup, source: FrameSource) -> FrameSink:
    """Open the output, with the journal beside it."""
    return sinks.open_sink(
        clip.output,
        setup.info,
        source=clip.path,
        stretch=Fraction(clip.motion.timing.stretch),
        span=getattr(source, "span", None),
        encoding=clip.encoding,
        overwrite=clip.overwrite,
        job=setup.job(clip),
        pictures_only=clip.source.sandbox,
    )


def _with_pixels(
    source: FrameSource, stretch: Stretch, path: Path
) -> Iterator[tuple[Key, list[Request]]]:
    """Yield the keys of a stretch with their pixels and requests.

    Raises:
        ValueError: the input has changed since its keys were found.
    """
    since = getattr(source, "since")  # noqa: B009  # only some sources can seek
    frames = since(next(iter(stretch.wishes.pts)))
    for link, pts, requests in plan.rows(stretch):
        frame = next((frame for frame in frames if frame.pts >= pts), None)
        if frame is None or frame.pts != pts:
            raise ValueError(
                f"{path} has no frame at {float(pts):.6g} s any more; leave inputs unchanged "
                "while they are rendered, and run the same command again."
            )
        yield Key(frame, link, pts, ()), requests


def _checked(clip: Clip, setup: Setup) -> Interpolator:
    """Return the network, prepared like that of all other workers.

    Raises:
        ValueError: this worker's frames would differ.
    """
    network = _network(clip)
    # With other free memory, this worker would choose another division.
    network.tiling = setup.tiling
    here = _facts(clip, network)
    for name, value in setup.facts.items():
        if here[name] != value:
            raise ValueError(
                f"{clip.path}: workers differ in {name}: {here[name]} here, {value} on another. "
                "Use workers of one kind, and leave inputs unchanged while they are rendered."
            )
    return network


def _facts(clip: Clip, network: Interpolator) -> dict[str, str]:
    shared = job.facts(clip.path, clip.source, clip.motion, clip.encoding, clip.checkpoint, network)
    return {**shared, "cores": str(clip.cpus)}


def _network(clip: Clip) -> Interpolator:
    """Load the network, or return it if this process has it already."""
    # XLA's client for CPUs reads it when it starts; without it, a worker would take all cores.
    os.environ["PJRT_NPROC"] = str(clip.cpus)
    return _loaded(clip.checkpoint, clip.precision)


@functools.lru_cache(maxsize=1)
def _loaded(checkpoint: Path | None, precision: str) -> Interpolator:
    return load(checkpoint, precision=precision)  # pyright: ignore[reportArgumentType]
