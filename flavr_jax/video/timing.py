# SPDX-License-Identifier: Apache-2.0
"""When each output frame is shown. Times are Fractions of a second, so nothing ever drifts.

Every interval between two input frames is split on its own; a variable frame rate needs no special
case, and 23.976 is 24000/1001.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

from flavr_jax.typing import Frame
from flavr_jax.video.frames import ClipInfo, TimedFrame

__all__ = ["output_count", "output_info", "output_times", "parse_rate", "retime"]


def parse_rate(text: str) -> Fraction:
    """Frames per second from ``"24"``, ``"23.976"`` or ``"24000/1001"``, exactly as written."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise ValueError(f"The frame rate is {text!r}; write it such as 25 or 24000/1001.")
    return rate


def output_count(frames: int, factor: int) -> int:
    """How many frames come of so many: ``factor`` an interval, and the last one."""
    return max(0, (frames - 1) * factor + 1)


def output_info(info: ClipInfo, factor: int, *, slow_motion: bool = False) -> ClipInfo:
    """What is known of the output beforehand."""
    parts = 1 if slow_motion else factor
    return dataclasses.replace(
        info,
        rate=info.rate * parts,
        time_base=info.time_base / parts,
        frame_count=info.frame_count and output_count(info.frame_count, factor),
    )


def output_times(
    times: Iterable[tuple[Fraction, Fraction]], factor: int, *, slow_motion: bool = False
) -> Iterator[tuple[Fraction, Fraction]]:
    """The (pts, duration) of the output frames; lazily, reading one input frame ahead.

    Args:
        times: (pts, duration) of the input frames, pts increasing. Only the last duration counts;
            the others follow from the next pts.
        factor: each interval is split in this many equal parts.
        slow_motion: stretch time by ``factor`` from the first frame on, which keeps the frame
            rate; otherwise the clip keeps its duration. Either way the last frame is shown for as
            long as in the input.
    """
    stretch = factor if slow_motion else 1
    times = iter(times)
    first = next(times, None)
    if first is None:
        return
    start, duration = first
    before = start
    for pts, duration in times:  # noqa: B007  (the last one is used below)
        step = (pts - before) * stretch / factor
        for index in range(factor):
            yield start + index * step, step
        start, before = start + factor * step, pts
    yield start, duration


def retime(
    source: Iterable[TimedFrame],
    interpolate: Callable[[Iterator[Frame]], Iterable[Frame]],
    factor: int,
    *,
    slow_motion: bool = False,
) -> Iterator[TimedFrame]:
    """The source's frames with new ones between them, each with its time; lazily.

    Frames wait here only while ``interpolate`` is ahead of what it has given out.

    Args:
        source: frames in the order they are shown.
        interpolate: from n frames makes ``output_count(n, factor)``, such as
            ``flavr_jax.inference.stream.interpolate`` with its other arguments bound.
        factor: how many intervals ``interpolate`` makes of each.
        slow_motion: as in ``output_times``.
    """
    pictures, times = _apart(source)
    images = interpolate(pictures)
    clock = output_times(times, factor, slow_motion=slow_motion)
    for image, (pts, duration) in zip(images, clock, strict=True):
        yield TimedFrame(image, pts, duration)


def _apart(
    source: Iterable[TimedFrame],
) -> tuple[Iterator[Frame], Iterator[tuple[Fraction, Fraction]]]:
    """A source's pictures and its times, to be read at different paces.

    ``itertools.tee`` would do, but it frees its items 57 at a time.
    """
    source = iter(source)
    pictures: deque[Frame] = deque()
    times: deque[tuple[Fraction, Fraction]] = deque()

    def read(queue: deque) -> Iterator:
        while True:
            if not queue:
                frame = next(source, None)
                if frame is None:
                    return
                pictures.append(frame.pixels)
                times.append((frame.pts, frame.duration))
            yield queue.popleft()

    return read(pictures), read(times)
