# SPDX-License-Identifier: Apache-2.0
"""When each output frame is shown, and which moment of the input it shows.

Times are Fractions of a second, so nothing ever drifts: 23.976 is 24000/1001, and every interval of
a variable frame rate is split on its own. Two time lines meet here: the input's own, which the keys
are on, and the output's, which slow motion stretches.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Literal, TypeAlias, TypeVar

from flavr_jax.timeline.keys import Key
from flavr_jax.video.frames import ClipInfo, TimedFrame

__all__ = [
    "Clock",
    "Cut",
    "Grid",
    "Moment",
    "Request",
    "Timing",
    "ending_at",
    "output_info",
    "schedule",
]

Cut: TypeAlias = Literal["hold", "blend", "ignore"]
"""What is shown between the frames on either side of a cut: the nearer of them, or both mixed.

``ignore`` looks for no cuts.
"""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Which frames are asked for.

    Attributes:
        factor: each interval is split in so many parts; in slow motion, time is stretched so much.
        fps: frames per second of the output, at a constant rate; None follows from ``factor``.
        slow_motion: stretch time by ``factor``, from zero on as sound and subtitles are; otherwise
            the clip keeps its times. Either way the last frame is shown for as long as in the
            input.
    """

    factor: int = 8
    fps: Fraction | None = None
    slow_motion: bool = False

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"`factor` is {self.factor}; it is 1 or more.")
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"`fps` is {self.fps}; a frame rate is more than 0.")

    @property
    def stretch(self) -> int:
        """How many times longer the output is."""
        return self.factor if self.slow_motion else 1


@dataclasses.dataclass(frozen=True)
class Moment:
    """An output frame to be: what is shown, when and for how long, in seconds.

    Attributes:
        time: on the input's time line.
        pts: on the output's time line.
        duration: likewise.
    """

    time: Fraction
    pts: Fraction
    duration: Fraction


class Clock:
    """Tells the moments of the output while the input's frames come in.

    Attributes:
        timing: which frames are asked for.
        end: where the output ends, in seconds, as far as is known; final after ``finish``.
    """

    def __init__(self, timing: Timing) -> None:
        self.end = Fraction(0)
        self.timing = timing
        self._first: Fraction | None = None
        self._last = self._duration = Fraction(0)
        self._count = 0

    def advance(self, pts: Fraction, duration: Fraction) -> list[Moment]:
        """The moments before an input frame, given its pts and its duration."""
        moments: list[Moment] = []
        if self._first is None:
            self._first = pts
        elif self.timing.fps is None:
            moments = self._parts(pts)
        else:
            moments = self._ticks(self._shown(pts))
        self._last, self._duration = pts, duration
        self.end = self._shown(pts) + duration
        return moments

    def finish(self) -> list[Moment]:
        """The moments that are left when there are no more input frames."""
        if self._first is None:
            return []
        if self.timing.fps is None:
            return [Moment(self._last, self._shown(self._last), self._duration)]
        return self._ticks(self.end)

    def _shown(self, time: Fraction) -> Fraction:
        """Where a time of the input is on the output's time line."""
        return time * self.timing.stretch

    def _parts(self, pts: Fraction) -> list[Moment]:
        """The interval up to ``pts``, split evenly."""
        step = (pts - self._last) / self.timing.factor
        times = [self._last + index * step for index in range(self.timing.factor)]
        return [Moment(time, self._shown(time), step * self.timing.stretch) for time in times]

    def _ticks(self, until: Fraction) -> list[Moment]:
        """The moments of a constant rate before ``until``."""
        assert self._first is not None
        assert self.timing.fps is not None
        step = 1 / self.timing.fps
        moments: list[Moment] = []
        while (pts := self._shown(self._first) + self._count * step) < until:
            self._count += 1
            moments.append(Moment(pts / self.timing.stretch, pts, step))
        return moments


@dataclasses.dataclass(frozen=True)
class Grid:
    """The times inside an interval that a network can make.

    Attributes:
        levels: what the network splits intervals into, pass after pass; (8, 8) makes eighths in
            one pass and 64ths in two.
        bound: pass on until every frame is this close to its time, in seconds, or exact; None
            stops where the grid is as fine as the frames that are asked for.
    """

    levels: tuple[int, ...]
    bound: Fraction | None = None

    def nearest(self, position: Fraction, spacing: Fraction, scale: Fraction) -> Fraction:
        """The time of the grid nearest to ``position``, on the coarsest level that will do.

        Args:
            position: from 0 to 1, the interval's ends.
            spacing: between the frames asked for, in the same unit.
            scale: the interval's length in seconds of the output.
        """
        parts, nearest = 1, Fraction(round(position))
        for level in self.levels:
            if nearest == position:
                break
            parts *= level
            nearest = Fraction(round(position * parts), parts)
            close = self.bound is None or abs(position - nearest) * scale <= self.bound
            if close and parts * spacing >= 1:
                break
        return nearest


@dataclasses.dataclass(frozen=True)
class Request:
    """An output frame as a place between two keys.

    Attributes:
        position: from 0, the first key, to below 1, the second.
        pts: when it is shown, in seconds.
        duration: for how long.
        error: how far the motion shown is from that time, in seconds of the output.
    """

    position: Fraction
    pts: Fraction
    duration: Fraction
    error: Fraction = Fraction(0)


def schedule(
    keys: Iterable[Key], clock: Clock, grid: Grid, *, cut: Cut = "hold"
) -> Iterator[tuple[Key, list[Request]]]:
    """Each key with what is to be shown from its time on, until the next key's; lazily.

    Two keys are read ahead: a key may be due after the frame that it was first shown in, and only
    the frame after that one tells what is to be shown until then. The requests' pts increase.

    Args:
        keys: of a clip, in order.
        clock: a new one.
        grid: what can be made.
        cut: what to show inside the interval at a cut.
    """
    moments: deque[Moment] = deque()
    ahead: deque[Key] = deque()
    carried: list[Request] = []
    for key in itertools.chain(keys, [None]):
        if key is None:
            moments.extend(clock.finish())
        else:
            ahead.append(key)
            for shown in key.shown:
                moments.extend(clock.advance(*shown))
        while len(ahead) > (1 if key is None else 2):
            first, second = ahead.popleft(), ahead[0]
            requests, carried = carried, []
            while moments and moments[0].time < second.time:
                request = _place(moments.popleft(), first, second, clock, grid, cut)
                if request.position < 1:
                    requests.append(request)
                else:
                    carried.append(dataclasses.replace(request, position=Fraction(0)))
            yield first, requests
    for last in ahead:
        rest = [Request(Fraction(0), moment.pts, moment.duration) for moment in moments]
        yield last, carried + rest


def _place(moment: Moment, key: Key, following: Key, clock: Clock, grid: Grid, cut: Cut) -> Request:
    """A moment between two keys as a position there, 1 included."""
    length = following.time - key.time
    # A key at an even time may be due after it is first shown.
    position = max(Fraction(0), (moment.time - key.time) / length)
    wanted, scale = position, length * clock.timing.stretch
    if following.link == "motion":
        position = grid.nearest(wanted, moment.duration / scale, scale)
        return Request(position, moment.pts, moment.duration, abs(position - wanted) * scale)
    if following.link == "still":
        position = Fraction(0)
    elif cut == "hold":
        position = Fraction(wanted > Fraction(1, 2))
    return Request(position, moment.pts, moment.duration)


Shown = TypeVar("Shown", Request, TimedFrame)


def ending_at(clock: Clock, items: Iterable[Shown]) -> Iterator[Shown]:
    """``items`` with the last one shown until the clock's end, once that is known; two are held.

    At a constant rate the end seldom falls on a frame: what is left over of the last frame is cut
    off, or added to the one before where it would be less than half a frame.
    """
    held: deque[Shown] = deque()
    for item in items:
        held.append(item)
        if len(held) > 2:
            yield held.popleft()
    if len(held) > 1 and clock.end - held[-1].pts < held[-1].duration / 2:
        held.pop()
    if held:
        last = held.pop()
        yield from held
        yield dataclasses.replace(last, duration=clock.end - last.pts)


def output_info(info: ClipInfo, timing: Timing) -> ClipInfo:
    """What is known of the output beforehand."""
    count = info.frame_count and (info.frame_count - 1) * timing.factor + 1
    if timing.fps is None:
        parts = timing.factor // timing.stretch
        return dataclasses.replace(
            info, rate=info.rate * parts, time_base=info.time_base / parts, frame_count=count
        )
    if info.frame_count:
        frames = (info.frame_count - 1) * timing.stretch + 1
        count = max(1, round(frames * timing.fps / info.rate))
    # The coarsest ticks that both a start of the input and whole output frames fall on.
    step = 1 / timing.fps
    tick = Fraction(
        math.gcd(
            info.time_base.numerator * step.denominator, step.numerator * info.time_base.denominator
        ),
        info.time_base.denominator * step.denominator,
    )
    return dataclasses.replace(info, rate=timing.fps, time_base=tick, frame_count=count)
