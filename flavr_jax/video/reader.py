# SPDX-License-Identifier: Apache-2.0
"""Video files as streams of RGB frames with exact times, through PyAV (FFmpeg inside).

FFmpeg says nothing when a file ends before its header said it would, so the reader compares the
two: what decodes is given out, and ``damage`` tells what is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.stream import Disposition
from av.video.stream import VideoStream

from flavr_jax.video.colour import RGB, Colour, to_rgb
from flavr_jax.video.frames import ClipInfo, FrameSource, TimedFrame
from flavr_jax.video.images import ImageFolder

__all__ = [
    "VideoReader",
    "as_fraction",
    "explained",
    "open_input",
    "open_source",
    "timeline_start",
]


def open_source(path: Path, *, rate: Fraction = Fraction(24)) -> FrameSource:
    """A video file or a folder of images as a frame source; ``rate`` is for the folder."""
    return ImageFolder(path, rate=rate) if path.is_dir() else VideoReader(path)


def as_fraction(value: Any) -> Fraction | None:
    """FFmpeg's rational as a Fraction; None where unset.

    PyAV 18 has Fraction or None, PyAV 19 its own AVRational with a zero somewhere.
    """
    if value is None or not value.numerator or not value.denominator:
        return None
    return Fraction(value.numerator, value.denominator)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn FFmpeg's complaints into a ValueError that begins with ``what``; OSErrors pass."""
    try:
        yield
    except OSError:
        raise
    except (FFmpegError, ValueError) as error:
        raise ValueError(f"{what} ({getattr(error, 'strerror', None) or error}).") from error


@contextlib.contextmanager
def open_input(path: Path) -> Iterator[InputContainer]:
    """A file opened for reading.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is not a video.
    """
    with explained(f"{path} is not a video that can be read"):
        container = av.open(str(path))
    with container:
        yield container


def timeline_start(container: InputContainer) -> Fraction:
    """The container's time that counts as zero.

    Broadcast formats (MPEG-TS, MPEG-PS) run on the sender's clock, which starts anywhere; there it
    is the first stream's start. Elsewhere zero means zero.
    """
    if not container.format.flags & Flags.ts_discont.value:
        return Fraction(0)
    starts = [
        stream.start_time * base
        for stream in container.streams
        if stream.start_time is not None and (base := as_fraction(stream.time_base))
    ]
    return min(starts, default=Fraction(0))


class VideoReader:
    """The first video stream of a file; cover pictures do not count as video.

    A frame's pts is exact. Colours are converted by the stream's matrix and range; what is untagged
    is taken for BT.709 from 720 lines on, for BT.601 below, and for limited range. Frames are
    turned upright where the file says that they are stored in quarter turns.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path`` and decode its first frame.

        Raises:
            OSError: the file is missing or cannot be read.
            ValueError: it is not a video, or no frame of it decodes.
        """
        self.path = path
        self.damage: str | None = None
        with open_input(path) as container:
            stream = _video_stream(container, path)
            frame = next(self._decode(container, stream), None)
            if frame is None:
                reason = f": {self.damage}" if self.damage else ""
                raise ValueError(f"{path} has no frame that can be decoded{reason}.")
            aspect = as_fraction(stream.sample_aspect_ratio) or Fraction(1)
            turned = _quarter_turns(frame) % 2 == 1
            seconds = Fraction(container.duration or 0, av.time_base)
            self.info = ClipInfo(
                width=frame.height if turned else frame.width,
                height=frame.width if turned else frame.height,
                rate=_rate(stream),
                time_base=as_fraction(stream.time_base) or Fraction(1, 90000),
                frame_count=stream.frames or round(seconds * _rate(stream)) or None,
                pixel_aspect=1 / aspect if turned else aspect,
                colour=Colour(
                    matrix=RGB if frame.format.is_rgb else int(frame.colorspace),
                    levels=int(frame.color_range),
                    primaries=int(frame.color_primaries),
                    transfer=int(frame.color_trc),
                ),
            )

    def __iter__(self) -> Iterator[TimedFrame]:
        self.damage = None
        last: Fraction | None = None
        with open_input(self.path) as container:
            stream = _video_stream(container, self.path)
            start = timeline_start(container)
            for frame in self._decode(container, stream):
                pixels = np.rot90(to_rgb(frame, self.info.colour), _quarter_turns(frame))
                if pixels.shape[:2] != (self.info.height, self.info.width):
                    raise ValueError(
                        f"{self.path} changes size from {self.info.width}×{self.info.height} to "
                        f"{pixels.shape[1]}×{pixels.shape[0]}; a clip has one size."
                    )
                duration = (frame.duration or 0) * self.info.time_base or 1 / self.info.rate
                pts = None if frame.pts is None else frame.pts * self.info.time_base - start
                # Files without usable times (raw streams, broken indices) run at their rate.
                if pts is None or (last is not None and pts <= last):
                    pts = Fraction(0) if last is None else last + duration
                last = pts
                yield TimedFrame(np.ascontiguousarray(pixels), pts, duration)

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
        """The stream's frames; ``damage`` then tells what of the file is broken or missing."""
        end = Fraction(0)
        packets = container.demux()
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                base = as_fraction(packet.time_base)
                if packet.pts is not None and base:
                    end = max(end, (packet.pts + (packet.duration or 0)) * base)
                if packet.is_corrupt:
                    self.damage = "a packet is incomplete"
                elif packet.stream.index == stream.index:
                    yield from stream.decode(packet)
            except FFmpegError as error:
                self.damage = str(error.strerror)
        missing = _stated_end(container) - end
        # Rounding in headers and the padding of audio codecs stay below this.
        if missing > max(Fraction(1, 10), 3 / (2 * _rate(stream))):
            self.damage = f"the last {float(missing):.2f} seconds are missing"


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first stream with moving pictures."""
    # FFmpeg shows text files as a terminal would, on video.
    if container.format.name != "tty":
        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic:
                return stream
    raise ValueError(f"{path} is not a video: it has no video stream.")


def _rate(stream: VideoStream) -> Fraction:
    """Average frames per second; 25 where the file gives no hint."""
    return as_fraction(stream.average_rate) or as_fraction(stream.guessed_rate) or Fraction(25)


def _quarter_turns(frame: av.VideoFrame) -> int:
    """How often to turn the stored picture by 90° counterclockwise; other angles are ignored."""
    return frame.rotation // 90 if frame.rotation % 90 == 0 else 0


def _stated_end(container: InputContainer) -> Fraction:
    """Where the header says that the clip ends; 0 for formats whose header does not say."""
    states_it = container.format.name.startswith(("mov,", "matroska,"))
    if not states_it or container.duration is None:
        return Fraction(0)
    return Fraction((container.start_time or 0) + container.duration, av.time_base)
