# SPDX-License-Identifier: Apache-2.0
"""OpenEXR images hold linear light."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.sinks import open_sink
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.pixels.colour import Colour
from flavr_jax.video.stills import exr
from flavr_jax.video.stills.images import ImageFolder, ImageFolderWriter

INFO = ClipInfo(8, 6, Fraction(24), Fraction(1, 24))


def flat(value, channels=3, size=(6, 8)):
    return np.full((*size, channels), value, np.uint8)


def linear_light(channels=3):
    """What a renderer gives out: from nearly nothing to 180 times white, as 16-bit floats."""
    light = 2.0 ** np.random.default_rng(0).uniform(-6, 7.5, (6, 8, channels))
    light[..., 3:] = 0.5
    return light.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("channels", [3, 4])
def test_exr_keeps_every_16_bit_float(tmp_path, channels):
    (tmp_path / "in").mkdir()
    light = linear_light(channels)
    exr.write(tmp_path / "in" / "a.exr", light)
    source = ImageFolder(tmp_path / "in")
    with ImageFolderWriter(tmp_path / "out", source.info) as sink:
        for read in source:
            sink.write(TimedFrame(read.pixels, read.pts, read.duration))  # as if made
    written = exr.read(tmp_path / "out" / "frame_000001.exr")
    np.testing.assert_array_equal(written[..., :3], light[..., :3])
    np.testing.assert_allclose(written[..., 3:], light[..., 3:], atol=1e-4)


def test_exr_is_read_as_ffmpeg_reads_it(ffmpeg, tmp_path):
    light = linear_light()
    exr.write(tmp_path / "a.exr", light)
    arguments = ("-f", "rawvideo", "-pix_fmt", "gbrpf16le", "-")
    content, _ = ffmpeg("-i", tmp_path / "a.exr", *arguments)
    green, blue, red = np.frombuffer(content, np.float16).reshape(3, 6, 8)
    np.testing.assert_array_equal(exr.read(tmp_path / "a.exr"), np.stack([red, green, blue], -1))


def test_linear_light_is_shown_as_srgb_elsewhere(tmp_path):
    (tmp_path / "in").mkdir()
    exr.write(tmp_path / "in" / "a.exr", np.full((6, 8, 3), (0.18, 1.0, 40.0), np.float32))
    source = ImageFolder(tmp_path / "in")
    encoding = Encoding(images="png")
    with open_sink(f"{tmp_path}/out/", source.info, source=tmp_path, encoding=encoding) as sink:
        for read in source:
            sink.write(read)
    shown = next(iter(ImageFolder(tmp_path / "out"))).pixels[0, 0] / 65535
    # IEC 61966-2-1 of 0.18, of white, and of what is brighter than white.
    np.testing.assert_allclose(shown, [0.4614, 1, 1], atol=5e-4)


def test_srgb_becomes_linear_light_in_exr(tmp_path):
    with ImageFolderWriter(tmp_path / "out", INFO, encoding=Encoding(images="exr")) as sink:
        sink.write(TimedFrame(flat(118), Fraction(0), Fraction(1)))
    light = exr.read(tmp_path / "out" / "frame_000001.exr")
    np.testing.assert_allclose(light, 0.1812, atol=2e-4)


def test_hdr_video_is_not_written_as_exr(tmp_path):
    info = dataclasses.replace(INFO, colour=Colour(9, 1, 9, 16))
    with pytest.raises(ValueError, match="PQ and HLG video is not written as exr"):
        ImageFolderWriter(tmp_path / "out", info, encoding=Encoding(images="exr"))
