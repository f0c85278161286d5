# SPDX-License-Identifier: Apache-2.0
"""The time at which each output frame is shown, and the moment of the input that it shows.

There are two time lines: keys are on that of the input; that of the output is stretched in slow
motion. Moments come from a :class:`~flavr_jax.timeline.clock.Clock`, and equal requests are merged.

Every output frame passes through here, and a GPU makes over 10,000 small frames a second. An
operation with Fractions takes about 2 µs; a few are therefore written with numerators and
denominators, or left out where the result is known.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple, TypeVar

from flavr_jax.config import Cut
from flavr_jax.timeline.clock import MOST_PARTS, Clock, Moment
from flavr_jax.timeline.keys import Key
from flavr_jax.video.frames import TimedFrame

__all__ = ["Grid", "Request", "ending_at", "schedule"]

_ZERO = Fraction(0)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The times inside an interval at which a network can make frames.

    Attributes:
        levels: number of parts that each successive pass splits intervals into; (8, 8) gives
            eighths after one pass and 64ths after two.
        bound: add passes until every frame is within this many seconds of its time; None stops when
            the grid is as fine as the spacing of the requested frames.
    """

    levels: tuple[int, ...]
    bound: Fraction | None = None

    def nearest(self, position: Fraction, spacing: Fraction, scale: Fraction) -> Fraction:
        """Return the grid's time nearest to ``position``, on the coarsest level that suffices.

        Args:
            position: from 0 to 1, the interval's ends.
            spacing: distance between requested frames, in the same unit.
            scale: length of the interval in seconds of the output.
        """
        if position.denominator == 1:
            return position
        parts, nearest = 1, Fraction(round(position))
        for level in self.levels:
            parts *= level
            if parts % position.denominator == 0:
                return position
            nearest = Fraction(round(position * parts), parts)
            # Stop at a grid that is close enough and no coarser than the spacing of the frames.
            close = self.bound is None or abs(position - nearest) * scale <= self.bound
            if close and parts * spacing >= 1:
                break
        return nearest


class Request(NamedTuple):
    """Consecutive output frames that show the same position between two keys.

    Attributes:
        position: from 0, the first key, to just below 1, the second.
        pts: when the first of the frames is shown, in seconds.
        duration: how long each is shown.
        error: largest distance between a frame's own time and the time of the motion that it shows,
            in seconds of the output.
        count: number of frames; each begins where the one before it ends.
        number: output number of the first frame, from 1; 0 until the requests are numbered.
        done: whether an earlier run has made all of the frames.
    """

    position: Fraction
    pts: Fraction
    duration: Fraction
    error: Fraction = _ZERO
    # A tuple's own method of this name counts equal items.
    count: int = 1  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    number: int = 0
    done: bool = False

    def each(self) -> Iterator[Request]:
        """Yield a separate request for each of the frames."""
        if self.count == 1:
            yield self
            return
        for number in range(self.count):
            yield self._replace(pts=self.pts + number * self.duration, count=1)


def schedule(
    keys: Iterable[Key], clock: Clock, grid: Grid, *, cut: Cut = "hold"
) -> Iterator[tuple[Key, list[Request]]]:
    """Yield each key with the requests from its time on until the next key's, lazily.

    Two keys are read ahead. A key may be due after the time at which it was first shown, and the
    moments up to its due time are known only once the key after it has been read. The pts of the
    requests increase.

    Args:
        keys: of a clip, in order.
        clock: a new clock.
        grid: the times at which frames can be made.
        cut: what to show between the two frames at a cut.
    """
    moments = _Moments()
    ahead: deque[Key] = deque()
    carried: list[Request] = []
    for key in itertools.chain(keys, [None]):
        if key is None:
            moments.add(clock.finish())
        else:
            ahead.append(key)
            for shown in key.shown:
                moments.add(clock.advance(*shown))
        while len(ahead) > (1 if key is None else 2):
            first, second = ahead.popleft(), ahead[0]
            between = _Between(first, second, clock, grid, cut)
            placed = map(between.place, moments.before(second.time))
            # Requests that round to the second key (position 1) become its first requests.
            requests, late = _split(_merged(itertools.chain(carried, placed)))
            carried = [request._replace(position=_ZERO) for request in late]
            yield first, requests
    for last in ahead:
        rest = (Request(_ZERO, moment.pts, moment.duration) for moment in moments.before())
        yield last, list(_merged(itertools.chain(carried, rest)))


class _Moments:
    """A queue of moments, added as iterators and taken one by one."""

    def __init__(self) -> None:
        self._waiting: deque[Iterator[Moment]] = deque()
        self._next: Moment | None = None

    def add(self, moments: Iterator[Moment]) -> None:
        """Append moments."""
        self._waiting.append(moments)

    def before(self, time: Fraction | None = None) -> Iterator[Moment]:
        """Take the moments that show an input time before ``time``, or all of them."""
        while True:
            while self._next is None and self._waiting:
                self._next = next(self._waiting[0], None)
                if self._next is None:
                    self._waiting.popleft()
            if self._next is None or (time is not None and not _earlier(self._next.time, time)):
                return
            moment, self._next = self._next, None
            yield moment


def _merged(requests: Iterable[Request]) -> Iterator[Request]:
    """Merge consecutive requests for the same position into one."""
    pending: Request | None = None
    for request in requests:
        if pending is None:
            pending = request
        elif (
            request.position == pending.position
            and request.duration == pending.duration
            and request.pts == pending.pts + pending.count * pending.duration
        ):
            error = max(pending.error, request.error)
            count = pending.count + request.count
            pending = pending._replace(error=error, count=count)
        else:
            yield pending
            pending = request
    if pending is not None:
        yield pending


def _split(requests: Iterable[Request]) -> tuple[list[Request], list[Request]]:
    """Separate the requests inside an interval from those that show the key at its end."""
    inside: list[Request] = []
    at_end: list[Request] = []
    for request in requests:
        inner = request.position.numerator < request.position.denominator
        (inside if inner else at_end).append(request)
    return inside, at_end


def _earlier(time: Fraction, other: Fraction) -> bool:
    """Return ``time < other``."""
    return time.numerator * other.denominator < other.numerator * time.denominator


class _Between:
    """Converts moments between two keys to positions from 0 to 1, both included."""

    def __init__(self, key: Key, following: Key, clock: Clock, grid: Grid, cut: Cut) -> None:
        self._start, self._link, self._grid, self._cut = key.time, following.link, grid, cut
        self._length = following.time - key.time
        self._scale = self._length * clock.timing.stretch
        self._spacing = _ZERO, _ZERO

    def place(self, moment: Moment) -> Request:
        """Return a request for the frame nearest to a moment."""
        wanted, spacing = self._position(moment.time), self._spacing_of(moment)
        if self._link == "motion":
            position = self._grid.nearest(wanted, spacing, self._scale)
            error = _ZERO if position is wanted else abs(position - wanted) * self._scale
            return Request(position, moment.pts, moment.duration, error)
        position = wanted
        if self._link == "still":
            position = _ZERO  # equal pictures: the first is as good as any
        elif self._cut == "hold":
            position = Fraction(wanted > Fraction(1, 2))
        elif spacing * MOST_PARTS < 1:
            position = Fraction(round(wanted * MOST_PARTS), MOST_PARTS)
        return Request(position, moment.pts, moment.duration)

    def _position(self, time: Fraction) -> Fraction:
        """Return where a time lies between the keys."""
        start, length = self._start, self._length
        after = time.numerator * start.denominator - start.numerator * time.denominator
        # The moment may precede the key: a key moved to an even time may be due after it is shown.
        if after <= 0:
            return _ZERO
        below = time.denominator * start.denominator
        return Fraction(after * length.denominator, below * length.numerator)

    def _spacing_of(self, moment: Moment) -> Fraction:
        """Return the distance to the next moment, in units of the positions."""
        duration, spacing = self._spacing
        # All moments of an interval share one object.
        if duration is not moment.duration:
            spacing = moment.duration / self._scale
            self._spacing = moment.duration, spacing
        return spacing


Shown = TypeVar("Shown", Request, TimedFrame)


def ending_at(clock: Clock, items: Iterable[Shown]) -> Iterator[Shown]:
    """Yield ``items``, with the last one shown until the clock's end; two are held back.

    At a constant rate, the clip's end seldom coincides with the end of a frame. The last frame is
    cut short; if less than half of it would remain, it is dropped and the one before is prolonged.
    """
    held: deque[Shown] = deque()
    for item in items:
        held.append(item)
        # Hold two: the last may be dropped, and then the one before it is changed.
        if len(held) > 2:
            yield held.popleft()
    if len(held) > 1 and clock.end - held[-1].pts < held[-1].duration / 2:
        held.pop()
    if held:
        last = held.pop()
        yield from held
        duration = clock.end - last.pts
        if isinstance(last, Request):
            yield last._replace(duration=duration)
        else:
            yield dataclasses.replace(last, duration=duration)
