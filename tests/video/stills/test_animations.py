# SPDX-License-Identifier: Apache-2.0
"""GIF and WebP, checked with Pillow as an independent reader."""

from __future__ import annotations

import dataclasses
import logging
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageSequence

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import open_source
from flavr_jax.video.files.sinks import open_sink
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.stills.dither import is_dithered

INFO = ClipInfo(32, 24, Fraction(25), Fraction(1, 25))


def write(path, frames, info=INFO, **options):
    with open_sink(str(path), info, source=None, encoding=Encoding(**options)) as sink:
        for frame in frames:
            sink.write(frame)
    return path


def squares(count, step=Fraction(1, 25), channels=3, start=Fraction(0)):
    """A red square that moves over green; transparent where there is alpha."""
    for index in range(count):
        pixels = np.zeros((24, 32, 4), np.uint8)
        pixels[..., 1] = 200
        pixels[8:16, 2 * index : 2 * index + 8] = (220, 30, 30, 255)
        if channels == 3:
            pixels[..., 3] = 255
        yield TimedFrame(pixels[..., :channels], start + index * step, step)


def pictures(path):
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frame.load()
            yield np.asarray(frame.convert("RGBA")), frame.info.get("duration")


def test_a_gif_keeps_colours_and_durations(tmp_path, caplog):
    path = write(tmp_path / "a.gif", squares(5))
    found = list(pictures(path))
    assert [duration for _, duration in found] == [40] * 5
    for (picture, _), frame in zip(found, squares(5), strict=True):
        assert np.abs(picture[..., :3].astype(int) - frame.pixels).max() <= 8  # 6-bit palettes
    with Image.open(path) as image:
        assert image.info["loop"] == 0
    assert caplog.text == ""


def test_a_gif_rounds_times_without_drift_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        path = write(tmp_path / "a.gif", squares(10, Fraction(1, 24)))
    durations = [duration for _, duration in pictures(path)]
    assert set(durations) == {40, 50}
    assert sum(durations) == 420  # 416.7 ms, in steps of 10
    assert "times are rounded." in caplog.text


def test_a_gif_leaves_frames_out_that_come_too_fast(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        path = write(tmp_path / "a.gif", squares(13, Fraction(1, 200)))
    assert [duration for _, duration in pictures(path)] == [20, 20, 20, 20]
    assert "9 of 13 frames are left out" in caplog.text


def test_a_gif_keeps_transparency(tmp_path):
    info = dataclasses.replace(INFO, pixel_format="rgba")
    path = write(tmp_path / "a.gif", squares(3, channels=4), info)
    for (picture, _), frame in zip(pictures(path), squares(3, channels=4), strict=True):
        np.testing.assert_array_equal(picture[..., 3], frame.pixels[..., 3])


def test_still_areas_of_a_gif_do_not_flicker(tmp_path):
    x, y = np.mgrid[0:24, 0:32]
    still = np.stack([4 * x + 60, 3 * y + 90, 200 - 2 * x], axis=-1).astype(np.uint8)
    random = np.random.default_rng(0)

    def frames():
        for index in range(4):
            pixels = still.copy()
            pixels[:, 24:] = random.integers(0, 255, (24, 8, 3))
            yield TimedFrame(pixels, Fraction(index, 25), Fraction(1, 25))

    shown = [picture for picture, _ in pictures(write(tmp_path / "a.gif", frames()))]
    for other in shown[1:]:
        np.testing.assert_array_equal(other[:, :24], shown[0][:, :24])


def smooth(index):
    """A picture whose left half moves; its colours, RGBA, are continuous."""
    x = np.arange(96)[None, :, None] - 6 * index * (np.arange(96) < 48)[None, :, None]
    y = np.arange(64)[:, None, None]
    pixels = 127 + 70 * np.sin(x / 19 + y / 23 + np.array([0, 2, 4]))
    return np.dstack([pixels, np.full((64, 96), 255)]).astype(np.uint8)


def dithered_clip(path, count=6):
    """A GIF of such pictures in 16 colours, by error diffusion."""
    images = [Image.fromarray(smooth(index)[..., :3]) for index in range(count)]
    palette = images[0].quantize(16)
    dots = [image.quantize(16, palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
            for image in images]  # fmt: skip
    dots[0].save(path, save_all=True, append_images=dots[1:], duration=100)
    return path


def texture(pixels):
    """Mean strength of single dots."""
    whole = pixels.astype(int)
    around = whole[:-2, 1:-1] + whole[2:, 1:-1] + whole[1:-1, :-2] + whole[1:-1, 2:]
    return np.abs(4 * whole[1:-1, 1:-1] - around).mean()


def test_made_frames_of_a_dithered_gif_have_the_dots_of_the_originals(tmp_path):
    source = open_source(dithered_clip(tmp_path / "in.gif"))
    half = Fraction(1, 20)
    with open_sink(str(tmp_path / "out.gif"), source.info, source=None) as sink:
        for index, frame in enumerate(source):
            sink.write(dataclasses.replace(frame, duration=half))
            if index < 5:  # a network gives out no dots
                sink.write(TimedFrame(smooth(index + 0.5), frame.pts + half, half))
    written = [picture[..., :3] for picture, _ in pictures(tmp_path / "out.gif")]
    assert len(written) == 11
    for frame, original in zip(source, written[::2], strict=True):
        np.testing.assert_array_equal(original, frame.pixels[..., :3])
    strength = [texture(picture[:, :42]) for picture in written]
    assert 0.75 < np.mean(strength[1::2]) / np.mean(strength[::2]) < 1.33
    # Where nothing moves but the dots, the originals' dots are kept.
    still = (written[0] == written[2]).all(axis=-1)
    close = np.abs(smooth(0.5)[..., :3].astype(int) - written[0]).max(axis=-1) <= 16
    np.testing.assert_array_equal(written[1][still & close], written[0][still & close])
    assert (still & close)[:, 48:].mean() > 0.5


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (24, 32)])
def test_flat_and_continuous_pictures_are_not_dithered(size):
    assert not is_dithered(np.zeros((*size, 3), np.uint8))
    assert not is_dithered(np.random.default_rng(0).integers(0, 256, (*size, 4), np.uint8))
    assert not is_dithered(next(squares(1)).pixels)


def test_a_gif_is_read_back(tmp_path):
    source = open_source(write(tmp_path / "a.gif", squares(3)))
    frames = list(source)
    assert [frame.pts for frame in frames] == [0, Fraction(1, 25), Fraction(2, 25)]
    assert frames[0].pixels.shape == (24, 32, 4)


def test_an_interrupted_gif_leaves_nothing(tmp_path):
    def frames():
        yield from squares(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.gif", frames())
    assert list(tmp_path.iterdir()) == []


def test_a_lossless_webp_is_exact_with_alpha_and_milliseconds(tmp_path):
    info = dataclasses.replace(INFO, pixel_format="rgba")
    frames = list(squares(4, Fraction(1, 24), channels=4))
    for frame in frames:
        frame.pixels[0, :, 3] = np.arange(32) * 8  # WebP has all shades of transparency
    path = write(tmp_path / "a.webp", frames, info, lossless=True)
    found = list(pictures(path))
    assert [duration for _, duration in found] in (
        [42, 41, 42, 42],
        [41, 42, 42, 41],
        [42, 41, 42, 41],
    )
    for (picture, _), frame in zip(found, frames, strict=True):
        seen = frame.pixels[..., 3] > 0  # what lies under full transparency is not kept
        np.testing.assert_array_equal(picture[seen], frame.pixels[seen])
        np.testing.assert_array_equal(picture[..., 3], frame.pixels[..., 3])


@pytest.mark.parametrize("start", [0, 2])
def test_the_last_picture_of_a_webp_is_held_as_long_as_asked_for(tmp_path, start):
    times = [(0, 40), (40, 100), (140, 60), (200, 250)]
    frames = [
        dataclasses.replace(frame, pts=start + Fraction(pts, 1000), duration=Fraction(shown, 1000))
        for frame, (pts, shown) in zip(squares(4), times, strict=True)
    ]
    still = dataclasses.replace(frames[-1], pts=start + Fraction(450, 1000))
    path = write(tmp_path / "a.webp", frames)
    assert [duration for _, duration in pictures(path)] == [40, 100, 60, 250]
    # libwebp joins equal pictures.
    path = write(tmp_path / "b.webp", [*frames, still])
    assert sum(duration for _, duration in pictures(path)) == 700


def test_an_animated_webp_is_read(tmp_path):
    images = [Image.fromarray(frame.pixels) for frame in squares(3, channels=4)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], lossless=True,
                   duration=[40, 100, 60])  # fmt: skip
    source = open_source(tmp_path / "a.webp")
    frames = list(source)
    assert [frame.pts for frame in frames] == [0, Fraction(1, 25), Fraction(7, 50)]
    assert frames[-1].duration == Fraction(3, 50)
    assert source.info.frame_count == 3
    opaque = np.asarray(images[2])[..., 3] > 0
    np.testing.assert_array_equal(frames[2].pixels[opaque], np.asarray(images[2])[opaque])
    assert source.info.pixel_format == "rgba"


def animation(path, loop):
    """An animation of two frames by Pillow; ``loop`` None writes no block that says how often."""
    images = [Image.fromarray(frame.pixels) for frame in squares(3)]
    how = {} if loop is None else {"loop": loop}
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, **how)
    return path


# GIF counts repeats after the first time and says nothing for one time; WebP counts all times.
@pytest.mark.parametrize(
    ("source", "loop", "output", "expected"),
    [
        ("a.gif", None, "b.gif", None), ("a.gif", 0, "b.gif", 0), ("a.gif", 3, "b.gif", 3),
        ("a.webp", 1, "b.webp", 1), ("a.webp", 0, "b.webp", 0), ("a.webp", 4, "b.webp", 4),
        ("a.gif", None, "b.webp", 1), ("a.gif", 3, "b.webp", 4), ("a.gif", 0, "b.webp", 0),
        ("a.webp", 1, "b.gif", None), ("a.webp", 4, "b.gif", 3), ("a.webp", 0, "b.gif", 0),
    ],
)  # fmt: skip
def test_an_animation_is_shown_as_often_as_its_source(tmp_path, source, loop, output, expected):
    reader = open_source(animation(tmp_path / source, loop))
    with open_sink(str(tmp_path / output), reader.info, source=None) as sink:
        for frame in reader:
            sink.write(frame)
    with Image.open(tmp_path / output) as image:
        assert image.info.get("loop") == expected


def test_junk_is_no_webp(tmp_path):
    (tmp_path / "a.webp").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"a\.webp is not a WebP"):
        open_source(tmp_path / "a.webp")
