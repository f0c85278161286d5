# SPDX-License-Identifier: Apache-2.0
"""What rays meet, against formulas in the scene's coordinates, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.render import Material, Object, Scene, surfaces, world
from flavr_jax.render.motion import rotation_matrix

RAYS = 500
PAINTS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.9, 0.1), "blue": (0.1, 0.1, 0.9)}
TILT = (20.0, -35.0, 50.0)


def ready(*objects):
    made = Scene(objects, {name: Material(colour=colour) for name, colour in PAINTS.items()})
    layout, arrays = world.compile_scene(made)
    return layout, arrays, jax.tree.map(lambda column: column[0], world.moments(made, 0.0, 1))


@pytest.fixture(scope="module")
def rays():
    random = np.random.default_rng(0)
    origin = random.uniform(-4, 4, (3, RAYS))
    direction = random.uniform(-1.5, 1.5, (3, RAYS)) - origin
    return origin, direction / np.linalg.norm(direction, axis=0)


def met(scene, origin, direction):
    origin, direction = (jnp.asarray(each, jnp.float32) for each in (origin, direction))
    hit = surfaces.nearest(*scene, origin, direction)
    return hit, surfaces.surface(*scene, hit, origin, direction)


def test_a_tilted_plane_is_met_where_its_equation_holds(rays):
    origin, direction = rays
    at, normal = np.array([0.3, -0.2, 0.5]), rotation_matrix(TILT)[:, 2]
    plane = Object(shape="plane", material="red", position=tuple(at), rotation=TILT)
    hit, surface = met(ready(plane), origin, direction)
    expected = normal @ (at[:, None] - origin) / (normal @ direction)
    ahead = expected > 1e-3
    assert 0.3 < ahead.mean() < 0.95
    np.testing.assert_array_equal(np.asarray(hit.number) == 0, ahead)
    np.testing.assert_allclose(hit.distance[ahead], expected[ahead], rtol=1e-3)
    facing = -np.sign(normal @ direction)
    np.testing.assert_allclose(
        surface.flat[:, ahead], (normal[:, None] * facing)[:, ahead], atol=1e-5
    )
    place = (origin + expected * direction)[:, ahead]
    np.testing.assert_allclose(surface.point[:, ahead], place, rtol=1e-3, atol=1e-3)


def test_a_rectangle_is_the_part_of_its_plane_within_its_half_extents(rays):
    origin, direction = rays
    turn = rotation_matrix(TILT)
    size = (1.2, 0.4)
    of_plane, _ = met(
        ready(Object(shape="plane", material="red", rotation=TILT)), origin, direction
    )
    panel = Object(shape="rectangle", material="red", rotation=TILT, size=size)
    of_panel, _ = met(ready(panel), origin, direction)
    local = turn.T @ (origin + np.where(of_plane.number >= 0, of_plane.distance, 0.0) * direction)
    inside = (np.abs(local[:2]) <= np.array(size)[:, None]).all(axis=0) & (of_plane.number >= 0)
    edge = (np.abs(np.abs(local[:2]) - np.array(size)[:, None]) < 1e-4).any(axis=0)
    assert 0.05 < inside.mean() < 0.9
    np.testing.assert_array_equal((np.asarray(of_panel.number) == 0)[~edge], inside[~edge])


def test_a_tilted_box_is_left_through_the_face_whose_normal_it_has(rays):
    origin, direction = rays
    turn, half = rotation_matrix(TILT), np.array([0.5, 1.0, 1.5])
    box = Object(shape="box", material="red", rotation=TILT, size=tuple(half))
    hit, surface = met(ready(box), origin, direction)
    found = np.asarray(hit.number) == 0
    assert 0.3 < found.mean() < 1.0
    local = (turn.T @ np.asarray(surface.point, np.float64))[:, found] / half[:, None]
    np.testing.assert_allclose(np.abs(local).max(axis=0), 1.0, atol=1e-3)
    normal = (turn.T @ np.asarray(surface.flat, np.float64))[:, found]
    axis = np.abs(normal).argmax(axis=0)
    np.testing.assert_allclose(np.abs(normal).max(axis=0), 1.0, atol=1e-4)
    np.testing.assert_array_equal(axis, np.abs(local).argmax(axis=0))
    inside = (np.abs(turn.T @ origin) < half[:, None]).all(axis=0)[found]
    np.testing.assert_array_equal(np.asarray(surface.enters)[found], ~inside)


def test_from_inside_a_sphere_its_far_side_is_met_and_normals_face_the_ray():
    direction = np.random.default_rng(1).normal(size=(3, RAYS))
    direction /= np.linalg.norm(direction, axis=0)
    hit, surface = met(ready(Object(material="red", size=(2.0,))), np.zeros((3, RAYS)), direction)
    np.testing.assert_allclose(hit.distance, 2.0, rtol=1e-5)
    assert not np.any(surface.enters)
    np.testing.assert_allclose(surface.flat, -direction, atol=1e-5)
    np.testing.assert_allclose(surface.normal, -direction, atol=1e-5)


def test_the_nearest_of_several_objects_is_found_whatever_their_order(rays):
    balls = [
        Object(material=name, position=place, size=(1.0,))
        for name, place in zip(PAINTS, [(0.0, 0.0, 0.0), (0.8, 0.8, 0.0), (0.0, 0.8, 0.8)])
    ]
    hit, surface = met(ready(*balls), *rays)
    back, reversed_surface = met(ready(*balls[::-1]), *rays)
    alone = np.stack([met(ready(ball), *rays)[0].distance for ball in balls])
    np.testing.assert_allclose(hit.distance, alone.min(axis=0), rtol=1e-5)
    found = np.asarray(hit.number) >= 0
    np.testing.assert_array_equal(np.asarray(hit.number)[found], alone.argmin(axis=0)[found])
    np.testing.assert_array_equal(np.asarray(back.number)[found], 2 - np.asarray(hit.number)[found])
    expected = np.array(list(PAINTS.values()))[np.asarray(hit.number)[found]].T
    np.testing.assert_allclose(surface.colour[:, found], expected, rtol=1e-6)
    np.testing.assert_allclose(reversed_surface.colour[:, found], expected, rtol=1e-6)


def test_rays_that_miss_everything_say_so_and_hold_finite_values():
    away = np.repeat([[0.0], [0.0], [1.0]], RAYS, axis=1)
    hit, surface = met(ready(Object(material="red", position=(0.0, 0.0, -5.0))), 0 * away, away)
    assert (np.asarray(hit.number) == -1).all()
    assert np.isinf(hit.distance).all()
    assert np.isfinite(surface.point).all()
    assert np.isfinite(surface.normal).all()


def test_a_ray_does_not_meet_the_surface_that_it_leaves():
    # From the top of a ball outwards, and along a plane from a point on it.
    up = np.repeat([[0.0], [0.6], [0.8]], RAYS, axis=1)
    plane = Object(shape="plane", material="red", position=(0.0, 0.0, 1.0))
    top = np.repeat([[0.0], [0.0], [1.0]], RAYS, axis=1)
    hit, _ = met(ready(Object(material="red"), plane), top, up)
    assert (np.asarray(hit.number) == -1).all()


@pytest.mark.parametrize("shape", ["sphere", "box", "plane", "rectangle"])
def test_a_shadow_is_cast_by_what_is_nearer_than_the_light(shape, rays):
    scene = ready(Object(shape=shape, material="red", size=(0.7, 0.7, 0.7), rotation=TILT))
    hit, _ = met(scene, *rays)
    limit = jnp.asarray(np.random.default_rng(2).uniform(0.5, 6.0, RAYS), jnp.float32)
    origin, direction = (jnp.asarray(each, jnp.float32) for each in rays)
    blocked = surfaces.shadowed(*scene, origin, direction, limit)
    np.testing.assert_array_equal(blocked, hit.distance < limit)
    assert 0.05 < np.mean(blocked) < 0.95


def test_rows_of_a_table_are_picked_exactly():
    table = np.random.default_rng(0).normal(size=(7, 3, 2)).astype(np.float32)
    index = np.random.default_rng(1).integers(0, 7, RAYS)
    picked = surfaces.rows(jnp.asarray(table), jnp.asarray(index))
    np.testing.assert_array_equal(picked, table[index].transpose(1, 2, 0))
