# SPDX-License-Identifier: Apache-2.0
"""Small inputs for tests of commands, and what their outputs hold."""

from __future__ import annotations

from fractions import Fraction

import av
import imageio.v3 as imageio
import numpy as np

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.writer import VideoWriter
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.pixels.colour import Colour

FILM = Fraction(1001, 24000)


def pictures(count, size=(32, 24)):
    x, y = np.arange(size[0])[None, :, None], np.arange(size[1])[:, None, None]
    for index in range(count):
        wave = np.sin((x - 3 * index) / 5 + y / 7 + np.array([0.0, 2.0, 4.0]))
        yield (127 + 90 * wave).astype(np.uint8)


def write_clip(path, count=3, *, size=(32, 24), aspect=Fraction(1), others=None, times=None):
    info = ClipInfo(*size, 1 / FILM, Fraction(1, 24000), None, aspect, Colour(1, 1, 1, 1))
    times = times or [index * FILM for index in range(count)]
    with VideoWriter(path, info, encoding=Encoding(crf=1), others=others) as sink:
        for pixels, pts in zip(pictures(count, size), times, strict=True):
            sink.write(TimedFrame(pixels, pts, FILM))
    return path


def write_folder(path, count=3, size=(32, 24)):
    path.mkdir()
    for index, pixels in enumerate(pictures(count, size)):
        imageio.imwrite(path / f"{index}.png", pixels)
    return path


def write_tone(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = (3000 * np.sin(np.arange(1000) / 3)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    return path


def times_of(path):
    with av.open(str(path)) as container:
        return [
            frame.pts * Fraction(frame.time_base.numerator, frame.time_base.denominator)
            for frame in container.decode(video=0)
        ]


def sound_of(path):
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        return b"".join(bytes(packet) for packet in container.demux(audio=0))
