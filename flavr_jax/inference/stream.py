# SPDX-License-Identifier: Apache-2.0
"""Interpolation of a clip of any length, frame by frame, in bounded memory.

There are four stages, each a generator that reads from the one before. First, frames become keys,
which record where shots end and which frames repeat. Second, the schedule lists the frames to show
between two keys. Third, passes through the network fill the intervals that need it; times finer
than one pass can make take further passes over the result. Last, the requested frames are yielded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

import numpy as np

from flavr_jax.inference.computation import Made
from flavr_jax.inference.device_threads import Dispatched, Spread
from flavr_jax.inference.options import Options
from flavr_jax.inference.passes import Network, Node, fill
from flavr_jax.inference.pipeline import Pipeline
from flavr_jax.timeline import keys, schedule
from flavr_jax.timeline.clock import Clock
from flavr_jax.timeline.keys import Key, LinkedFrames
from flavr_jax.timeline.schedule import Grid, Request
from flavr_jax.typing import Frame
from flavr_jax.video.frames import TimedFrame
from flavr_jax.video.pixels.conversion import Conversion
from flavr_jax.video.pixels.picture import Planar

__all__ = [
    "Options",
    "Summary",
    "computed",
    "counted",
    "fetched",
    "grid_of",
    "interpolate",
    "overlapped",
]

Item = TypeVar("Item")

_READ, _AHEAD = 4, 16
"""Most read frames, and most made frames, that wait for the next stage; those of a batch always do.

The frames of a batch come all at once. If they had no room, two threads would take turns at them.
"""

_FINEST = 4096  # parts of an interval


@dataclasses.dataclass
class Summary:
    """Counts of one run, updated while the clip streams by.

    Attributes:
        frames_in: frames read.
        frames_out: frames yielded.
        cuts: cuts found.
        cut_times: their times in the input, in seconds.
        repeats: frames left out because they repeat others.
        largest_error: the largest distance, in seconds of the output, between an interpolated
            frame's own time and the time of the motion that it shows.
    """

    frames_in: int = 0
    frames_out: int = 0
    cuts: int = 0
    cut_times: list[Fraction] = dataclasses.field(default_factory=list, compare=False)
    repeats: int = 0
    largest_error: Fraction = Fraction(0)

    def __str__(self) -> str:
        parts = [f"{self.frames_in} frames → {self.frames_out} frames"]
        if self.cuts:
            parts.append(f"{self.cuts} cut{'s' if self.cuts > 1 else ''} kept")
        if self.repeats:
            parts.append(f"{self.repeats} repeated frame{'s' if self.repeats > 1 else ''} left out")
        if self.largest_error:
            parts.append(f"at most {float(self.largest_error) * 1000:.2g} ms off their times")
        return ", ".join(parts)


def interpolate(
    frames: Iterable[TimedFrame] | LinkedFrames,
    network: Network,
    options: Options = Options(),
    *,
    summary: Summary | None = None,
    conversion: Conversion | None = None,
    done: int = 0,
    finest: int = _FINEST,
) -> Iterator[TimedFrame]:
    """Yield the requested frames, each with its time, lazily.

    Made frames are computed when they are yielded, but still on the device: ``frame.pixels``
    fetches them.

    Frames of the input that are among them are unchanged, except for their pts and duration in the
    output. Without ``fps``, n frames become ``(n − 1) · factor + 1``, whether or not there are cuts
    and repeats. The output begins exactly when the input does and, unless time is stretched, ends
    exactly when it ends.

    Args:
        frames: with increasing pts, all of one size and type.
        network: such as ``flavr_jax.load()``.
        options: which frames to make.
        summary: counts that are updated as frames are yielded.
        conversion: to the planes that made frames will be asked for, which the device can then
            convert and send early; None for RGB.
        done: number of frames that an earlier run has made. They are yielded with wrong pixels,
            since the network does not compute them; all others are the same as without ``done``.
        finest: number of parts that passes may split an interval into, for times off the network's
            grid. Every pass that may be needed reads 2 frames ahead.

    Raises:
        ValueError: the factor cannot be made; raised before any frame is read.
        NonFiniteError: the network predicted NaN or infinity; raised while frames are yielded.
    """
    summary = Summary() if summary is None else summary
    found = _keys(frames, options)
    return _between_keys(found, network, options, summary, conversion, done, finest)


def _keys(frames: Iterable[TimedFrame] | LinkedFrames, options: Options) -> Iterator[Key]:
    """Yield the keys of a clip, lazily; see :func:`flavr_jax.timeline.keys.find_keys`."""
    return keys.find_keys(frames, cuts=options.cut != "ignore", repeats=options.dedup)


def _between_keys(
    found: Iterable[Key],
    network: Network,
    options: Options,
    summary: Summary,
    conversion: Conversion | None,
    done: int,
    finest: int = _FINEST,
) -> Iterator[TimedFrame]:
    """Yield the requested frames of a clip with these keys; see :func:`interpolate`."""
    grid = grid_of(network, options, finest)
    clock = Clock(options.timing)
    plan = counted(schedule.schedule(found, clock, grid, cut=options.cut), summary, done)
    frames = computed(plan, network, grid, batch=options.batch or 1, conversion=conversion)
    return _outputs(frames, clock, summary)


def computed(
    plan: Iterable[tuple[Key, list[Request]]],
    network: Network,
    grid: Grid,
    *,
    batch: int = 1,
    conversion: Conversion | None = None,
) -> Iterator[TimedFrame]:
    """Yield a frame for each request of a plan, lazily; see :func:`interpolate`.

    Args:
        plan: keys with the numbered requests from their times on.
        network: such as ``flavr_jax.load()``.
        grid: the times that the requests' positions were placed on.
        batch: intervals computed at a time.
        conversion: to the planes that made frames will be asked for; None for RGB.
    """
    nodes = _nodes(plan)
    # Chain the passes: each reads the output of the one before and splits it further.
    for number, level in enumerate(grid.levels, 1):
        last = number == len(grid.levels)
        nodes = fill(nodes, network, level, batch=batch, last=last, conversion=conversion)
    for node in nodes:
        frame = node.frame
        for request in node.wanted:
            for wish in request.each():
                yield TimedFrame(frame.picture, wish.pts, wish.duration, frame.stored)


def fetched(
    frames: Iterable[TimedFrame], conversion: Conversion | None = None
) -> Iterator[TimedFrame]:
    """Yield frames with all pixels on the host, so that the device can forget them.

    Args:
        frames: of :func:`interpolate`.
        conversion: to the planes that made frames are fetched as; None for RGB.
    """
    for frame in frames:
        if isinstance(frame.picture, Made):
            picture = frame.picture.fetched(conversion)
            frame = TimedFrame(picture, frame.pts, frame.duration, frame.stored)
        yield frame


def overlapped(
    pipeline: Pipeline,
    frames: Iterable[TimedFrame] | LinkedFrames,
    network: Network,
    options: Options,
    summary: Summary,
    conversion: Conversion | None,
    done: int = 0,
    stalled: float | None = 120.0,
) -> Iterator[TimedFrame]:
    """Yield the frames of :func:`interpolate`, fetched, while others are decoded and computed.

    Args:
        pipeline: runs the stages; its consumer is the caller.
        frames: see :func:`interpolate`.
        network: likewise.
        options: likewise.
        summary: likewise.
        conversion: to the planes that the caller stores, or None for RGB.
        done: see :func:`interpolate`.
        stalled: seconds after which a decoder that works on one frame is given up; None for never.

    Raises:
        TimeoutError: the decoder has stalled.
    """
    batch = options.batch or 1
    read, ahead = max(_READ, 2 * batch), max(_AHEAD, batch * network.factor)
    if isinstance(frames, LinkedFrames):
        found = pipeline.stage("decode", _keys(frames, options), capacity=read, limit=stalled)
    else:
        decoded = pipeline.stage("decode", _gathered(frames), capacity=read, limit=stalled)
        # The search for cuts may not keep the network's thread from feeding a GPU. Thumbnails
        # belong to it: with a thread of their own, both wait for Python's lock more often.
        found = pipeline.stage("cuts", _keys(decoded, options), capacity=read)
    if isinstance(network, Spread):
        network = Dispatched(network, pipeline)
    made = _between_keys(found, network, options, summary, conversion, done)
    # The first frame may wait for the network to be compiled.
    computed = pipeline.stage("network", made, capacity=ahead, patience=600.0)
    return pipeline.stage("download", fetched(computed, conversion), capacity=ahead)


def _gathered(frames: Iterable[TimedFrame]) -> Iterator[TimedFrame]:
    """Yield frames whose planes are in one array each, which the search for cuts would wait for."""
    for frame in frames:
        if isinstance(frame.picture, Planar):
            frame.picture.samples  # noqa: B018 - it is kept
        yield frame


def grid_of(network: Network, options: Options, finest: int = _FINEST) -> Grid:
    """Return the times at which frames may be made: those of the factor, or finer ones.

    ``fps`` and ``dedup`` need finer times.
    """
    levels = network.passes(options.timing.factor) if options.timing.fps is None else []
    if options.timing.fps is not None or options.dedup:
        # Frames may be due anywhere inside an interval, so go as fine as the limit allows.
        levels = [network.factor] * math.ceil(math.log(finest, network.factor))
    return Grid(tuple(levels), options.largest_error if options.exact_times else None)


def counted(
    plan: Iterable[tuple[Key, list[Request]]], summary: Summary, done: int = 0
) -> Iterator[tuple[Key, list[Request]]]:
    """Number the requests of a plan, and update the counts in ``summary``."""
    number = 1
    for key, requests in plan:
        # The first key has the link `cut`, too, but nothing before it.
        if key.link == "cut" and summary.frames_in > 0:
            summary.cuts += 1
            summary.cut_times.append(key.time)
        summary.frames_in += len(key.shown)
        summary.repeats += len(key.shown) - 1
        errors = [wish.error for wish in requests if wish.error.numerator]
        summary.largest_error = max([summary.largest_error, *errors])
        numbered = []
        for request in requests:
            number += request.count
            # `number` is now that of the first frame after this request.
            first = number - request.count
            numbered.append(request._replace(number=first, done=number <= done + 1))
        yield key, numbered


def _nodes(plan: Iterable[tuple[Key, list[Request]]]) -> Iterator[Node]:
    """Yield keys as nodes; each frame that blends both sides of a cut becomes a shot of its own."""
    for (key, requests), following in _with_next(plan):
        ends_shot = following is None or following[0].link == "cut"
        inside = [wish for wish in requests if wish.position.numerator]
        if following is None or not ends_shot:
            yield Node(key.frame, requests, ends_shot)
            continue
        # Positions increase, so the requests at 0, which are for the key itself, come first.
        yield Node(key.frame, requests[: len(requests) - len(inside)], ends_shot)
        for wish in inside:
            pixels = _mix(key.frame.pixels, following[0].frame.pixels, float(wish.position))
            frame = TimedFrame(pixels, wish.pts, wish.duration)
            yield Node(frame, [wish._replace(position=Fraction(0))], ends_shot)


def _with_next(items: Iterable[Item]) -> Iterator[tuple[Item, Item | None]]:
    """Yield each item with the one after it, and None after the last."""
    items = iter(items)
    for item in items:
        for following in items:
            yield item, following
            item = following
        yield item, None


def _mix(first: Frame, second: Frame, share: float) -> Frame:
    """Mix two frames; ``share`` is the weight of the second, from 0 to 1."""
    mixed = first * np.float32(1 - share) + second * np.float32(share)
    return np.rint(mixed).astype(first.dtype)


def _outputs(frames: Iterable[TimedFrame], clock: Clock, summary: Summary) -> Iterator[TimedFrame]:
    """Yield the requested frames, the last of which ends with the clip, and count them."""
    for frame in schedule.ending_at(clock, frames):
        summary.frames_out += 1
        yield frame
