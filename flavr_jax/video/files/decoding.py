# SPDX-License-Identifier: Apache-2.0
"""Decoding of single packets, and seeking, where FFmpeg's own behaviour has to be corrected."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from flavr_jax.video.files.times import as_fraction

__all__ = ["at_decoding_times", "check_readable", "decoder", "sought"]

_INDEXED = ("mov,", "matroska,")
# Seconds. Frames that are shown before a key frame may follow it in the file and lack what they
# refer to, so the key frame is looked for well before the time that is wanted.
_MARGIN = Fraction(2)
_PROBED = 1 << 20  # bytes


def decoder(stream: VideoStream) -> Callable[[Packet], list[av.VideoFrame]]:
    """Return the function that decodes a packet.

    VP9 keeps alpha in a second stream inside the packets, which only libvpx decodes.
    """
    if stream.name != "vp9" or stream.metadata.get("alpha_mode") != "1":
        return stream.decode
    context = av.VideoCodecContext.create("libvpx-vp9", "r")
    return lambda packet: context.decode(packet if packet.size else None)


def at_decoding_times(
    decode: Callable[[Packet], list[av.VideoFrame]],
) -> Callable[[Packet], list[av.VideoFrame]]:
    """Return a decoder that gives the frames of an AVI with B-frames their right times.

    AVI stores when packets are decoded, in order, not when frames are shown. FFmpeg passes these
    times on as pts, so the pts of the frames shown are out of order. Each packet holds one frame,
    so the n-th frame shown gets the n-th of these times.
    """
    times: deque[int | None] = deque()

    def timed(packet: Packet) -> list[av.VideoFrame]:
        if packet.size:
            times.append(packet.dts)
        try:
            frames = decode(packet)
        except FFmpegError:
            times.pop()  # this packet yields no frame
            raise
        for frame in frames:
            frame.pts = times.popleft() if times else None
        return frames

    return timed


def sought(
    container: InputContainer,
    stream: VideoStream,
    start: Fraction,
    decode: Callable[[InputContainer, VideoStream], Iterator[av.VideoFrame]],
) -> Iterator[av.VideoFrame]:
    """Return the frames from a key frame before ``start`` on; all frames if the file has no index.

    Args:
        container: an open file.
        stream: its video stream.
        start: time in seconds.
        decode: decodes the stream from the container's position on.
    """
    frames = decode(container, stream)
    base = as_fraction(stream.time_base)
    if start <= _MARGIN or base is None or not container.format.name.startswith(_INDEXED):
        return frames
    try:
        container.seek(round((start - _MARGIN) / base), stream=stream)
        first = next(frames, None)
    except FFmpegError:
        first = None
    if first is not None and first.pts is not None and first.pts * base <= start - _MARGIN:
        return itertools.chain([first], frames)
    container.seek(0)
    return decode(container, stream)


def check_readable(path: Path, size: int, position: int) -> None:
    """Raise an error if a file that decodes badly cannot be read, or lost its end meanwhile.

    FFmpeg reports a disk that fails as if the file were damaged. Damage stays, so the rest of the
    clip is given up; a disk may come back, so the run should stop and go on later.

    Args:
        path: the file.
        size: bytes that it had when it was opened.
        position: where in it reading failed.

    Raises:
        OSError: the file cannot be read, or is shorter now.
    """
    try:
        with path.open("rb") as file:
            now = file.seek(0, os.SEEK_END)
            file.seek(min(position, max(0, now - _PROBED)))
            file.read(_PROBED)
    except OSError as error:
        raise OSError(
            f"{path} cannot be read any more ({error.strerror}). Run this again when it can."
        ) from error
    if now < size:
        raise OSError(
            f"{path} had {size} bytes when it was opened, and has {now} now. Restore it, and run "
            "this again."
        )
