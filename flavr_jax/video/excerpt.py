# SPDX-License-Identifier: Apache-2.0
"""A part of a clip, given by its times, as a clip of its own that begins at zero."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from fractions import Fraction

from flavr_jax.video.frames import FrameSource, Origin, TimedFrame

__all__ = ["Excerpt", "Span"]

_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Span:
    """A stretch of a clip's time, in seconds.

    Attributes:
        start: its beginning.
        end: its end, exclusive; None for the end of the clip.
    """

    start: Fraction = Fraction(0)
    end: Fraction | None = None

    @classmethod
    def parse(cls, text: str) -> Span:
        """Return the span that ``START-END`` describes.

        A time is written as seconds, ``MM:SS`` or ``HH:MM:SS``, with decimals if needed. Either
        time may be left out.

        Raises:
            ValueError: the text is no span, or the span does not end after its start.
        """
        first, dash, last = text.partition("-")
        try:
            start = _seconds(first) if first else Fraction(0)
            end = _seconds(last) if last else None
        except ValueError:
            dash, start, end = "", Fraction(0), None
        if not dash or not (first or last) or (end is not None and end <= start):
            raise ValueError(
                f"`range` is {text!r}; write START-END, such as 00:01:00-00:02:00, 90-120.5 or "
                "90-, with the end after the start."
            )
        return cls(start, end)


def _seconds(text: str) -> Fraction:
    """Return a time in seconds; a ValueError if it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(text)
    hours, minutes, seconds = match.groups()
    return 3600 * Fraction(hours or 0) + 60 * Fraction(minutes or 0) + Fraction(seconds)


class Excerpt:
    """The frames of a source that begin within a span, with the first of them at time zero.

    Attributes:
        info: as of the source, with the number of frames in the span.
        span: from the pts of the first frame to the requested end.
        damage: after an iteration, why the source could not be read completely; None if it was.
    """

    def __init__(self, source: FrameSource, span: Span) -> None:
        """Read the first frame of the span.

        Args:
            source: the whole clip. Its method ``since``, if it has one, skips the beginning.
            span: the part to read.

        Raises:
            ValueError: no frame begins within the span.
        """
        self.damage: str | None = None
        self._source, self._from, self._end = source, span.start, span.end
        frames = self._read(span.start)
        first = next(frames, None)
        if first is None:
            raise ValueError(
                f"The range begins at {float(span.start):g} s and has no frame of the clip; use an "
                "earlier or a longer one."
            )
        self.span = Span(first.pts, span.end)
        self._frames: Iterator[TimedFrame] | None = itertools.chain([first], frames)
        count = source.info.frame_count
        if count is not None:
            last = count / source.info.rate
            end = last if span.end is None else min(span.end, last)
            count = max(1, round((end - first.pts) * source.info.rate))
        self.info = dataclasses.replace(source.info, frame_count=count)

    def __iter__(self) -> Iterator[TimedFrame]:
        # A pipe cannot be read again, so the frames that were opened first are used once.
        frames, self._frames = self._frames or self._read(self._from), None
        return self._from_zero(frames)

    def since(self, start: Fraction) -> Iterator[TimedFrame]:
        """Yield the frames from a time of the excerpt on, in seconds."""
        return self._from_zero(self._read(max(self._from, self.span.start + start)))

    def _from_zero(self, frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
        for index, frame in enumerate(frames):
            original = frame.original
            if original is not None:
                origin = original.opaque
                original.opaque = Origin(index, getattr(origin, "path", None))
            yield dataclasses.replace(frame, pts=frame.pts - self.span.start)

    def _read(self, start: Fraction) -> Iterator[TimedFrame]:
        since = getattr(self._source, "since", None)
        frames = iter(self._source) if since is None else since(start)
        self.damage = None
        for frame in frames:
            if self._end is not None and frame.pts >= self._end:
                break
            if frame.pts >= start:
                yield frame
        self.damage = self._source.damage
