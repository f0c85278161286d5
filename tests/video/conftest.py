# SPDX-License-Identifier: Apache-2.0
"""Clips written with PyAV alone, so that the library is not tested against itself."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def picture(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A smooth picture that moves to the right with ``index``."""
    x = np.arange(width)[None, :, None] - 2 * index
    y = np.arange(height)[:, None, None]
    phase = np.array([0.0, 2.0, 4.0])
    return (127 + 90 * np.sin(x / 9 + y / 13 + phase)).astype(np.uint8)


def add_video(container, size, *, codec, pix_fmt, tick, options, tags, aspect):
    stream = container.add_stream(codec, rate=24, options=options)
    stream.width, stream.height = size
    stream.pix_fmt = pix_fmt
    stream.time_base = stream.codec_context.time_base = tick
    if aspect is not None:
        stream.codec_context.sample_aspect_ratio = aspect
    if tags is not None:
        context = stream.codec_context
        context.colorspace, context.color_range = tags[0], tags[1]
        context.color_primaries, context.color_trc = tags[2], tags[3]
    return stream


@pytest.fixture
def make_clip(tmp_path):
    """Write a clip: ``make_clip("a.mp4", pts=[…])``; ``frames`` are planes or RGB pictures."""

    def make(
        name: str = "clip.mp4",
        *,
        pts: list[Fraction] | None = None,
        frames: list | None = None,
        size: tuple[int, int] = (64, 48),
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        options: dict[str, str] | None = None,
        container_options: dict[str, str] | None = None,
        tick: Fraction = Fraction(1, 24000),
        tags: tuple[int, int, int, int] | None = None,
        aspect: Fraction | None = None,
        audio: str | None = None,
        cover: bytes | None = None,
    ) -> Path:
        pts = [Fraction(i, 24) for i in range(5)] if pts is None else pts
        path = tmp_path / name
        with av.open(str(path), "w", options=container_options or {}) as container:
            stream = add_video(
                container, size, codec=codec, pix_fmt=pix_fmt, tick=tick,
                options=options or {}, tags=tags, aspect=aspect,
            )  # fmt: skip
            sound = container.add_stream(audio, rate=48000, layout="mono") if audio else None
            if cover:
                container.add_attachment("cover.jpg", "image/jpeg", cover)
            container.start_encoding()
            for index, time in enumerate(pts):
                if frames is None:
                    pixels = picture(index, *size)
                    frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pix_fmt)
                else:
                    frame = frames[index]
                frame.pts, frame.time_base = int(time / tick), tick
                following = pts[index + 1] if index + 1 < len(pts) else time + Fraction(1, 24)
                frame.duration = int((following - time) / tick)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if sound is not None:
                seconds = float(pts[-1] - pts[0]) + 0.05
                for index in range(int(seconds * 48000 / 1024) + 1):
                    tone = np.sin(np.arange(1024) * 0.05 + index)[None].astype(np.float32)
                    chunk = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                    chunk.sample_rate, chunk.time_base = 48000, Fraction(1, 48000)
                    chunk.pts = index * 1024 + int(pts[0] * 48000)
                    container.mux(sound.encode(chunk))
                container.mux(sound.encode(None))
        return path

    return make


def _exact(value) -> Fraction:
    return Fraction(value.numerator, value.denominator)


@pytest.fixture
def times_of():
    """The pts of a file's decoded video frames, as PyAV alone reads them."""

    def times(path: Path) -> list[Fraction]:
        with av.open(str(path)) as container:
            return [frame.pts * _exact(frame.time_base) for frame in container.decode(video=0)]

    return times


@pytest.fixture
def packets_of():
    """(time in seconds, bytes) of a file's audio packets."""

    def packets(path: Path) -> list[tuple[Fraction, bytes]]:
        with av.open(str(path)) as container:
            return [
                (packet.pts * _exact(packet.time_base), bytes(packet))
                for packet in container.demux(audio=0)
                if packet.size
            ]

    return packets
