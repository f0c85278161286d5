# SPDX-License-Identifier: Apache-2.0
"""Keys, the frames that motion is interpolated between, and the places without motion.

If repeats are not dropped, every frame is a key. Otherwise only the first of equal frames is a key,
so the motion to the next picture is spread over the longer interval. Where repeats follow a
cadence, keys are moved to even times.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

from flavr_jax.timeline.cuts import is_cut
from flavr_jax.timeline.repeats import CADENCE_REACH, LONGEST_RUN, even_time, is_repeat
from flavr_jax.timeline.thumbnails import reduced, with_surroundings
from flavr_jax.video.frames import TimedFrame

__all__ = ["LINKS", "Key", "Link", "LinkedFrames", "find_keys", "links"]

Link: TypeAlias = Literal["motion", "still", "cut"]
"""Relation of a key to the one before it; the first key of a clip counts as a cut."""
LINKS: tuple[Link, ...] = get_args(Link)
"""All of them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Key:
    """A frame that motion is interpolated from or to.

    Attributes:
        frame: the frame itself.
        link: relation to the key before it.
        time: when it is due, in seconds; strictly increasing over a clip.
        shown: (pts, duration) of the input frames that it represents, its own first.
    """

    frame: TimedFrame
    link: Link
    time: Fraction
    shown: tuple[tuple[Fraction, Fraction], ...]


@runtime_checkable
class LinkedFrames(Protocol):
    """A source that can say itself what :func:`links` finds, as another process has found it."""

    def linked(self, cuts: bool, repeats: bool) -> Iterator[tuple[TimedFrame, Link]]:
        """Yield what ``links(self, cuts, repeats)`` would."""
        ...


def find_keys(
    frames: Iterable[TimedFrame] | LinkedFrames,
    *,
    cuts: bool,
    repeats: bool,
) -> Iterator[Key]:
    """Yield the keys of a clip, lazily; every input frame is in the ``shown`` of exactly one.

    About ``thumbnails.REACH`` frames are in memory, with ``repeats`` ``2 · CADENCE_REACH`` more.

    Args:
        frames: with increasing pts; or a source that knows their links.
        cuts: whether to look for cuts; otherwise the clip counts as one shot.
        repeats: whether to drop frames that repeat the one before them.
    """
    if isinstance(frames, LinkedFrames):
        linked = frames.linked(cuts, repeats)
    else:
        linked = links(frames, cuts, repeats)
    if not repeats:
        return (_key([frame], link) for frame, link in linked)
    return _at_even_times(_without_repeats(linked))


def links(
    frames: Iterable[TimedFrame], cuts: bool, repeats: bool
) -> Iterator[tuple[TimedFrame, Link]]:
    """Yield each frame with its link to the one before.

    Args:
        frames: with increasing pts.
        cuts: whether to look for cuts; otherwise the clip counts as one shot.
        repeats: whether to look for frames that repeat the one before them.
    """
    if not (cuts or repeats):
        for number, frame in enumerate(frames):
            yield frame, "motion" if number else "cut"
        return
    small = reduced(frames, lambda frame: frame.picture, few=repeats)
    for frame, before, after in with_surroundings(small):
        if not before or (cuts and is_cut(before, after)):
            yield frame, "cut"
        elif repeats and is_repeat(before, after):
            yield frame, "still"
        else:
            yield frame, "motion"


def _without_repeats(linked: Iterable[tuple[TimedFrame, Link]]) -> Iterator[Key]:
    """Yield one key for each run of equal frames, or all frames of a run so long that it is a rest.

    All frames of a rest are keys; otherwise the motion after it would be spread over the rest. The
    last frame of a shot is always a key, so that no motion is made after the key before it.
    """
    run: list[TimedFrame] = []
    run_link: Link = "cut"
    for frame, link in linked:
        if link != "still":
            yield from _keys_of_run(run, run_link, ends_shot=link == "cut")
            run, run_link = [frame], link
            continue
        run.append(frame)
        # The run is a rest: all frames but the latest, which may end the shot, become keys.
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
    """Yield the keys, moved by ``even_time`` within uninterrupted motion.

    ``CADENCE_REACH`` keys are read ahead.
    """
    starts: deque[Fraction] = deque(maxlen=CADENCE_REACH)
    ahead: deque[Key] = deque()

    def first() -> Key:
        key = ahead.popleft()
        if key.link != "motion":
            starts.clear()  # a cadence does not reach across a cut or a rest
        moving = itertools.takewhile(lambda other: other.link == "motion", ahead)
        time = even_time([*starts, key.time, *(other.time for other in moving)], len(starts))
        starts.append(key.time)
        # At the end of a cadence, its even times could put a key after the next one.
        return dataclasses.replace(key, time=time) if not ahead or time < ahead[0].time else key

    for key in keys:
        ahead.append(key)
        if len(ahead) > CADENCE_REACH:
            yield first()
    while ahead:
        yield first()
