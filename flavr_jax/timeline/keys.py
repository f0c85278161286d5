# SPDX-License-Identifier: Apache-2.0
"""From frames to keys: the frames that motion is interpolated between, and where it must not be.

Without repeats every frame is a key. Animation is drawn "on twos" or threes, and film that was made
to fit 30 or 60 frames a second shows some frames twice: then only the first of equal frames is a
key, the motion to the next one takes the longer interval, and where the repeats follow a cadence
the keys are moved to even times.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Literal, TypeAlias

from flavr_jax.timeline import cuts as detection
from flavr_jax.timeline.cuts import Thumbnail
from flavr_jax.video.frames import TimedFrame

__all__ = ["Key", "Link", "even_time", "find_keys"]

Link: TypeAlias = Literal["motion", "still", "cut"]
"""How a key follows on the one before it; the first of a clip follows by a cut."""

LONGEST_RUN = 5
"""Equal frames in a row that a cadence can have (12 pictures a second in 60); more are a rest."""

LONGEST_CADENCE = 5
"""Keys in a cadence: 24 pictures in 30 frames repeat every fourth, 25 in 30 every fifth."""

_LOOK = 2 * LONGEST_CADENCE  # keys on either side that a cadence is looked for in


@dataclasses.dataclass(frozen=True, eq=False)
class Key:
    """A frame that motion is interpolated from or to.

    Attributes:
        frame: the frame itself.
        link: how it follows on the key before it.
        time: the moment that it shows, in seconds; strictly increasing.
        shown: (pts, duration) of the input frames that it stands for, itself the first.
    """

    frame: TimedFrame
    link: Link
    time: Fraction
    shown: tuple[tuple[Fraction, Fraction], ...]


def find_keys(frames: Iterable[TimedFrame], *, cuts: bool, repeats: bool) -> Iterator[Key]:
    """The keys of a clip, lazily; every input frame is in the ``shown`` of exactly one.

    Holds some ``cuts.REACH`` frames, and some ``4 · LONGEST_CADENCE`` where repeats are dropped.

    Args:
        frames: with increasing pts.
        cuts: whether to look for cuts; otherwise the clip counts as one shot.
        repeats: whether to drop frames that repeat the one before them.
    """
    linked = _linked(frames, cuts=cuts, repeats=repeats)
    if not repeats:
        return (_key([frame], link) for frame, link in linked)
    return _at_even_times(_without_repeats(linked))


def even_time(starts: Sequence[Fraction], index: int) -> Fraction:
    """When key ``index`` would be due if the keys around it were spread evenly over their cadence.

    Film in 30 frames a second begins its pictures at frames 0, 1, 2, 3, 5, 6, 7, 8, 10, …; they
    were taken at 0, 1.25, 2.5, 3.75, 5, …. No key is due before it is first shown; where there is
    no cadence, it is due then.

    Args:
        starts: when keys of one shot are first shown, without a gap.
        index: one of them.
    """
    lengths = [after - before for before, after in itertools.pairwise(starts)]
    first = max(0, min(index - LONGEST_CADENCE, len(lengths) - _LOOK))
    part = lengths[first : first + _LOOK]
    for period in range(1, min(LONGEST_CADENCE, len(part) // 2) + 1):
        mean = sum(part, Fraction(0)) / len(part)
        # A tenth: Matroska rounds to milliseconds, and 4 frames are no 5.
        if all(abs(a - b) < mean / 10 for a, b in zip(part, part[period:])):
            if period == 1:
                break
            whole = part[: len(part) // period * period]
            mean = sum(whole, Fraction(0)) / len(whole)
            around = enumerate(starts[first : first + len(part) + 1], first)
            return max(start + mean * (index - other) for other, start in around)
    return starts[index]


def _linked(
    frames: Iterable[TimedFrame], *, cuts: bool, repeats: bool
) -> Iterator[tuple[TimedFrame, Link]]:
    """Each frame with its link to the one before; ``cuts.REACH`` frames are read ahead."""
    if not (cuts or repeats):
        for number, frame in enumerate(frames):
            yield frame, "motion" if number else "cut"
        return
    before: deque[Thumbnail] = deque(maxlen=detection.REACH)
    ahead: deque[tuple[TimedFrame, Thumbnail]] = deque()

    def first() -> tuple[TimedFrame, Link]:
        around = list(before), [small for _, small in ahead]
        frame, small = ahead.popleft()
        link: Link = "motion"
        if not before or (cuts and detection.is_cut(*around)):
            link = "cut"
        elif repeats and detection.is_repeat(*around):
            link = "still"
        before.append(small)
        return frame, link

    for frame in frames:
        ahead.append((frame, detection.thumbnail(frame.pixels)))
        if len(ahead) == detection.REACH:
            yield first()
    while ahead:
        yield first()


def _without_repeats(linked: Iterable[tuple[TimedFrame, Link]]) -> Iterator[Key]:
    """One key for equal frames in a row, unless they are too many, which is a rest.

    Each frame of a rest is a key, so that it does not become a slow motion; so is the last frame
    of a shot, so that nothing moves on from the one before it.
    """
    run: list[TimedFrame] = []
    run_link: Link = "cut"
    for frame, link in linked:
        if link != "still":
            yield from _keys_of_run(run, run_link, ends_shot=link == "cut")
            run, run_link = [frame], link
            continue
        run.append(frame)
        if run_link == "still" or len(run) > LONGEST_RUN:
            yield from (_key([one], "still" if n else run_link) for n, one in enumerate(run[:-1]))
            run, run_link = run[-1:], "still"
    yield from _keys_of_run(run, run_link, ends_shot=True)


def _keys_of_run(run: list[TimedFrame], link: Link, *, ends_shot: bool) -> Iterator[Key]:
    if ends_shot and len(run) > 1:
        yield _key(run[:-1], link)
        yield _key(run[-1:], "still")
    elif run:
        yield _key(run, link)


def _key(run: Sequence[TimedFrame], link: Link) -> Key:
    return Key(run[0], link, run[0].pts, tuple((frame.pts, frame.duration) for frame in run))


def _at_even_times(keys: Iterable[Key]) -> Iterator[Key]:
    """Keys moved by ``even_time`` among those of uninterrupted motion; ``_LOOK`` are read ahead."""
    starts: deque[Fraction] = deque(maxlen=_LOOK)
    ahead: deque[Key] = deque()

    def first() -> Key:
        key = ahead.popleft()
        if key.link != "motion":
            starts.clear()
        moving = itertools.takewhile(lambda other: other.link == "motion", ahead)
        time = even_time([*starts, key.time, *(other.time for other in moving)], len(starts))
        starts.append(key.time)
        # What was no cadence after all could put a key beyond the next one.
        return dataclasses.replace(key, time=time) if not ahead or time < ahead[0].time else key

    for key in keys:
        ahead.append(key)
        if len(ahead) > _LOOK:
            yield first()
    while ahead:
        yield first()
