# SPDX-License-Identifier: Apache-2.0
"""Single images of every format keep depth, transparency and originals."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.stills.images import ImageFolder, ImageFolderWriter

INFO = ClipInfo(8, 6, Fraction(24), Fraction(1, 24))


def flat(value, channels=3, size=(6, 8)):
    return np.full((*size, channels), value, np.uint8)


def deep(channels, size=(6, 8)):
    return np.random.default_rng(0).integers(0, 65536, (*size, channels), dtype=np.uint16)


def ffmpeg_values(ffmpeg, path, pixel_format):
    kind = np.dtype("<u2") if "48" in pixel_format or "64" in pixel_format else np.uint8
    content, _ = ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", pixel_format, "-")
    return np.frombuffer(content, kind).reshape(6, 8, -1)


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize(("channels", "form"), [(3, "rgb48le"), (4, "rgba64le")])
def test_16_bits_and_alpha_survive(ffmpeg, tmp_path, kind, channels, form):
    info = dataclasses.replace(INFO, pixel_format=form)
    pixels = deep(channels)
    with ImageFolderWriter(tmp_path / "out", info, encoding=Encoding(images=kind)) as sink:
        sink.write(TimedFrame(pixels, Fraction(0), Fraction(1, 24)))
    path = tmp_path / "out" / f"frame_000001.{kind}"
    np.testing.assert_array_equal(ffmpeg_values(ffmpeg, path, form), pixels)
    source = ImageFolder(tmp_path / "out")
    assert source.info.pixel_format == form
    np.testing.assert_array_equal(next(iter(source)).pixels, pixels)


def test_16_bit_grey_is_read(tmp_path):
    values = deep(1)[..., 0]
    Image.fromarray(values).save(tmp_path / "a.png")
    (read,) = ImageFolder(tmp_path)
    np.testing.assert_array_equal(read.pixels, np.repeat(values[..., None], 3, axis=-1))


def test_8_bit_images_join_16_bit_ones(tmp_path):
    Image.fromarray(deep(1)[..., 0]).save(tmp_path / "0.png")
    imageio.imwrite(tmp_path / "1.png", flat(128))
    first, second = ImageFolder(tmp_path)
    assert first.pixels.dtype == second.pixels.dtype == np.uint16
    assert set(second.pixels.ravel()) == {128 * 257}


@pytest.mark.parametrize(("kind", "suffix"), [("jpg", "jpeg"), ("png", "png"), ("tiff", "tif")])
def test_originals_of_the_same_kind_are_copied_byte_for_byte(tmp_path, kind, suffix):
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    imageio.imwrite(tmp_path / "in" / f"a.{suffix}", noise, plugin="pillow")
    source = ImageFolder(tmp_path / "in")
    encoding = Encoding(images=kind)
    with ImageFolderWriter(tmp_path / "out", source.info, encoding=encoding) as sink:
        for read in source:
            sink.write(read)
            sink.write(TimedFrame(read.pixels, read.pts + 1, read.duration))  # a made one
    written = tmp_path / "out" / f"frame_000001.{kind}"
    assert written.read_bytes() == (tmp_path / "in" / f"a.{suffix}").read_bytes()
    made = imageio.imread(tmp_path / "out" / f"frame_000002.{kind}", plugin="pillow")
    assert np.abs(made.astype(int) - imageio.imread(written, plugin="pillow")).mean() <= (
        4 if kind == "jpg" else 0
    )


def test_jpeg_without_alpha_and_in_8_bits(tmp_path, caplog):
    info = dataclasses.replace(INFO, pixel_format="rgba64le")
    with ImageFolderWriter(tmp_path / "out", info, encoding=Encoding(images="jpg")) as sink:
        sink.write(TimedFrame(np.full((6, 8, 4), 128 * 257, np.uint16), Fraction(0), Fraction(1)))
    assert "lose transparency" in caplog.text
    image = imageio.imread(tmp_path / "out" / "frame_000001.jpg")
    assert np.abs(image.astype(int) - 128).max() <= 1
