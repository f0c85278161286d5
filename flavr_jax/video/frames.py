# SPDX-License-Identifier: Apache-2.0
"""Frames with times, and the protocols of frame sources and sinks.

A source yields one frame at a time, so a clip of any length needs memory for only a few frames.
A sink writes under a temporary name and renames the result when it is complete: an interrupted run
never leaves a broken file that looks whole.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

import av
import numpy as np

from flavr_jax.typing import Frame
from flavr_jax.video.pixels.colour import Colour
from flavr_jax.video.pixels.conversion import Conversion
from flavr_jax.video.pixels.hdr import StaticHDR
from flavr_jax.video.pixels.picture import Picture, sampled, sampled_planes

__all__ = [
    "ClipInfo",
    "FrameSink",
    "FrameSource",
    "MappedSink",
    "Origin",
    "Picture",
    "Retimed",
    "TimedFrame",
    "check_rate",
    "parse_rate",
    "sampled",
    "sampled_planes",
]


SLOWEST_RATE, FASTEST_RATE = Fraction(1, 86400), Fraction(1_000_000)
"""Limits in frames per second: one frame a day, and more than any high-speed camera records."""


def parse_rate(text: str) -> Fraction:
    """Return frames per second from ``"24"``, ``"23.976"`` or ``"24000/1001"``, exactly.

    Raises:
        ValueError: the text is no rate, or :func:`check_rate` refuses the rate.
    """
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise ValueError(f"The frame rate is {text!r}; write it such as 25 or 24000/1001.")
    check_rate(rate, "The frame rate")
    return rate


def check_rate(rate: Fraction, what: str) -> None:
    """Raise an error for a rate outside of ``SLOWEST_RATE`` to ``FASTEST_RATE``.

    Args:
        rate: frames per second.
        what: the name of the rate; the message begins with it.

    Raises:
        ValueError: the rate is outside; the message gives the value, the limits and the remedy.
    """
    if not SLOWEST_RATE <= rate <= FASTEST_RATE:
        # A rate such as 1e400 has no float.
        shown = f"{float(rate):.6g}" if abs(rate) < 10**300 else "beyond 1e300"
        raise ValueError(
            f"{what} is {shown} frames/s; it goes from 1/86400 to {int(FASTEST_RATE)}. Use a "
            f"{'smaller' if rate > FASTEST_RATE else 'larger'} one."
        )


@dataclasses.dataclass(frozen=True)
class ClipInfo:
    """Properties of a clip that are known before its frames are read.

    Attributes:
        width: of the frames as stored, in pixels.
        height: likewise.
        rate: average frames per second.
        time_base: unit of time in seconds; every pts is a multiple of it.
        frame_count: number of frames that the header states, or None; a damaged or carelessly
            written file may hold another number.
        pixel_aspect: width of a pixel over its height.
        colour: the colour tags.
        pixel_format: how the source stores its pictures, as FFmpeg calls it.
        display_matrix: FFmpeg's nine integers that say how to turn or mirror the pictures to show
            them; None to show them as stored.
        hdr: the static HDR metadata.
        profile: the ICC profile of images, or None.
        image_kind: format of the image files that frames come from (png, jpg, tiff, …), or None.
        plays: how often an animation plays, 0 for endlessly; None if the file does not say.
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    frame_count: int | None = None
    pixel_aspect: Fraction = Fraction(1)
    colour: Colour = Colour()  # noqa: RUF009
    pixel_format: str = "rgb24"
    display_matrix: tuple[int, ...] | None = None
    hdr: StaticHDR | None = None
    profile: bytes | None = None
    image_kind: str | None = None
    plays: int | None = None


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where an original frame comes from; stored as ``opaque`` of its ``av.VideoFrame``.

    Attributes:
        index: number of the frame in the source, from 0.
        path: the image file that holds only this frame, or None.
    """

    index: int
    path: Path | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class TimedFrame:
    """A frame with its presentation time and duration, in seconds.

    Attributes:
        picture: RGB or RGBA on the host, or a ``Picture`` that is converted when it is needed.
        pts: when it is shown.
        duration: for how long.
        stored: the picture as the source stores it, or a function that returns it; None for an
            interpolated frame.
    """

    picture: Frame | Picture
    pts: Fraction
    duration: Fraction
    stored: av.VideoFrame | Callable[[], av.VideoFrame] | None = None

    @functools.cached_property
    def original(self) -> av.VideoFrame | None:
        """The picture as the source stores it, with its ``Origin``; None if it is interpolated.

        A sink that can store such a picture writes it instead of ``pixels``.
        """
        return self.stored() if callable(self.stored) else self.stored

    @property
    def pixels(self) -> Frame:
        """RGB or RGBA on the host; waits until they are converted or fetched."""
        return self.picture if isinstance(self.picture, np.ndarray) else self.picture.pixels


@runtime_checkable
class FrameSource(Protocol):
    """Frames one by one, in the order they are shown; each iteration starts at the first.

    Attributes:
        info: properties that are known before the frames are read.
        damage: after an iteration, why the clip could not be read completely; None if it was.
    """

    info: ClipInfo
    damage: str | None

    def __iter__(self) -> Iterator[TimedFrame]: ...


class Retimed:
    """A source whose frames are shown at other times, such as images, which store none."""

    def __init__(
        self, source: FrameSource, times: Sequence[tuple[Fraction, Fraction]], time_base: Fraction
    ) -> None:
        """Change the times of a source.

        Args:
            source: the frames.
            times: when each is shown and for how long, in seconds.
            time_base: unit of these times in seconds.
        """
        self.info = dataclasses.replace(source.info, time_base=time_base)
        self.damage: str | None = None
        self._source, self._times = source, times

    def __iter__(self) -> Iterator[TimedFrame]:
        for frame, (pts, duration) in zip(self._source, self._times, strict=True):
            yield dataclasses.replace(frame, pts=pts, duration=duration)
        self.damage = self._source.damage


@runtime_checkable
class FrameSink(Protocol):
    """Takes frames one by one.

    Leaving its ``with`` block completes the output, or removes it after an error.

    Attributes:
        conversion: to the planes that it stores, so that a device can convert frames before they
            come; None if it takes RGB.
    """

    conversion: Conversion | None

    def write(self, frame: TimedFrame) -> None:
        """Add a frame; pts must increase."""
        ...

    def __enter__(self) -> FrameSink: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class MappedSink:
    """A sink that changes each frame, which takes RGB, and passes it to another sink.

    Attributes:
        inner: the other sink.
    """

    conversion: Conversion | None = None

    def __init__(self, sink: FrameSink, change: Callable[[TimedFrame], TimedFrame]) -> None:
        self.inner, self._change = sink, change

    @property
    def broken(self) -> int:
        """Number of sound and subtitle packets left out, if the sink copies such streams."""
        return getattr(self.inner, "broken", 0)

    @property
    def done(self) -> int:
        """Number of frames that an earlier run has finished."""
        return getattr(self.inner, "done", 0)

    @property
    def kept(self) -> int:
        """Number of frames that the next run of the same job will not have to make."""
        return getattr(self.inner, "kept", 0)

    def write(self, frame: TimedFrame) -> None:
        """Change a frame and pass it on."""
        self.inner.write(self._change(frame))

    def __enter__(self) -> MappedSink:
        self.inner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.inner.__exit__(kind, error, traceback)
