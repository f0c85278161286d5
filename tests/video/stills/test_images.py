# SPDX-License-Identifier: Apache-2.0
"""Folders of images as clips, in and out."""

from __future__ import annotations

import dataclasses
import logging
import os
import struct
import zlib
from fractions import Fraction

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.files.sinks import open_sink
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.pixels.colour import Colour
from flavr_jax.video.stills import exr
from flavr_jax.video.stills.image_files import write_image
from flavr_jax.video.stills.images import ImageFolder, ImageFolderWriter
from flavr_jax.video.stills.tags import ImageTags

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


def test_written_frames_are_read_back_unchanged(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    with ImageFolderWriter(tmp_path / "out", INFO) as sink:
        for pixels in noise:
            sink.write(TimedFrame(pixels, Fraction(0), Fraction(1)))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "frame_000001.png",
        "frame_000002.png",
        "frame_000003.png",
    ]
    np.testing.assert_array_equal([f.pixels for f in ImageFolder(tmp_path / "out")], noise)


def test_the_folder_has_its_name_only_when_complete(tmp_path):
    with ImageFolderWriter(tmp_path / "out", INFO) as sink:
        sink.write(frame())
        assert not (tmp_path / "out").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def interrupted_run(path, **options):
    with ImageFolderWriter(path, INFO, **options) as sink:
        sink.write(frame())
        raise KeyboardInterrupt


def test_an_interrupted_run_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted_run(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_an_older_result_alone(tmp_path):
    with ImageFolderWriter(tmp_path / "out", INFO) as sink:
        sink.write(frame(7))
    with pytest.raises(KeyboardInterrupt):
        interrupted_run(tmp_path / "out", overwrite=True)
    assert [f.pixels[0, 0, 0] for f in ImageFolder(tmp_path / "out")] == [7]


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path):
    imageio.imwrite(tmp_path / "a.png", flat(1))
    with pytest.raises(FileExistsError, match="--overwrite"):
        ImageFolderWriter(tmp_path, INFO)


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    with ImageFolderWriter(tmp_path / "out", INFO) as sink:
        sink.write(frame())
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_overwriting_replaces_the_older_images(tmp_path):
    for count in (3, 1):
        with ImageFolderWriter(tmp_path / "out", INFO, overwrite=True) as sink:
            for _ in range(count):
                sink.write(frame())
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        ImageFolderWriter(tmp_path, INFO, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_photos_are_never_replaced(tmp_path):
    imageio.imwrite(tmp_path / "holiday.png", flat(1))
    with pytest.raises(FileExistsError, match=r"holiday\.png"):
        ImageFolderWriter(tmp_path, INFO, overwrite=True)
    assert (tmp_path / "holiday.png").exists()


def test_a_folder_with_a_name_such_as_a_partial_output_survives(tmp_path):
    (tmp_path / "frames.partial").mkdir()
    imageio.imwrite(tmp_path / "frames.partial" / "1.png", flat(1))
    with ImageFolderWriter(tmp_path / "frames", INFO) as sink:
        sink.write(frame())
    assert (tmp_path / "frames.partial" / "1.png").exists()


def test_files_that_come_while_frames_are_written_stay(tmp_path):
    for round_ in range(2):
        with ImageFolderWriter(tmp_path / "out", INFO, overwrite=True) as sink:
            sink.write(frame())
            if round_:
                (tmp_path / "out" / "notes.txt").write_text("by the user")
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {
        "frame_000001.png", "notes.txt",
    }  # fmt: skip


def test_a_file_is_never_replaced_by_a_folder(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FileExistsError, match="is a file"):
        ImageFolderWriter(tmp_path / "out", INFO, overwrite=True)


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
            sink.write(dataclasses.replace(read, original=None))  # as if made
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
