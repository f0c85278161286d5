# SPDX-License-Identifier: Apache-2.0
"""Interpolation of a clip of any length, frame by frame, in bounded memory.

Four stages, each a generator that pulls on the one before: frames become keys (where shots end and
frames repeat), keys get what is to be shown between them (the schedule), passes through the network
fill the intervals that need it, and what was asked for is given out. A finer time than the network
makes is reached by further passes over what the earlier ones made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

import numpy as np

from flavr_jax.inference.passes import Network, Node, fill
from flavr_jax.timeline import keys, schedule
from flavr_jax.timeline.keys import Key
from flavr_jax.timeline.schedule import Clock, Cut, Grid, OutputTiming, Request
from flavr_jax.typing import Frame
from flavr_jax.video.frames import TimedFrame

__all__ = ["Options", "Report", "interpolate"]

Item = TypeVar("Item")

_FINEST = 4096
"""Parts of an interval that passes can go down to, where times are off the network's grid."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to make of a clip.

    Attributes:
        factor: how many intervals become of one: 2, 4, 8 from the network, 16 and more by cascade;
            8 unless fps is given.
        fps: frames per second instead, such as 60 or 60000/1001, at a constant rate.
        slow_motion: keep the frame rate, or the fps that is given, and stretch time by the factor.
        exact_times: make frames as close to their times as largest_error allows, in more passes
            through the network, where fps or dedup need times that one pass does not make.
            Otherwise the nearest of those is shown.
        largest_error: what exact_times leaves, in seconds.
        cut: what is shown between the frames at a cut: hold is the nearer of them, blend mixes
            both; ignore does not look for cuts.
        dedup: leave out frames that repeat the one before and spread the motion evenly: for
            animation on twos or threes, and film in 30 or 60 frames a second.
        batch: intervals computed at a time: more is faster on a large GPU and needs more memory.
    """

    factor: int | None = None
    fps: Fraction | None = None
    slow_motion: bool = False
    exact_times: bool = False
    largest_error: Fraction = Fraction(1, 2000)
    cut: Cut = "hold"
    dedup: bool = False
    batch: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"`batch` is {self.batch}; it is 1 or more.")
        if self.largest_error < 0:
            raise ValueError(f"`largest_error` is {self.largest_error}; it is 0 or more.")

    @property
    def timing(self) -> OutputTiming:
        """Which frames are asked for.

        Raises:
            ValueError: two rates are asked for, or an impossible one.
        """
        if None not in (self.fps, self.factor) and not self.slow_motion:
            raise ValueError(
                f"`fps` {self.fps} and `factor` {self.factor} both set the frame rate; leave one "
                "out, or ask for slow motion, which stretches time by the factor."
            )
        return OutputTiming(8 if self.factor is None else self.factor, self.fps, self.slow_motion)


@dataclasses.dataclass
class Report:
    """What became of a clip, counted while it streams by.

    Attributes:
        frames_in: frames read.
        frames_out: frames given out.
        cuts: cuts found.
        repeats: frames left out as repeats of others.
        largest_error: how far the motion shown in a made frame is from the frame's time, at
            most, in seconds of the output.
    """

    frames_in: int = 0
    frames_out: int = 0
    cuts: int = 0
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
    frames: Iterable[TimedFrame],
    network: Network,
    options: Options = Options(),
    *,
    report: Report | None = None,
) -> Iterator[TimedFrame]:
    """The frames asked for, each with its time, lazily.

    Frames of the input are given out whole, with the pts and duration that the output has them at.
    Without ``fps``, n frames become ``(n − 1) · factor + 1``, cuts and repeats or not. The output
    begins where the input does and, unless time is stretched, ends where it ends, exactly.

    Args:
        frames: with increasing pts, all of one size and type.
        network: such as ``flavr_jax.load()``.
        options: what to make of them.
        report: is filled in as frames come out.

    Raises:
        ValueError: for a factor that cannot be made, before any frame is read.
    """
    report = Report() if report is None else report
    grid = _grid(network, options)
    clock = schedule.Clock(options.timing)
    found = keys.find_keys(frames, cuts=options.cut != "ignore", repeats=options.dedup)
    plan = _noted(schedule.schedule(found, clock, grid, cut=options.cut), report)
    nodes = _nodes(plan)
    for number, level in enumerate(grid.levels, 1):
        last = number == len(grid.levels)
        nodes = fill(nodes, network, level, batch=options.batch, last=last)
    return _outputs(nodes, clock, report)


def _grid(network: Network, options: Options) -> Grid:
    """The times that may be made: the factor's own, or as fine ones as it takes."""
    levels = network.passes(options.timing.factor) if options.timing.fps is None else []
    if options.timing.fps is not None or options.dedup:
        levels = [network.factor] * math.ceil(math.log(_FINEST, network.factor))
    return Grid(tuple(levels), options.largest_error if options.exact_times else None)


def _noted(
    plan: Iterable[tuple[Key, list[Request]]], report: Report
) -> Iterator[tuple[Key, list[Request]]]:
    """The plan unchanged; ``report`` counts."""
    for key, requests in plan:
        report.cuts += key.link == "cut" and report.frames_in > 0
        report.frames_in += len(key.shown)
        report.repeats += len(key.shown) - 1
        report.largest_error = max([report.largest_error, *(wish.error for wish in requests)])
        yield key, requests


def _nodes(plan: Iterable[tuple[Key, list[Request]]]) -> Iterator[Node]:
    """Keys as nodes; what mixes the two sides of a cut is a shot of its own."""
    for (key, requests), following in _with_next(plan):
        ends_shot = following is None or following[0].link == "cut"
        inside = [wish for wish in requests if wish.position > 0]
        if following is None or not ends_shot:
            yield Node(key.frame, requests, ends_shot)
            continue
        yield Node(key.frame, requests[: len(requests) - len(inside)], ends_shot)
        for wish in inside:
            pixels = _mix(key.frame.pixels, following[0].frame.pixels, float(wish.position))
            frame = TimedFrame(pixels, wish.pts, wish.duration)
            yield Node(frame, [dataclasses.replace(wish, position=Fraction(0))], ends_shot)


def _with_next(items: Iterable[Item]) -> Iterator[tuple[Item, Item | None]]:
    """Each item with the one after it, None after the last."""
    items = iter(items)
    for item in items:
        for following in items:
            yield item, following
            item = following
        yield item, None


def _mix(first: Frame, second: Frame, share: float) -> Frame:
    """Two frames, of the second so much."""
    mixed = first * np.float32(1 - share) + second * np.float32(share)
    return np.rint(mixed).astype(first.dtype)


def _outputs(nodes: Iterable[Node], clock: Clock, report: Report) -> Iterator[TimedFrame]:
    """The frames that were asked for, the input's own whole, at the times they are asked for."""
    frames = (
        dataclasses.replace(node.frame, pts=wish.pts, duration=wish.duration)
        for node in nodes
        for request in node.wanted
        for wish in request.each()
    )
    for frame in schedule.ending_at(clock, frames):
        report.frames_out += 1
        yield frame
