# SPDX-License-Identifier: Apache-2.0
"""Sends one frame in K of a clip, encoded, with exact times: to a file or over a network."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, Literal, TypeAlias, cast

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import PictureType
from av.video.stream import VideoStream

from flavr_jax.bandwidth.rate_distortion import CODECS
from flavr_jax.bandwidth.rtp import PAYLOAD, RtpWriter
from flavr_jax.partial import written_whole
from flavr_jax.video.files.encoders import Encoding, Preset, options_of
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.pixels.colour import from_rgb, repacked
from flavr_jax.video.pixels.orientation import upright, upright_info

__all__ = ["TICK", "Sending", "Sent", "is_url", "send"]

Codec: TypeAlias = Literal["h264", "hevc", "av1"]

TICK = Fraction(1, 90000)
"""Unit of times in MPEG-TS, in seconds."""

_SCHEMES = ("rtp", "udp", "srt")


@dataclasses.dataclass(frozen=True)
class Sending:
    """How a clip is sent.

    Attributes:
        drop: K; one frame in K is sent.
        codec: h264, hevc or av1; MPEG-TS, which networks carry, holds the first two.
        crf: quality, from 0 (best) to 51, or 63 for av1; the default of 18 or 23 is hard to tell
            from the source.
        preset: slower presets need fewer bits.
        key: seconds between key frames, from which a receiver can begin and go on after a loss.
    """

    drop: int = 2
    codec: Codec = "h264"
    crf: int | None = None
    preset: Preset = "veryfast"
    key: float = 1.0

    def __post_init__(self) -> None:
        if self.drop < 1:
            raise ValueError(f"`drop` is {self.drop}; it is 1 (all frames) or more.")
        if self.key <= 0:
            raise ValueError(f"`key` is {self.key}; it is above 0.")


@dataclasses.dataclass
class Sent:
    """Counts of what was sent.

    Attributes:
        frames_in: frames read.
        frames: frames sent.
        bytes: bytes of their encoded packets.
        seconds: duration of the clip.
    """

    frames_in: int = 0
    frames: int = 0
    bytes: int = 0
    seconds: Fraction = Fraction(0)

    def __str__(self) -> str:
        rate = 8 * self.bytes / float(self.seconds or 1) / 1000
        return f"{self.frames} of {self.frames_in} frames, {self.bytes} bytes, {rate:.0f} kbit/s"


def is_url(name: str) -> bool:
    """Return whether a name is the address of a stream, not of a file."""
    return "://" in name


def send(
    frames: Iterable[TimedFrame],
    info: ClipInfo,
    target: str,
    sending: Sending = Sending(),
    *,
    overwrite: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Sent:
    """Send one frame in K; a network gets each when its time has come, a file at once.

    Frames after the last one that is sent are left out. Times are exact to a tick of 1/90000 s.
    Pictures are sent upright, because MPEG-TS stores no orientation.

    Args:
        frames: with increasing pts.
        info: their properties; both sides have to be even.
        target: a file (.ts, .mkv, .mp4), or a URL, rtp://host:port, udp://host:port or
            srt://host:port.
        sending: how.
        overwrite: whether a file may be replaced.
        sleep: waits for a number of seconds.

    Raises:
        ValueError: the sides are odd, or the target cannot hold the codec.
        OSError: the target cannot be opened.
    """
    summary = Sent()
    if info.width % 2 or info.height % 2:
        raise ValueError(
            f"frames have {info.width}×{info.height} pixels; both sides have to be even. Crop them."
        )
    matrix, info = info.display_matrix, upright_info(info)
    live = is_url(target)
    if live and sending.codec == "av1":
        raise ValueError("`codec` is av1, which MPEG-TS does not hold; use hevc, or send a file.")
    with _opened(target, overwrite) as container:
        stream = _stream(container, info, sending, live=live)
        clock = _Clock(sleep if live else None)
        for number, frame in enumerate(frames):
            summary.frames_in += 1
            summary.seconds = frame.pts + frame.duration
            if number % sending.drop:
                continue
            clock.wait(frame.pts)
            summary.frames += 1
            if matrix is not None:
                frame = upright(matrix, frame)
            _mux(container, stream.encode(_picture(frame, info)), summary)
        _mux(container, stream.encode(None), summary)
    return summary


class _Clock:
    """Waits until the time of each frame has come, counted from the first."""

    def __init__(self, sleep: Callable[[float], None] | None) -> None:
        self._sleep, self._start = sleep, 0.0
        self._first: Fraction | None = None

    def wait(self, pts: Fraction) -> None:
        if self._sleep is None:
            return
        if self._first is None:
            self._first, self._start = pts, time.monotonic()
        # Counted from the beginning, so that delays do not add up.
        due = self._start + float(pts - self._first)
        if (left := due - time.monotonic()) > 0:
            self._sleep(left)


@contextlib.contextmanager
def _opened(target: str, overwrite: bool) -> Iterator[OutputContainer]:
    """Open a file or a URL for writing."""
    if not is_url(target):
        with written_whole(target, overwrite=overwrite) as path, av.open(str(path), "w") as file:
            yield file
        return
    scheme = target.partition("://")[0]
    if scheme not in _SCHEMES:
        raise ValueError(f"{target} has the scheme {scheme!r}; use {', '.join(_SCHEMES)}.")
    if scheme == "rtp":
        with _explained(target), contextlib.closing(RtpWriter(target)) as writer:
            # Otherwise small frames would wait in a buffer of 32 kB.
            at_once = {"flush_packets": "1"}
            with av.open(writer, "w", format="mpegts", container_options=at_once) as container:
                yield container
        return
    url = f"{target}{'&' if '?' in target else '?'}pkt_size={PAYLOAD}"
    with _explained(target), av.open(url, "w", format="mpegts") as container:
        yield container


@contextlib.contextmanager
def _explained(target: str) -> Iterator[None]:
    try:
        yield
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"nothing can be sent to {target}: {reason}.") from error


def _stream(
    container: OutputContainer, info: ClipInfo, sending: Sending, *, live: bool
) -> VideoStream:
    rate = info.rate / sending.drop
    encoder = CODECS[sending.codec]
    encoding = Encoding(crf=sending.crf, preset=sending.preset)
    options: dict[str, str] = {**options_of(encoder, encoding, None)}
    options["g"] = str(max(1, round(sending.key * rate)))
    if sending.codec == "h264":
        # The stream then states the frame rate instead of the tick.
        options["x264-params"] = "force-cfr=1"
    if live and sending.codec in ("h264", "hevc"):
        # Otherwise these encoders hold frames back, to look ahead and to reorder them.
        options["tune"] = "zerolatency"
    stream = cast(VideoStream, container.add_stream(encoder, rate=rate, options=options))
    stream.width, stream.height, stream.pix_fmt = info.width, info.height, "yuv420p"
    stream.codec_context.time_base = TICK
    tags = info.colour.stored_in("yuv420p", info.height)
    context = stream.codec_context
    context.colorspace, context.color_range = tags.matrix, tags.levels
    context.color_primaries, context.color_trc = tags.primaries, tags.transfer
    context.sample_aspect_ratio = info.pixel_aspect
    if hasattr(context, "chroma_sample_location"):  # not in PyAV 18
        cast(Any, context).chroma_sample_location = tags.siting
    return stream


def _picture(frame: TimedFrame, info: ClipInfo) -> av.VideoFrame:
    original: Any = frame.original
    if original is not None and original.format.name == "yuv420p":
        picture = repacked(original, "yuv420p")
    else:
        picture = from_rgb(frame.pixels, "yuv420p", info.colour)
    picture.pts, picture.time_base = round(frame.pts / TICK), TICK
    picture.pict_type = PictureType.NONE  # the encoder chooses, not the source
    return picture


def _mux(container: OutputContainer, packets: list[Packet], summary: Sent) -> None:
    for packet in packets:
        summary.bytes += packet.size
        container.mux(packet)
