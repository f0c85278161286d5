# SPDX-License-Identifier: Apache-2.0
"""Orientations and colour profiles of images are kept or applied."""

from __future__ import annotations

import dataclasses
import logging
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.files.sinks import open_sink
from flavr_jax.video.frames import ClipInfo
from flavr_jax.video.stills.image_files import write_image
from flavr_jax.video.stills.images import ImageFolder, ImageFolderWriter
from flavr_jax.video.stills.tags import ImageTags

INFO = ClipInfo(8, 6, Fraction(24), Fraction(1, 24))


def shown(path):
    """An image as Pillow shows it, and its colour profile."""
    with Image.open(path) as image:
        profile = image.info.get("icc_profile")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int), profile


def wide_gamut():
    """A profile of RGB with red and blue exchanged, so that a conversion shows."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    content = content.replace(b"sRGB", b"tRGB").replace("sRGB".encode("utf-16-be"), b"\0t\0R\0G\0B")
    return bytes(
        content.replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ")
    )


KINDS = [("png", 8), ("png", 16), ("tiff", 8), ("tiff", 16), ("jpg", 8)]
TAG = 0x0112


def tagged_folder(path, kind, bits, orientation, profile, count=2):
    """Images of a corner in white, red and green, tagged; 16 bits are written by the writer."""
    path.mkdir()
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16], pixels[:16, 16:], pixels[16:] = 255, (200, 0, 0), (0, 90, 0)
    for index in range(count):
        target = path / f"{index}.{kind}"
        exif = Image.Exif()
        exif[TAG] = orientation
        if bits == 16:
            tags = ImageTags(orientation, profile)
            write_image(target, kind, pixels.astype(np.uint16) * 257, tags)
        else:
            how = {"tiffinfo": {TAG: orientation}} if kind == "tiff" else {"exif": exif}
            options = {"quality": 95, "subsampling": 0} if kind == "jpg" else {}
            Image.fromarray(pixels).save(target, icc_profile=profile, **how, **options)
    return pixels


@pytest.mark.parametrize(("kind", "bits"), KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_made_images_are_turned_and_coloured_like_the_originals(tmp_path, kind, bits, orientation):
    profile = wide_gamut()
    tagged_folder(tmp_path / "in", kind, bits, orientation, profile)
    source = ImageFolder(tmp_path / "in")
    encoding = Encoding(images=kind)
    with open_sink(f"{tmp_path}/out/", source.info, source=None, encoding=encoding) as sink:
        for read in source:
            sink.write(read)
            sink.write(dataclasses.replace(read, stored=None))  # as if made
    original, made = (tmp_path / "out" / f"frame_00000{n}.{kind}" for n in (1, 2))
    assert original.read_bytes() == (tmp_path / "in" / f"0.{kind}").read_bytes()
    expected, _ = shown(original)
    pixels, found = shown(made)
    assert found == profile
    assert pixels.shape == expected.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    assert np.abs(pixels - expected).max() <= (12 if kind == "jpg" else 0)
    corner = {
        1: (0, 0),
        2: (0, -1),
        3: (-1, -1),
        4: (-1, 0),
        5: (0, 0),
        6: (0, -1),
        7: (-1, -1),
        8: (-1, 0),
    }[orientation]  # of white, after EXIF 2.32 §4.6.4
    assert pixels[corner].min() > 240


def test_a_lying_folder_is_upright_in_images_of_another_kind_and_in_video(tmp_path):
    tagged_folder(tmp_path / "in", "jpg", 8, 6, None)
    source = ImageFolder(tmp_path / "in")
    with open_sink(f"{tmp_path}/out/", source.info, source=None) as sink:
        for read in source:
            sink.write(read)
    with Image.open(tmp_path / "out" / "frame_000001.png") as image:
        assert image.getexif().get(TAG, 1) == 1
        assert np.asarray(image)[0, -1].min() > 240
    with open_sink(f"{tmp_path}/a.mp4", source.info, source=None) as sink:
        for read in source:
            sink.write(read)
    assert VideoReader(tmp_path / "a.mp4").info.display_matrix == source.info.display_matrix


def test_images_of_several_orientations_are_turned_like_the_first(tmp_path):
    tagged_folder(tmp_path / "in", "png", 8, 6, None)
    upright = np.rot90(np.asarray(Image.open(tmp_path / "in" / "1.png")), -1)
    Image.fromarray(upright).save(tmp_path / "in" / "1.png")
    first, second = ImageFolder(tmp_path / "in")
    np.testing.assert_array_equal(first.pixels, second.pixels)
    with ImageFolderWriter(tmp_path / "out", ImageFolder(tmp_path / "in").info) as sink:
        sink.write(second)
    np.testing.assert_array_equal(shown(tmp_path / "out" / "frame_000001.png")[0], upright)


def test_another_profile_is_converted_to_that_of_the_first(tmp_path):
    tagged_folder(tmp_path / "in", "png", 8, 1, wide_gamut())
    Image.new("RGB", (48, 32), (200, 0, 0)).save(tmp_path / "in" / "1.png")  # sRGB
    _, second = ImageFolder(tmp_path / "in")
    assert np.abs(second.pixels[0, 0].astype(int) - (0, 0, 200)).max() <= 3


def test_a_profile_that_cannot_be_kept_is_told(tmp_path, caplog):
    tagged_folder(tmp_path / "in", "png", 8, 1, wide_gamut())
    info = ImageFolder(tmp_path / "in").info
    with caplog.at_level(logging.WARNING), open_sink(f"{tmp_path}/a.mkv", info, source=None):
        pass
    assert "colour profile is left out; their colours are taken for sRGB" in caplog.text


def test_a_profile_of_grey_is_not_that_of_the_rgb_it_becomes(tmp_path):
    profile = bytearray(wide_gamut())
    profile[16:20] = b"GRAY"
    Image.new("L", (8, 6), 90).save(tmp_path / "0.png", icc_profile=bytes(profile))
    assert ImageFolder(tmp_path).info.profile is None
