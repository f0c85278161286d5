# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data.synthetic import worlds
from flavr_jax.data.synthetic.motion import MotionConfig

SIZE = (64, 96)
CONFIG = worlds.WorldConfig(
    n_objects=3, motion=MotionConfig(min_speed=2.0, max_speed=16.0, curvature=0.0, max_shake=0.0)
)


@functools.cache
def some():
    """40 worlds, and their views at five times."""
    keys = jax.random.split(jax.random.key(0), 40)
    found = jax.jit(jax.vmap(lambda key: worlds.random_world(key, SIZE, CONFIG)))(keys)
    times = jnp.array([0.0, 1.0, 1.5, 2.0, 3.0])
    look = jax.vmap(jax.vmap(worlds.view, (None, 0)), (0, None))
    return found, jax.tree.map(np.asarray, jax.jit(look)(found, times))


def test_the_room_surrounds_the_camera_at_all_times():
    _, views = some()
    assert views.heights[:, :, -1].min() > 0.2


def test_objects_are_as_fast_as_the_settings_say():
    found, _ = some()
    velocity = np.asarray(found.objects.position[:, :, 1], np.float64)
    depth = np.asarray(found.objects.position[:, :, 0, 2])
    pixels = np.linalg.norm(velocity, axis=-1) * np.asarray(found.focal)[:, None] * 64 / depth
    moving = pixels[pixels > 0]
    assert 0.7 < len(moving) / pixels.size < 0.9
    assert moving.min() >= 2.0 * 0.999
    assert moving.max() <= 16.0 * 1.001


def test_objects_begin_in_front_of_the_camera_and_in_the_picture():
    found, _ = some()
    x, y, z = np.moveaxis(np.asarray(found.objects.position[:, :, 0]), -1, 0)
    focal = np.asarray(found.focal)[:, None]
    assert z.min() > 1.0
    assert np.abs(focal * 64 * x / z).max() < 48
    assert np.abs(focal * 64 * y / z).max() < 32


def test_bodies_are_rigid():
    _, views = some()
    # Angles between faces, and the sizes of balls, stay the same at all times.
    angles = np.einsum("wtsfi,wtsgi->wtsfg", views.normals, views.normals)
    np.testing.assert_allclose(angles, angles[:, :1].repeat(5, 1), atol=1e-5)
    volume = np.linalg.det(views.matrix.astype(np.float64))
    np.testing.assert_allclose(volume, volume[:, :1].repeat(5, 1), rtol=1e-4)


def test_textures_move_with_their_faces():
    """A point fixed to a solid has the same texture coordinates at all times."""
    _, views = some()
    normals, heights = views.normals.astype(np.float64), views.heights.astype(np.float64)
    # The point where three faces of a solid meet, and its coordinate along a fourth one.
    faces = normals[..., [0, 2, 4], :]
    meet = np.abs(np.linalg.det(faces)) > 0.1
    faces = np.where(meet[..., None, None], faces, np.eye(3))
    corner = np.linalg.solve(faces, heights[..., [0, 2, 4], None])[..., 0]
    one = np.append(corner, np.ones((*corner.shape[:-1], 1)), axis=-1)
    # Solids that do not exist are pushed far away.
    exists = meet.all(axis=1) & (np.abs(heights[:, 0, :, 0]) < 1e3)
    assert exists.sum() > 20
    for axis in (views.across, views.down):
        place = np.einsum("wtsi,wtsi->wts", axis[..., 2, :], one)
        moved = np.abs(place - place[:, :1]).max(axis=1)
        assert moved[exists].max() < 2e-3


def test_a_camera_that_stands_still_sees_the_room_standing_still():
    found, views = some()
    still = (np.abs(np.asarray(found.camera.position)).max((1, 2)) == 0) & (
        np.abs(np.asarray(found.camera.turn)).max((1, 2)) == 0
    )
    moved = np.abs(views.normals[:, :, -1] - views.normals[:, :1, -1]).max((1, 2, 3))
    assert 2 <= still.sum() < 25
    assert moved[still].max() < 1e-6
    assert np.median(moved[~still]) > 1e-4


@pytest.mark.parametrize("index", range(6))
def test_shapes_are_closed_and_of_unit_size(index):
    normals, heights = worlds._SHAPES[index], worlds._HEIGHTS[index]
    # A solid is bounded if no direction points away from all faces.
    directions = np.random.default_rng(0).normal(size=(2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    reach = (heights / np.maximum(directions @ normals.T, 1e-9)).min(axis=1)
    assert reach.max() < 2.5
    assert reach.min() > 0.2
