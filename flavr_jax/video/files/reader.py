# SPDX-License-Identifier: Apache-2.0
"""Reads video files, through PyAV (FFmpeg), as RGB frames with exact times.

FFmpeg does not report that a file ends before the end that its header states, so the reader
compares the two. It yields every frame that decodes, and ``damage`` says what is missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.format import names as pixel_formats  # pyright: ignore[reportAttributeAccessIssue]
from av.video.stream import VideoStream

from flavr_jax.video.files import decoding
from flavr_jax.video.files.names import PIPE, file_url, is_pipe
from flavr_jax.video.files.times import as_fraction, timeline_start
from flavr_jax.video.frames import ClipInfo, FrameSource, Origin, TimedFrame
from flavr_jax.video.pixels.colour import Colour, picture
from flavr_jax.video.pixels.hdr import StaticHDR
from flavr_jax.video.pixels.layout import Layout
from flavr_jax.video.pixels.orientation import display_matrix
from flavr_jax.video.stills.animations import WebPReader, plays_of_gif
from flavr_jax.video.stills.images import ImageFolder

__all__ = [
    "PIPE",
    "RawVideo",
    "VideoReader",
    "explained",
    "open_input",
    "open_source",
]


logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RawVideo:
    """Format of raw pictures, which have no header.

    Attributes:
        size: width and height, written as 1920x1080.
        pixel_format: FFmpeg's name of the pixel format.
        rate: frames per second.
    """

    size: str
    pixel_format: str = "yuv420p"
    rate: Fraction = Fraction(24)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9][0-9]*x[1-9][0-9]*", self.size):
            raise ValueError(f"The size is {self.size!r}; write it such as 1920x1080.")
        if self.pixel_format not in pixel_formats:
            raise ValueError(
                f"The pixel format is {self.pixel_format!r}, which FFmpeg does not know; write "
                "one such as yuv420p."
            )

    @property
    def options(self) -> dict[str, str]:
        """The same values as FFmpeg's options."""
        rate = f"{self.rate.numerator}/{self.rate.denominator}"
        return {"video_size": self.size, "pixel_format": self.pixel_format, "framerate": rate}


def open_source(
    path: Path,
    *,
    rate: Fraction = Fraction(24),
    raw: RawVideo | None = None,
    headroom: bool = False,
    threads: bool = False,
) -> FrameSource:
    """Open a video file, a folder of images, an animated WebP, or ``-`` for standard input.

    Args:
        path: where it is.
        rate: frames per second of a folder of images.
        raw: format of a file or pipe of raw pictures.
        headroom: as in ``VideoReader``. Set it if the pixels will be written to a video again, so
            that interpolated frames can be as bright as originals that exceed white.
        threads: as in ``VideoReader``.
    """
    if path.is_dir():
        return ImageFolder(path, rate=rate)
    if path.suffix.lower() == ".webp" and not is_pipe(path):
        return WebPReader(path)
    return VideoReader(path, raw=raw, headroom=headroom, threads=threads)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn FFmpeg's errors into a ValueError that begins with ``what``; OSErrors pass."""
    try:
        yield
    except OSError:
        raise
    except (FFmpegError, ValueError) as error:
        raise ValueError(f"{what} ({getattr(error, 'strerror', None) or error}).") from error


@contextlib.contextmanager
def open_input(path: Path, raw: RawVideo | None = None) -> Iterator[InputContainer]:
    """Open a file or standard input for reading.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is not a video.
    """
    # FFmpeg would take a name such as a%03d.gif for a numbered sequence of images.
    is_gif = "%" in path.name and path.suffix.lower() == ".gif"
    with explained(f"{path} is not a video that can be read"):
        container = av.open(
            "pipe:0" if path == PIPE else file_url(path),
            format="rawvideo" if raw else "gif" if is_gif else None,
            # A playlist in the file must not make FFmpeg open network connections.
            options={"protocol_whitelist": "file,pipe", **(raw.options if raw else {})},
        )
    with container:
        yield container


class _DamagedError(Exception):
    """A packet cannot be decoded."""


class VideoReader:
    """The first video stream of a file; cover pictures do not count as video.

    A frame's pts is exact, and its ``original`` is the decoded picture. Pixels are converted to
    RGB with the stream's matrix and range, in 16 bits if the source has more than 8. Untagged video
    is taken as limited range, with BT.709 from 720 lines on and BT.601 below. Rotated pictures are
    returned as stored: ``info.display_matrix`` says how to show them.
    """

    def __init__(
        self,
        path: Path,
        *,
        raw: RawVideo | None = None,
        headroom: bool = False,
        threads: bool = False,
    ) -> None:
        """Open ``path`` and decode its first frame.

        Args:
            path: a file; or ``-`` for standard input, a named pipe or a device, which can be read
                only once.
            raw: format of a file or pipe of raw pictures.
            headroom: whether pixels keep the values that limited range has below black and above
                white.
            threads: decode several frames at a time, if the codec permits it. Otherwise, threads
                share a frame, if it consists of slices.

        Raises:
            OSError: the file is missing or cannot be read.
            ValueError: it is not a video, or no frame of it decodes.
        """
        self.path = path
        self.damage: str | None = None
        self._raw, self._threads = raw, threads
        self._size = 0 if is_pipe(path) else path.stat().st_size
        self._opened = contextlib.ExitStack()
        container = self._opened.enter_context(open_input(path, raw))
        with contextlib.ExitStack() as failed:
            failed.push(self._opened)
            stream = _video_stream(container, path)
            frames = self._decode(container, stream)
            first = next(frames, None)
            if first is None:
                reason = f": {self.damage}" if self.damage else ""
                raise ValueError(f"{path} has no frame that can be decoded{reason}.")
            self.info = _info(container, stream, first)
            if container.format.name == "gif" and not is_pipe(path):
                # FFmpeg reads the repeat count, but does not pass it on.
                self.info = dataclasses.replace(self.info, plays=plays_of_gif(path))
            self._tell_of_losses(container, first)
            if headroom:
                colour = self.info.colour.with_headroom()
                self.info = dataclasses.replace(self.info, colour=colour)
            failed.pop_all()
        self._start = timeline_start(container)
        self._frames: Iterator[av.VideoFrame] | None = itertools.chain([first], frames)
        # A file is opened again for each iteration; a pipe stays open and keeps its first frame.
        if not is_pipe(path):
            self._frames = None
            self._opened.close()

    def _tell_of_losses(self, container: InputContainer, frame: av.VideoFrame) -> None:
        """Log a line for each property that is not carried over."""
        if frame.interlaced_frame:
            logger.warning(
                "%s is interlaced; its two fields are taken for one picture. Deinterlace it first.",
                self.path,
            )
        if StaticHDR.moving(frame):
            logger.warning("%s: HDR10+ and Dolby Vision metadata are left out.", self.path)
        if is_pipe(self.path) and len(container.streams) > 1:
            logger.warning("Only pictures are read from a pipe; sound and subtitles are left out.")

    def __iter__(self) -> Iterator[TimedFrame]:
        return self.since(Fraction(0))

    def since(self, start: Fraction) -> Iterator[TimedFrame]:
        """Yield the frames from a time on, in seconds; MP4 and Matroska are not read before it."""
        if not is_pipe(self.path):
            last: Fraction | None = None
            if self._threads:
                try:
                    for frame in self._opened_since(start, self._decode_in_threads):
                        last = frame.pts
                        yield frame
                    return
                except _DamagedError:
                    decoding.check_readable(self.path, self._size, 0)
            # If damaged, once more without threads, which lose frames beside the damaged ones.
            for frame in self._opened_since(start, self._decode):
                if last is None or frame.pts > last:
                    yield frame
            return
        if self._frames is None:
            raise ValueError(f"{self.path} is a pipe, which can be read only once; use a file.")
        frames, self._frames = self._frames, None
        with self._opened:
            yield from self._timed(frames, start)

    def _opened_since(
        self,
        start: Fraction,
        decode: Callable[[InputContainer, VideoStream], Iterator[av.VideoFrame]],
    ) -> Iterator[TimedFrame]:
        """Open the file and yield the frames from a time on, in seconds."""
        with open_input(self.path, self._raw) as container:
            stream = _video_stream(container, self.path)
            self.damage = None
            frames = decoding.sought(container, stream, start, decode)
            yield from self._timed(frames, start)

    def _timed(
        self, frames: Iterator[av.VideoFrame], start: Fraction = Fraction(0)
    ) -> Iterator[TimedFrame]:
        """Convert decoded frames from a time on to pixels and times in seconds."""
        last: Fraction | None = None
        size = self.info.width, self.info.height
        kind = Layout.of(self.info.pixel_format)
        for index, frame in enumerate(frames):
            now = Layout.of(frame.format.name)
            if (now.pixel_bits, now.alpha) != (kind.pixel_bits, kind.alpha):
                change = f"from {self.info.pixel_format} to {frame.format.name}"
            elif (frame.width, frame.height) != size:
                change = f"from {size[0]}×{size[1]} to {frame.width}×{frame.height}"
            else:
                change = None
            if change is not None:
                # The frames before may have taken hours to process: end the clip, do not raise.
                self.damage = (
                    f"it changes {change} at frame {index + 1}; a clip has one size and depth"
                )
                return
            duration = (frame.duration or 0) * self.info.time_base or 1 / self.info.rate
            pts = None if frame.pts is None else frame.pts * self.info.time_base - self._start
            # A frame without a usable time (raw streams, broken indices) follows the one before.
            if pts is None or (last is not None and pts <= last):
                pts = Fraction(0) if last is None else last + duration
            last = pts
            if pts < start and start > 0:
                continue  # conversion to RGB would take more time than decoding
            frame.opaque = Origin(index)
            yield TimedFrame(picture(frame, self.info.colour), pts, duration, frame)

    def _decode_in_threads(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[av.VideoFrame]:
        """Yield the stream's frames, several of which are decoded at a time.

        Raises:
            _DamagedError: some packet cannot be decoded. FFmpeg says so after later packets, and
                PyAV drops the frames between.
        """
        stream.thread_type = "AUTO"
        return self._decode(container, stream, strict=True)

    def _decode(
        self, container: InputContainer, stream: VideoStream, *, strict: bool = False
    ) -> Iterator[av.VideoFrame]:
        """Yield the stream's frames, and set ``damage`` if the file is broken or incomplete.

        With ``strict``, raise an error at the first packet that cannot be decoded.
        """
        end, position = Fraction(0), 0
        # Packets of all streams are read, because the stated end is that of the whole file.
        packets = container.demux()
        decode = decoding.decoder(stream)
        if container.format.name == "avi" and stream.codec_context.has_b_frames:
            decode = decoding.at_decoding_times(decode)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                position = max(position, packet.pos or 0)
                base = as_fraction(packet.time_base)
                if packet.pts is not None and base:
                    end = max(end, (packet.pts + (packet.duration or 0)) * base)
                if packet.is_corrupt:
                    self.damage = "a packet is incomplete"
                    if strict:
                        raise _DamagedError
                # In MPEG-TS, packets are marked where the continuity counter jumps. In joined files
                # it jumps between complete packets, so these are decoded. In other formats the mark
                # means that part of the packet is missing.
                if packet.is_corrupt and container.format.name != "mpegts":
                    continue
                if packet.stream.index == stream.index:
                    yield from decode(packet)
            except FFmpegError as error:
                if strict:
                    raise _DamagedError from error
                self.damage = str(error.strerror)
        missing = _stated_end(container) - end
        # Rounding in headers and padding of audio codecs are smaller than this.
        if missing > max(Fraction(1, 10), 3 / (2 * _rate(stream))):
            self.damage = f"the last {float(missing):.2f} seconds are missing"
        if self.damage is not None and not is_pipe(self.path):
            decoding.check_readable(self.path, self._size, position)


def _info(container: InputContainer, stream: VideoStream, frame: av.VideoFrame) -> ClipInfo:
    """Describe a clip by its stream and its first frame."""
    seconds = Fraction(container.duration or 0, av.time_base)
    return ClipInfo(
        width=frame.width,
        height=frame.height,
        rate=_rate(stream),
        time_base=as_fraction(stream.time_base) or Fraction(1, 90000),
        frame_count=stream.frames or round(seconds * _rate(stream)) or None,
        pixel_aspect=as_fraction(stream.sample_aspect_ratio) or Fraction(1),
        colour=Colour.of(frame),
        pixel_format=frame.format.name,
        display_matrix=display_matrix(frame),
        hdr=StaticHDR.of(frame),
    )


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the first stream with moving pictures."""
    # FFmpeg renders text files as the video of a terminal (format `tty`).
    if container.format.name != "tty":
        for stream in container.streams.video:
            if stream.disposition & Disposition.attached_pic:
                continue
            if getattr(stream, "codec_context", None) is None:
                raise ValueError(
                    f"{path} has video in a codec that this FFmpeg does not know; convert it to "
                    "another, such as H.264."
                )
            return stream
    raise ValueError(f"{path} is not a video: it has no video stream.")


def _rate(stream: VideoStream) -> Fraction:
    """Return the average frames per second; 25 if the file gives none."""
    average, guessed = as_fraction(stream.average_rate), as_fraction(stream.guessed_rate)
    base = as_fraction(stream.time_base)
    # For DV of 29.97 frames/s, FFmpeg's average is the tick rate, 60000 per second.
    if average and guessed and base and average * base >= 1 and guessed < average:
        return guessed
    return average or guessed or Fraction(25)


def _stated_end(container: InputContainer) -> Fraction:
    """Return the end that the header states, in seconds; 0 for formats that state none."""
    name = container.format.name
    if container.duration is None or not name.startswith(("mov,", "matroska,")):
        return Fraction(0)
    # Matroska counts its duration from zero, MP4 and MOV from the first frame.
    start = 0 if name.startswith("matroska,") else container.start_time or 0
    return Fraction(start + container.duration, av.time_base)
