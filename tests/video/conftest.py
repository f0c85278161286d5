# SPDX-License-Identifier: Apache-2.0
"""Clips written with PyAV alone and read by ffmpeg, so that nothing is tested against itself."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import open_source
from flavr_jax.video.files.sinks import open_sink
from flavr_jax.video.frames import TimedFrame


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
        rotation: int = 0,
        extra_video: str | None = None,
    ) -> Path:
        pts = [Fraction(i, 24) for i in range(5)] if pts is None else pts
        path = tmp_path / name
        with av.open(str(path), "w", options=container_options or {}) as container:
            stream = add_video(
                container, size, codec=codec, pix_fmt=pix_fmt, tick=tick,
                options=options or {}, tags=tags, aspect=aspect,
            )  # fmt: skip
            if extra_video:
                container.add_stream(extra_video, rate=24, width=32, height=32)
            if rotation:
                stream.set_display_rotation(rotation)
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


OLDEST_ORACLE = (7, 0)
"""FFmpeg 5.1 misreads yuv444p in H.264, prints no MaxCLL and cannot convert to half floats."""


def version_of(program: str) -> tuple[int, ...]:
    """The version that an ffmpeg program reports, such as (7, 0, 2); () for an unnumbered build."""
    banner = subprocess.run([program, "-version"], capture_output=True, check=True, timeout=60)
    found = re.match(r"ffmpeg version n?(\d+(?:\.\d+)*)", banner.stdout.decode())
    return tuple(int(part) for part in found[1].split(".")) if found else ()


@pytest.fixture(scope="session")
def ffmpeg():
    """Run ffmpeg, a reader that shares no code with ours: bytes of stdout, and what it reports.

    The program is the one that imageio-ffmpeg brings along, never the one on the PATH, which may
    be of any age. On platforms where imageio-ffmpeg has none, it looks on the PATH too.
    """
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="install the `test` extra")
    program = imageio_ffmpeg.get_ffmpeg_exe()
    version = version_of(program)
    if version and version < OLDEST_ORACLE:
        pytest.skip(f"{program} is FFmpeg {version}; the tests need {OLDEST_ORACLE} or newer.")

    def run(*arguments) -> tuple[bytes, str]:
        command = [program, "-hide_banner", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        return done.stdout, done.stderr.decode()

    return run


@pytest.fixture
def pass_through():
    """Read a file and write it with a made frame, the mean, inside each interval."""

    def run(source, name, *, stretch=1, encoding=None, headroom=True):
        reader = open_source(source, headroom=headroom)
        info = dataclasses.replace(
            reader.info, rate=2 * reader.info.rate / stretch, time_base=reader.info.time_base / 2
        )
        sink = open_sink(
            name, info, source=source, stretch=Fraction(stretch), encoding=encoding or Encoding()
        )
        before = None
        with sink:
            for frame in reader:
                if before is not None:
                    half = (frame.pts - before.pts) / 2
                    pixels = (before.pixels.astype(np.uint32) + frame.pixels) // 2
                    pts = (before.pts + half) * stretch
                    made = TimedFrame(pixels.astype(frame.pixels.dtype), pts, half * stretch)
                    sink.write(made)
                sink.write(
                    dataclasses.replace(
                        frame, pts=frame.pts * stretch, duration=frame.duration * stretch / 2
                    )
                )
                before = frame
        return sink

    return run
