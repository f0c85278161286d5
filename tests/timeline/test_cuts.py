# SPDX-License-Identifier: Apache-2.0
"""Cuts and repeats, and what is neither, in drawn clips whose cuts and repeats are known."""

from __future__ import annotations

import numpy as np
import pytest

from flavr_jax.timeline.cuts import _spread, find_cuts, is_cut, mismatch
from flavr_jax.timeline.repeats import is_repeat, motion
from flavr_jax.timeline.thumbnails import REACH, difference, mean, reduced, thumbnail, thumbnails
from flavr_jax.video.pixels.colour import Colour, from_rgb
from flavr_jax.video.pixels.colour import picture as to_picture

SIZE = (72, 128)


def picture(seed, size=(SIZE[0], 3 * SIZE[1])):
    """Coloured noise that is stronger the coarser it is, as pictures of the world are."""
    random = np.random.default_rng(seed)
    total = np.zeros((*size, 3))
    for cell in (48, 24, 12, 6, 3):
        coarse = random.normal(0, 12 * cell**0.5, (size[0] // cell + 1, size[1] // cell + 1, 3))
        total += coarse.repeat(cell, 0).repeat(cell, 1)[: size[0], : size[1]]
    return np.clip(127 + total / 2, 0, 255)


def pan(seed, count, speed=1, start=0):
    whole = picture(seed)
    return [whole[:, start + speed * n : start + speed * n + SIZE[1]] for n in range(count)]


def noisy(frames, sigma, seed=0):
    random = np.random.default_rng(seed)
    return [frame + random.normal(0, sigma, frame.shape) for frame in frames]


def as_seen(frames):
    return [thumbnail(np.clip(np.rint(frame), 0, 255).astype(np.uint8)) for frame in frames]


def found(frames, question):
    small = as_seen(frames)
    reach = REACH
    return [
        n
        for n in range(1, len(small))
        if question(small[max(0, n - reach) : n], small[n : n + reach])
    ]


def cuts(frames):
    return found(frames, is_cut)


def repeats(frames):
    return found(frames, is_repeat)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("speed", [0, 1, 5])
def test_a_cut_is_found_where_it_is(seed, speed):
    assert cuts(pan(seed, 10, speed) + pan(seed + 100, 12, speed)) == [10]


@pytest.mark.parametrize("lengths", [(1, 9), (9, 1), (1, 1), (5, 1, 1, 5), (1,) * 8, (3, 2, 4)])
def test_shots_may_be_short(lengths):
    frames = [frame for seed, length in enumerate(lengths) for frame in pan(seed, length)]
    assert cuts(frames) == list(np.cumsum(lengths[:-1]))


def test_cuts_in_animation_on_threes_are_found():
    drawn = pan(0, 5, 4) + pan(1, 5, 4)
    assert cuts([frame for frame in drawn for _ in range(3)]) == [15]


@pytest.mark.parametrize("speed", [2, 6, 9])
def test_a_pan_is_no_cut_even_where_it_begins(speed):
    frames = pan(0, 20, speed)
    assert cuts([frames[0]] * 6 + frames + [frames[-1]] * 6) == []


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("light", ["white", "bright", "black"])
def test_a_flash_is_no_cut(length, light):
    frames = pan(0, 16)
    for n in range(6, 6 + length):
        lit = {"white": 255 + 0 * frames[n], "bright": 90 + 1.3 * frames[n], "black": 0 * frames[n]}
        frames[n] = lit[light]
    assert cuts(frames) == []


@pytest.mark.parametrize("length", [5, 8, 16])
def test_fades_and_dissolves_are_no_cuts(length):
    one, two = pan(0, length + 8), pan(1, length + 8)
    weights = np.clip((np.arange(length + 8) - 3) / (length + 1), 0, 1)
    assert cuts([(1 - w) * a + w * b for w, a, b in zip(weights, one, two)]) == []
    faded = [(1 - w) * a for w, a in zip(weights, one)]
    assert cuts(faded + [w * b for w, b in zip(weights, two)]) == []


def test_noise_is_no_cut():
    assert cuts(noisy([picture(0)] * 12, 15)) == []


def test_a_picture_in_between_that_is_another_is_two_cuts():
    frames = pan(0, 14)
    frames[6] = pan(7, 1)[0]
    assert cuts(frames) == [6, 7]


@pytest.mark.parametrize("noise", [0, 1.5])
@pytest.mark.parametrize("pattern", [(2,), (3,), (2, 3), (1, 1, 1, 2), (5,)])
def test_repeats_are_found_although_they_were_compressed(pattern, noise):
    runs = [1, *(pattern[n % len(pattern)] for n in range(7))]
    frames = [frame for frame, run in zip(pan(0, 8, 2), runs) for _ in range(run)] + pan(
        0, 1, 0, 99
    )
    starts = {int(n) for n in np.cumsum([0, *runs])}
    assert set(repeats(noisy(frames, noise))) == set(range(sum(runs))) - starts


def test_slow_motion_everywhere_is_no_repeat():
    whole = picture(0)
    slow = [(1 - n / 8) * whole[:, :128] + n / 8 * whole[:, 1:129] for n in range(9)]
    assert repeats(slow) == []


def test_a_small_thing_that_moves_is_no_repeat():
    frames = pan(0, 10, 0)
    for n, frame in enumerate(frames):
        frames[n] = frame.copy()
        frames[n][20:32, 4 * n : 4 * n + 12] = 255
    assert repeats(frames) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (7, 3), (720, 1280)])
def test_any_size_has_a_thumbnail(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    small = thumbnail(pixels)
    assert mismatch(small, small) < 0.01
    assert motion(small, small) == difference(small, small) == 0


def test_sixteen_bits_and_alpha_are_seen_as_they_are_shown():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    deep = pixels.astype(np.uint16) * 257
    shown = np.concatenate([deep, np.full_like(deep[..., :1], 65535)], axis=-1)
    hidden = np.concatenate([deep, np.zeros_like(deep[..., :1])], axis=-1)
    expected = thumbnail(pixels).cells
    assert np.abs(thumbnail(deep).cells - expected).max() < 0.01
    assert np.abs(thumbnail(shown).cells - expected).max() < 0.01
    assert np.abs(thumbnail(hidden).cells).max() == 0


def scene(seed, n_frames):
    """A picture of blocks that moves a little."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return [picture[:, shift : shift + 128] for shift in range(n_frames)]


def test_frames_that_begin_a_new_shot_are_numbered():
    frames = [*scene(0, 14), *scene(1, 9), *scene(2, 11)]
    assert list(find_cuts(frames)) == [14, 23]


def test_a_single_shot_has_no_cuts():
    assert list(find_cuts(scene(0, 20))) == []
    assert list(find_cuts([])) == []


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_cells_are_exact_means_of_the_pixels_that_are_read(kind, channels):
    most = np.iinfo(kind).max
    pixels = np.random.default_rng(0).integers(0, most, (128, 384, channels), kind, True)
    small = thumbnail(pixels)
    read = pixels[::2, ::2].astype(float) / most
    if channels == 4:
        read = read[..., :3] * read[..., 3:]
    np.testing.assert_allclose(small.samples, 255 * read, rtol=0, atol=1e-4)
    means = read.reshape(16, 4, 48, 4, 3).mean(axis=(1, 3))
    matrix = [[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]]
    np.testing.assert_allclose(small.cells, 255 * means @ np.array(matrix), rtol=0, atol=1e-4)


@pytest.mark.parametrize("pixel_format", [None, "yuv420p", "yuv422p10le", "yuva420p"])
def test_frames_that_are_reduced_together_do_not_influence_each_other(pixel_format):
    frames = [np.clip(one, 0, 255).astype(np.uint8) for one in pan(0, 7, 3)]
    if pixel_format is not None:
        frames = [to_picture(from_rgb(one, pixel_format, Colour()), Colour()) for one in frames]
    together = [small for _, small in reduced(frames, lambda frame: frame)]
    assert len(together) == 7
    for frame, small in zip(frames, together, strict=True):
        alone = thumbnail(frame)
        np.testing.assert_array_equal(small.cells, alone.cells)
        np.testing.assert_array_equal(small.samples, alone.samples)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "gbrp", "gray"])
def test_planes_are_averaged_before_they_become_rgb_if_pixels_are_not_needed(pixel_format):
    # Muted colours stay inside of RGB's range, where means may be taken in any order.
    frames = [np.rint(64 + one / 2).astype(np.uint8) for one in pan(0, 3, 3)]
    stored = [to_picture(from_rgb(one, pixel_format, Colour()), Colour()) for one in frames]
    found = thumbnails(stored, few=False)
    assert [one.few for one in found] == [None] * 3
    for one, other in zip(found, thumbnails(stored), strict=True):
        # Pixels of RGB are rounded.
        np.testing.assert_allclose(one.cells, other.cells, rtol=0, atol=0.5)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_frames_without_planes_have_the_same_cells_if_pixels_are_not_needed(kind, channels):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (60, 90, channels), kind)
    (small,) = thumbnails([pixels], few=False)
    np.testing.assert_array_equal(small.cells, thumbnail(pixels).cells)


def test_bright_planes_of_16_bits_do_not_overflow():
    frame = from_rgb(np.full((96, 96, 3), 65535, np.uint16), "yuv444p16le", Colour())
    (small,) = thumbnails([to_picture(frame, Colour())], few=False)
    np.testing.assert_allclose(small.luma, 255, atol=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (6, 11), (27, 48)])
def test_means_and_spreads_are_those_of_numpy(shape):
    values = np.random.default_rng(0).normal(100, 30, (*shape, 3)).astype(np.float32)[..., 0]
    assert mean(values) == values.mean()
    assert _spread(values) == values.std()
