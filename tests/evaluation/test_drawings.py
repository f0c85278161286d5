# SPDX-License-Identifier: Apache-2.0
"""Drawn clips: what moves in them, how far, and what does not."""

import numpy as np
import pytest

from flavr_jax.evaluation import drawings

SKY, GRASS = (150, 200, 235), (120, 175, 90)


def figure(drawing):
    """Where a drawing of the walker differs from its background, which is the same in all."""
    steps = np.stack([drawings.walker(float(n)) for n in range(0, 40, 8)])
    background = np.median(steps, axis=0).astype(np.uint8)
    return (drawings.walker(drawing) != background).any(axis=-1)


def test_a_walker_is_a_picture_of_its_size_with_sky_above_grass():
    picture = drawings.walker(0.0)
    assert picture.shape == (128, 192, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[2, :8], np.tile(SKY, (8, 1)))
    np.testing.assert_array_equal(picture[-2, -8:], np.tile(GRASS, (8, 1)))


def test_a_walker_advances_three_pixels_a_drawing():
    columns = [np.nonzero(figure(float(n)))[1].mean() for n in (4, 16, 28)]
    # A whole cycle apart, poses are equal, and only the way of 12 drawings is left.
    np.testing.assert_allclose(np.diff(columns), 36.0, atol=2.5)


def test_a_pose_returns_after_a_cycle():
    first, later = drawings.walker(16.0), drawings.walker(28.0)
    shifted = np.roll(first, 36, axis=1)
    walker = figure(28.0)
    walker[:, :60] = False  # trees stand there
    same = (np.abs(shifted.astype(int) - later).max(axis=-1) < 40) | ~walker
    assert same.mean() > 0.97


def test_drawings_between_two_lie_between_them():
    first, middle, last = (drawings.walker(n).astype(int) for n in (6.0, 6.5, 7.0))
    apart = np.abs(first - last).mean()
    assert 0 < np.abs(first - middle).mean() < apart
    assert 0 < np.abs(middle - last).mean() < apart


def test_outlines_are_drawn_finer_than_a_pixel():
    # At a quarter of the drawings' scale, a black line leaves dark and mixed pixels.
    picture = drawings.walker(3.3).astype(int)
    levels = len(np.unique(picture.reshape(-1, 3), axis=0))
    assert levels > 100
    assert (picture.max(axis=-1) < 10).any()


@pytest.mark.parametrize("count", [1, 2, 6])
def test_a_game_has_as_many_frames_as_asked_for(count):
    frames, covered = drawings.game(count)
    assert frames.shape == (count, 160, 256, 3)
    assert covered.shape == (160, 256)
    np.testing.assert_array_equal(frames[0], drawings.game(6)[0][0])


def test_the_display_of_a_game_never_changes():
    frames, covered = drawings.game(6)
    assert covered.any()
    np.testing.assert_array_equal(
        frames[:, covered], np.broadcast_to(frames[0, covered], (6, covered.sum(), 3))
    )


def test_the_ground_of_a_game_grows_by_four_percent_a_frame():
    frames, covered = drawings.game(4)
    # A place at a distance d from the middle lies at 1.04 d in the next frame.
    row, column = np.mgrid[20:140:4, 20:236:4].reshape(2, -1)
    inner = np.hypot(row - 80, column - 128) < 60
    row, column = row[inner], column[inner]
    for number in range(3):
        grown = (
            np.rint(80 + 1.04 * (row - 80)).astype(int),
            np.rint(128 + 1.04 * (column - 128)).astype(int),
        )
        seen = ~covered[row, column] & ~covered[grown]
        here, there = frames[number][row, column].astype(int), frames[number + 1][grown]
        still = frames[number + 1][row, column]
        followed = np.abs(here - there)[seen].mean()
        assert followed < 0.6 * np.abs(here - still)[seen].mean()
