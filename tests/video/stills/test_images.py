# SPDX-License-Identifier: Apache-2.0
"""Folders of images as clips: their order, times, sizes and damage."""

from __future__ import annotations

import errno
import logging
import os
import struct
import zlib
from fractions import Fraction
from pathlib import Path

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


def frame(value=0):
    return TimedFrame(flat(value), Fraction(0), Fraction(1, 24))


def test_images_come_in_natural_order(tmp_path):
    for name, value in [("f10.png", 3), ("F2.png", 1), ("f9.PNG", 2), ("f1.png", 0)]:
        imageio.imwrite(tmp_path / name, flat(value))
    assert [f.pixels[0, 0, 0] for f in ImageFolder(tmp_path)] == [0, 1, 2, 3]


def test_times_follow_the_rate(tmp_path):
    for index in range(3):
        imageio.imwrite(tmp_path / f"{index}.png", flat(index))
    source = ImageFolder(tmp_path, rate=Fraction(24000, 1001))
    assert [f.pts for f in source] == [index * Fraction(1001, 24000) for index in range(3)]
    assert source.info.frame_count == 3


def test_images_before_a_time_are_not_read(tmp_path):
    for index in range(4):
        imageio.imwrite(tmp_path / f"{index}.png", flat(index))
    source = ImageFolder(tmp_path, rate=Fraction(24000, 1001))
    (tmp_path / "1.png").unlink()
    late = list(source.since(2 * Fraction(1001, 24000)))
    assert [(f.pixels[0, 0, 0], f.pts * 24000 / 1001) for f in late] == [(2, 2), (3, 3)]
    assert [f.pixels[0, 0, 0] for f in source.since(Fraction(1001, 24000) * 5 / 2)] == [3]


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp", "jpg", "webp"])
def test_every_kind_of_image_is_read(tmp_path, suffix):
    imageio.imwrite(tmp_path / f"a.{suffix}", flat(128), plugin="pillow")
    (read,) = ImageFolder(tmp_path)
    assert np.abs(read.pixels.astype(int) - 128).max() <= 2  # JPEG and WebP are lossy


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_pixels_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("L", (8, 6), 255).convert("RGB" if mode in "CMYK" else "L").convert(mode).save(path)
    (read,) = ImageFolder(tmp_path)
    np.testing.assert_array_equal(read.pixels, flat(255))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_kept(tmp_path, mode):
    Image.new("RGBA", (8, 6), (90, 90, 90, 10)).convert(mode).save(tmp_path / "0.png")
    source = ImageFolder(tmp_path)
    (read,) = source
    np.testing.assert_array_equal(read.pixels[0, 0], [90, 90, 90, 10])
    assert source.info.pixel_format == "rgba"


def test_images_are_fitted_to_the_first_with_one_line_where_that_loses(tmp_path, caplog):
    Image.new("RGB", (8, 6), (90, 90, 90)).save(tmp_path / "0.png")
    for index in (1, 2):
        Image.new("RGBA", (8, 6), (80, 80, 80, 10)).save(tmp_path / f"{index}.png")
    with caplog.at_level(logging.WARNING):
        frames = list(ImageFolder(tmp_path))
    assert [read.pixels.shape for read in frames] == [(6, 8, 3)] * 3
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("1.png: transparency is dropped, since the first image has none.")


def test_mixed_sizes_name_the_first_odd_image_and_both_sizes(tmp_path):
    for index, size in enumerate([(6, 8), (6, 8), (6, 10), (4, 4)]):
        imageio.imwrite(tmp_path / f"{index}.png", flat(0, size=size))
    with pytest.raises(ValueError, match=r"2\.png is 10×6 pixels, but 0\.png is 8×6"):
        ImageFolder(tmp_path)


def test_other_files_are_ignored(tmp_path):
    imageio.imwrite(tmp_path / "a.png", flat(1))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "._a.png").write_bytes(b"a Mac's shadow file")
    (tmp_path / "folder").mkdir()
    assert len(list(ImageFolder(tmp_path))) == 1


def test_a_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="holds no images"):
        ImageFolder(tmp_path)


def test_an_unreadable_image_is_named(tmp_path):
    imageio.imwrite(tmp_path / "a.png", flat(1))
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as an image"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
def test_an_image_that_claims_a_huge_size_is_named(tmp_path, suffix):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    path = tmp_path / f"huge.{suffix}"
    path.write_bytes(png + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IDAT\x35\xaf\x06\x1e")
    with pytest.raises(ValueError, match=r"huge\.\w+ cannot be read as an image"):
        ImageFolder(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_named_pipe_among_images_is_refused(tmp_path):
    imageio.imwrite(tmp_path / "a.png", flat(1))
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png is a pipe or a device, not an image"):
        ImageFolder(tmp_path)


def png_of(width, height, *chunks):
    """A PNG header for that size, and chunks behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


@pytest.mark.parametrize(
    "content",
    [
        png_of(60000, 60000),
        png_of(8, 6, (b"iCCP", b"x\0\0" + zlib.compress(bytes(99_000_000)))),
        png_of(8, 6, (b"eXIf", b"II*\0\xff\xff\xff\xff"), (b"IDAT", b"junk")),
        png_of(8, 6, (b"iCCP", b""), (b"IDAT", zlib.compress(bytes(3)))),
    ],
    ids=["huge", "profile", "exif", "short"],
)
def test_hostile_images_are_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        list(ImageFolder(tmp_path))


def test_a_half_written_image_is_named(tmp_path):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    imageio.imwrite(path, noise)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        list(ImageFolder(tmp_path))


@pytest.mark.parametrize("kind", ["png", "exr"])
def test_an_image_that_cannot_be_written_is_named(tmp_path, monkeypatch, kind):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write to an open file

    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    writer = ImageFolderWriter(tmp_path / "out", INFO, encoding=Encoding(images=kind))
    with pytest.raises(OSError, match=rf"No space left .*frame_000001\.{kind}"), writer:
        writer.write(frame())
