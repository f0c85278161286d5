# SPDX-License-Identifier: Apache-2.0
"""Video files out of timed frames: exact times, kept colours, copied audio, all or nothing.

MP4 and MOV count time in ticks of any length, so the tick is chosen such that every pts is whole;
Matroska rounds each pts to a millisecond.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, cast

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from flavr_jax.video.audio import AudioCopy
from flavr_jax.video.colour import from_rgb
from flavr_jax.video.frames import ClipInfo, FrameSink, TimedFrame, claim
from flavr_jax.video.images import ImageFolderWriter
from flavr_jax.video.reader import explained

__all__ = ["Encoding", "VideoWriter", "is_video_name", "open_sink"]

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")
_MOV_LIKE = (".mp4", ".mov")
# MP4 holds its ticks a second in 32 bits; below 10,000 FFmpeg takes a multiple of its own choice.
_FEWEST_TICKS, _MOST_TICKS = 10_000, 10**9

Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How frames are compressed.

    Attributes:
        codec: h264 plays everywhere, hevc is smaller, ffv1 is lossless (RGB, large).
        crf: quality of h264 and hevc, 0 (best) to 51; 18 is hard to tell from the source.
        preset: of h264 and hevc: slower makes smaller files.
    """

    codec: Literal["h264", "hevc", "ffv1"] = "h264"
    crf: int = 18
    preset: Preset = "medium"

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise ValueError(f"`crf` is {self.crf}; it goes from 0 (best) to 51.")

    @property
    def encoder(self) -> str:
        """FFmpeg's name of the encoder."""
        return {"h264": "libx264", "hevc": "libx265", "ffv1": "ffv1"}[self.codec]

    @property
    def options(self) -> dict[str, str]:
        """The encoder's own options."""
        quality = {"crf": str(self.crf), "preset": self.preset}
        return {
            "h264": quality,
            "hevc": {**quality, "x265-params": "log-level=error"},
            "ffv1": {"level": "3", "slicecrc": "1"},
        }[self.codec]

    def pixel_format(self, info: ClipInfo) -> str:
        """What pixels are stored as; a chroma sample for 2×2 pixels needs even sizes."""
        if self.codec == "ffv1":
            return "bgr0"
        return "yuv444p" if info.width % 2 or info.height % 2 else "yuv420p"


def is_video_name(name: str) -> bool:
    """Whether an output of this name is a video: it has a suffix and is no folder."""
    return bool(Path(name).suffix) and not name.endswith(("/", os.sep)) and not Path(name).is_dir()


def open_sink(
    name: str,
    info: ClipInfo,
    *,
    source: Path,
    audio: bool = True,
    encoding: Encoding = Encoding(),
    overwrite: bool = False,
) -> FrameSink:
    """A video file or a folder of PNG files, as ``is_video_name`` has it.

    Whatever can be known to fail fails here, before any frame is computed.

    Args:
        name: of the output; a folder may be marked by a slash at the end.
        info: of the frames to come.
        source: where the frames come from, which is never overwritten.
        audio: copy the source's audio, where both it and the output are video files.
        encoding: codec and quality of a video.
        overwrite: whether the output may exist.
    """
    path = Path(name)
    if path.resolve() == source.resolve():
        raise ValueError(f"{path} is the input itself. Use another --output.")
    if not is_video_name(name):
        return ImageFolderWriter(path, overwrite=overwrite)
    audio_from = source if audio and source.is_file() else None
    return VideoWriter(path, info, encoding=encoding, audio_from=audio_from, overwrite=overwrite)


class VideoWriter:
    """A video file, written as ``<name>.partial<suffix>`` and renamed when complete."""

    def __init__(
        self,
        path: Path,
        info: ClipInfo,
        *,
        encoding: Encoding = Encoding(),
        audio_from: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        """Create the partial file and write its header.

        Args:
            path: a name in .mp4, .mov or .mkv.
            info: size, rate, time base, pixel aspect and colour tags of the frames to come.
            encoding: codec and quality.
            audio_from: a file whose audio streams are copied, packet by packet.
            overwrite: whether ``path`` may exist.

        Raises:
            OSError: ``path`` exists or cannot be written.
            ValueError: the container cannot hold the streams.
        """
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise ValueError(
                f"{path} has the suffix {path.suffix!r}; videos are written as "
                f"{', '.join(VIDEO_SUFFIXES)}, and a name that ends in / is a folder of images."
            )
        self.path, self.info = path, info
        self._pixel_format = encoding.pixel_format(info)
        self._tick = Fraction(1, _ticks_per_second(info.time_base))
        self._partial = claim(path, overwrite=overwrite)
        with contextlib.ExitStack() as undo:
            undo.callback(self._partial.unlink, missing_ok=True)
            self._container = av.open(str(self._partial), "w", options=self._container_options())
            undo.callback(_close, self._container)
            with explained(
                f"{path.suffix} cannot hold this {encoding.codec} video and its audio; use another "
                f"suffix of {', '.join(VIDEO_SUFFIXES)}"
            ):
                self._stream = self._add_video(encoding)
                self._audio = None
                if audio_from is not None:
                    self._audio = AudioCopy(audio_from, self._container)
                    undo.callback(self._audio.close)
                self._container.start_encoding()
            self._undo = undo.pop_all()
        if self._pixel_format == "yuv444p":
            logger.warning(
                "%d×%d is an odd size: written as 4:4:4, which browsers and some players "
                "cannot show.",
                info.width,
                info.height,
            )

    def write(self, frame: TimedFrame) -> None:
        """Encode a frame and copy the audio up to it; pts must increase."""
        picture = from_rgb(frame.pixels, self._pixel_format, self.info.colour)
        picture.time_base = self._tick
        picture.pts = round(frame.pts / self._tick)
        picture.duration = round(frame.duration / self._tick)
        self._container.mux(self._stream.encode(picture))
        if self._audio is not None:
            self._audio.copy(until=frame.pts)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Once the partial file has its final name, removing it removes nothing.
        with self._undo:
            if kind is not None:
                return
            self._container.mux(self._stream.encode(None))
            if self._audio is not None:
                self._audio.copy()
            self._container.close()
            self._partial.replace(self.path)

    def _container_options(self) -> dict[str, str]:
        if self.path.suffix.lower() not in _MOV_LIKE:
            return {}
        # The start of a track is kept in the movie's ticks, which are 1 ms unless told otherwise.
        return {"movie_timescale": str(self._tick.denominator), "movflags": "+faststart"}

    def _add_video(self, encoding: Encoding) -> VideoStream:
        stream = cast(
            VideoStream,
            self._container.add_stream(
                encoding.encoder, rate=self.info.rate, options=encoding.options
            ),
        )
        stream.width, stream.height = self.info.width, self.info.height
        stream.pix_fmt = self._pixel_format
        stream.time_base = self._tick
        context = stream.codec_context
        context.time_base = self._tick
        context.sample_aspect_ratio = self.info.pixel_aspect
        tags = self.info.colour.stored_in(self._pixel_format, self.info.height)
        context.colorspace, context.color_range = tags.matrix, tags.levels
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        if encoding.codec == "hevc" and self.path.suffix.lower() in _MOV_LIKE:
            context.codec_tag = "hvc1"  # Apple's players refuse FFmpeg's default, hev1
        return stream


def _close(container: OutputContainer) -> None:
    """Close what is to be thrown away, or is closed already."""
    with contextlib.suppress(FFmpegError, ValueError):
        container.close()


def _ticks_per_second(time_base: Fraction) -> int:
    """A number of ticks that makes every multiple of ``time_base`` whole, or nanoseconds."""
    ticks = time_base.denominator
    return min(ticks * max(1, math.ceil(_FEWEST_TICKS / ticks)), _MOST_TICKS)
