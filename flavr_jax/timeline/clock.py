# SPDX-License-Identifier: Apache-2.0
"""The requested times of output frames, and the moments of the input that they show.

Times are Fractions of a second, so nothing drifts: 23.976 is 24000/1001, and each interval of a
variable frame rate is split on its own. Moments are generated lazily, because one interval can hold
millions of output frames: a screen recording may show one picture for hours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from flavr_jax.video.frames import ClipInfo, check_rate

__all__ = ["MOST_PARTS", "Clock", "Moment", "OutputTiming", "output_info"]

MOST_PARTS = 4096
"""The largest factor, and the largest number of different frames that one interval can get."""

_LARGEST_INT = 2**31 - 1  # FFmpeg's rationals have 32 bits


@dataclasses.dataclass(frozen=True)
class OutputTiming:
    """The requested times of output frames.

    Attributes:
        factor: number of parts that each interval is split into; in slow motion also the duration
            of the output divided by that of the input.
        fps: constant frame rate of the output in frames per second; None if ``factor`` sets it.
        slow_motion: stretch time by ``factor``, counted from zero as for sound and subtitles, and
            including the last frame's duration; otherwise the clip keeps its times and its end.
    """

    factor: int = 8
    fps: Fraction | None = None
    slow_motion: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= MOST_PARTS:
            raise ValueError(
                f"`factor` is {self.factor}; it goes from 1 to {MOST_PARTS}. Use a smaller one."
                if self.factor > MOST_PARTS
                else f"`factor` is {self.factor}; it is 1 or more."
            )
        if self.fps is not None:
            check_rate(self.fps, "`fps`")

    @property
    def stretch(self) -> int:
        """Duration of the output divided by that of the input."""
        return self.factor if self.slow_motion else 1


class Moment(NamedTuple):
    """A frame that the output needs, in seconds.

    Attributes:
        time: the moment of the input that it shows.
        pts: when the output shows it.
        duration: for how long the output shows it.
    """

    time: Fraction
    pts: Fraction
    duration: Fraction


class Clock:
    """Generates the moments of the output from the times of input frames as they arrive.

    Attributes:
        timing: the requested times.
        end: end of the output in seconds, as known so far; final once ``finish`` is called.
    """

    def __init__(self, timing: OutputTiming) -> None:
        self.end = Fraction(0)
        self.timing = timing
        self._first: Fraction | None = None
        self._last = self._duration = Fraction(0)
        self._count = 0

    def advance(self, pts: Fraction, duration: Fraction) -> Iterator[Moment]:
        """Return the moments from the last input frame to the next one, exclusive, lazily.

        Args:
            pts: when the next input frame is shown, in seconds.
            duration: how long it is shown.
        """
        moments: Iterator[Moment] = iter(())
        if self._first is None:
            self._first = pts
        elif self.timing.fps is None:
            # The last frame's own moment belongs to this interval, as part 0.
            moments = self._parts(self._last, pts)
        else:
            moments = self._ticks(self._first, self._stretched(pts), 1 / self.timing.fps)
        self._last, self._duration = pts, duration
        self.end = self._stretched(pts + duration)
        return moments

    def finish(self) -> Iterator[Moment]:
        """Return the moments after the last input frame's pts, lazily."""
        if self._first is None:
            return iter(())
        if self.timing.fps is None:
            duration = self._stretched(self._duration)
            return iter([Moment(self._last, self._stretched(self._last), duration)])
        return self._ticks(self._first, self.end, 1 / self.timing.fps)

    def _stretched(self, time: Fraction) -> Fraction:
        """Convert a time of the input to the output's."""
        return time if self.timing.stretch == 1 else time * self.timing.stretch

    def _parts(self, start: Fraction, end: Fraction) -> Iterator[Moment]:
        """Yield the moments that split an interval of the input evenly."""
        step = (end - start) / self.timing.factor
        time, duration = start, self._stretched(step)
        for _ in range(self.timing.factor):
            yield Moment(time, self._stretched(time), duration)
            time += step

    def _ticks(self, first: Fraction, until: Fraction, step: Fraction) -> Iterator[Moment]:
        """Return the moments of a constant rate before a time of the output."""
        start = self._stretched(first)
        # Update the count now: the next call may come before this generator is consumed.
        count = max(self._count, math.ceil((until - start) / step))
        numbers, self._count = range(self._count, count), count
        times = (start + number * step for number in numbers)
        return (Moment(pts / self.timing.stretch, pts, step) for pts in times)


def output_info(info: ClipInfo, timing: OutputTiming) -> ClipInfo:
    """Return the output's properties that are known beforehand.

    Raises:
        ValueError: the output's rate is outside the limits of ``check_rate``.
    """
    count = info.frame_count and (info.frame_count - 1) * timing.factor + 1
    if timing.fps is None:
        parts = timing.factor // timing.stretch
        rate, tick = info.rate * parts, info.time_base / parts
        check_rate(rate, "The output's rate")
        # Only the rate in the header is rounded; the times stay exact.
        if max(rate.numerator, rate.denominator) > _LARGEST_INT:
            rate = rate.limit_denominator(1000)
        return dataclasses.replace(info, rate=rate, time_base=tick, frame_count=count)
    if info.frame_count:
        seconds = info.frame_count * timing.stretch / info.rate
        count = max(1, round(seconds * timing.fps))
    # The greatest common divisor of the input's time base and the length of an output frame:
    # the coarsest tick of which both are multiples.
    step = 1 / timing.fps
    tick = Fraction(
        math.gcd(
            info.time_base.numerator * step.denominator, step.numerator * info.time_base.denominator
        ),
        info.time_base.denominator * step.denominator,
    )
    return dataclasses.replace(info, rate=timing.fps, time_base=tick, frame_count=count)
