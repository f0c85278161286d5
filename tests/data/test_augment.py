# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data import augment

CONFIG = augment.AugmentConfig()


@pytest.fixture(scope="module")
def transforms():
    keys = jax.random.split(jax.random.key(0), 64)
    return jax.jit(jax.vmap(lambda key: augment.draw(key, CONFIG)))(keys)


@pytest.fixture(scope="module")
def window():
    """Seven frames of noise."""
    return jax.random.randint(jax.random.key(1), (7, 8, 8, 3), 0, 256).astype(jnp.uint8)


apply = jax.jit(jax.vmap(augment.apply, in_axes=(0, None)))


def test_all_frames_of_a_window_share_one_transform(transforms, window):
    found = np.asarray(apply(transforms, jnp.broadcast_to(window[0], window.shape)))
    np.testing.assert_array_equal(found, np.repeat(found[:, :1], 7, axis=1))
    assert len(np.unique(found[:, 0].reshape(64, -1), axis=0)) > 60  # windows differ, though


def test_flips_and_transposition_make_all_eight_orientations(transforms):
    corner = jnp.zeros((1, 8, 8, 3)).at[0, 0, 1].set(1.0)
    seen = {
        tuple(np.argwhere(np.asarray(augment.reorient(corner, one))[0, ..., 0])[0])
        for one in [jax.tree.map(lambda leaf, i=i: leaf[i], transforms) for i in range(64)]
    }
    assert seen == {(0, 1), (0, 6), (7, 1), (7, 6), (1, 0), (6, 0), (1, 7), (6, 7)}


def test_colours_change_affinely_within_the_given_range(transforms):
    grey = jnp.full((1, 2, 2, 3), 128, jnp.uint8)
    found = np.stack(
        [np.asarray(augment.recolour(grey, jax.tree.map(lambda leaf, i=i: leaf[i], transforms)))
         for i in range(64)]
    )  # fmt: skip
    level = 128 / 255
    assert found.max() <= level * 1.1 * 1.05 + 0.05
    assert found.min() >= level * 0.9 * 0.95 - 0.05
    assert found.std() > 0.01


def test_sharpening_raises_the_finest_detail_most_and_leaves_slopes_alone():
    x, y = np.meshgrid(np.arange(12), np.arange(12))
    for pattern, gain in (
        (3 * x + 2 * y, 1.0),
        (50 * (-1) ** (x + y), 1.8),  # nothing of it is left by the blur
        (np.rint(50 * np.cos(np.pi * x / 2)), 1.4),  # half of it is
    ):
        frames = np.repeat(100 + pattern[None, :, :, None], 3, axis=-1).astype(np.uint8)
        found = np.asarray(augment.sharpen(jnp.asarray(frames), jnp.asarray(0.8)))
        expected = 100 + gain * (np.float32(frames) - 100)
        np.testing.assert_allclose(found[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=1e-3)


def test_sharpening_extends_frames_by_their_border(window):
    padded = np.pad(np.float32(window), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = 0.25 * (padded[:, :-2] + padded[:, 2:]) + 0.5 * padded[:, 1:-1]
    blurred = 0.25 * (rows[:, :, :-2] + rows[:, :, 2:]) + 0.5 * rows[:, :, 1:-1]
    found = augment.sharpen(window, jnp.asarray(0.5))
    np.testing.assert_allclose(found, 1.5 * np.float32(window) - 0.5 * blurred, atol=1e-3)


def test_what_is_turned_off_leaves_windows_as_they_are(window):
    nothing = augment.AugmentConfig(flips=False, turns=False, reversal=False, contrast=0.0,
                                    brightness=0.0, balance=0.0, sharpness=0.0)  # fmt: skip
    transform = augment.draw(jax.random.key(5), nothing)
    np.testing.assert_allclose(
        augment.apply(transform, window), np.float32(window) / 255, rtol=0, atol=1e-7
    )


def test_frames_that_are_not_square_are_never_transposed(transforms):
    wide = jax.random.uniform(jax.random.key(1), (2, 4, 8, 3))
    one = jax.tree.map(lambda leaf: leaf[0], transforms)._replace(transpose=jnp.array(True))
    assert augment.reorient(wide, one).shape == wide.shape


@pytest.mark.parametrize(
    ("spacing", "indices", "filmed"),
    [
        (2, [7, 9, 11, 13, 10], [4]),
        (4, [7, 11, 15, 19, 12, 13, 14], [2, 4, 6]),
        (8, [7, 15, 23, 31, *range(16, 23)], [1, 2, 3, 4, 5, 6, 7]),
        (3, [7, 10, 13, 16], []),
    ],
)
def test_another_spacing_is_another_frame_rate(spacing, indices, filmed):
    times = np.array([0, 1, 2, 3, *(1 + np.arange(1, 8) / 8)])
    found, known = augment.window_indices(7, spacing, times)
    assert found[known].tolist() == indices
    assert (np.flatnonzero(known[4:]) + 1).tolist() == filmed


def test_an_exposure_adds_up_light():
    frames = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (0, 255)])
    light = (0.0 + 1.0) / 2
    np.testing.assert_array_equal(augment.expose(frames), round(255 * light ** (1 / 2.2)))
    same = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(augment.expose(np.repeat(same, 3, axis=0)), same[0])
