# SPDX-License-Identifier: Apache-2.0
"""Sampling of lights, against solid angles and irradiances in closed form."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.render import Environment, Material, Object, Scene, Sun, lights, surfaces, world

RAYS = 4096
NO_SUN = Sun()


def scene(*lamps, sun=NO_SUN, environment=None):
    """Lamps of radiance 3 and a dull ball, which is no light."""
    return Scene(
        objects=(*lamps, Object(material="dull", position=(0.0, 0.0, -90.0))),
        materials={"lamp": Material("emissive", (3.0, 3.0, 3.0)), "dull": Material()},
        environment=environment or Environment(),
        sun=sun,
    )


def ready(made):
    layout, arrays = world.compile_scene(made)
    moment = world.moments(made, 0.0, 1)
    return layout, arrays, jax.tree.map(lambda column: column[0], moment)


def uniform(seed=0):
    """A grid that stands for random pairs, and random numbers that choose a light."""
    side = round(RAYS**0.5)
    pair = (np.mgrid[:side, :side].reshape(2, -1) + 0.5) / side
    choice = np.random.default_rng(seed).permutation(RAYS) / RAYS
    return jnp.asarray(choice, jnp.float32), tuple(jnp.asarray(each, jnp.float32) for each in pair)


def points(*place):
    return jnp.asarray(np.repeat(np.array(place)[:, None], RAYS, axis=1), jnp.float32)


def drawn(made, *place):
    layout, arrays, moment = ready(made)
    return lights.sample(layout, arrays, moment, points(*place), *uniform())


BALL = Object(material="lamp", position=(0.0, 3.0, 4.0), size=(2.0,))
PANEL = Object(
    material="lamp", shape="rectangle", position=(0.0, 0.0, 2.0), rotation=(180.0, 0.0, 0.0),
    size=(1.5, 0.5),
)  # fmt: skip


def test_a_sphere_is_sampled_uniformly_over_the_angle_at_which_it_is_seen():
    found = drawn(scene(BALL), 0.0, 0.0, 0.0)
    cosine = math.sqrt(1 - (2 / 5) ** 2)
    np.testing.assert_allclose(found.density, 1 / (2 * math.pi * (1 - cosine)), rtol=1e-5)
    along = np.array([0.0, 0.6, 0.8]) @ np.asarray(found.direction)
    assert along.min() >= cosine - 1e-5
    # Uniform in the cosine: every tenth of the cone's cosines has a tenth of the directions.
    parts, _ = np.histogram((along - cosine) / (1 - cosine), bins=10, range=(0, 1))
    np.testing.assert_allclose(parts / RAYS, 0.1, atol=0.02)
    np.testing.assert_array_equal(found.radiance, 3.0)


def test_the_distance_to_a_sphere_is_that_of_its_near_side():
    found = drawn(scene(BALL), 0.0, 0.0, 0.0)
    middle = np.array([[0.0], [3.0], [4.0]])
    # The direction at the rim is known to float32's precision only, hence the tolerance.
    away = np.linalg.norm(found.distance * found.direction - middle, axis=0)
    np.testing.assert_allclose(away, 2.0, atol=5e-3)
    assert np.asarray(found.distance).max() <= math.sqrt(5**2 - 2**2) + 5e-3


def test_inside_a_sphere_all_directions_are_as_likely_and_meet_its_wall():
    found = drawn(scene(BALL), 0.0, 3.0, 3.0)
    np.testing.assert_allclose(found.density, 1 / (4 * math.pi), rtol=1e-5)
    np.testing.assert_allclose(np.mean(found.direction, axis=1), 0.0, atol=0.02)
    away = found.distance * found.direction - np.array([[0.0], [0.0], [1.0]])
    np.testing.assert_allclose(np.linalg.norm(away, axis=0), 2.0, atol=1e-3)


def test_a_rectangle_fills_its_solid_angle():
    found = drawn(scene(PANEL), 0.0, 0.0, 0.0)
    # The mean of 1 / density is the solid angle: below the middle 4 atan(ab / (d √(a²+b²+d²))).
    expected = 4 * math.atan(1.5 * 0.5 / (2 * math.sqrt(1.5**2 + 0.5**2 + 2**2)))
    assert np.mean(1 / np.asarray(found.density)) == pytest.approx(expected, rel=1e-3)
    target = np.asarray(found.distance * found.direction)
    np.testing.assert_allclose(target[2], 2.0, atol=1e-4)
    assert np.abs(target[:2]).max(axis=1) == pytest.approx([1.5, 0.5], rel=0.02)


def test_lights_are_chosen_alike_and_densities_count_the_choice():
    alone = drawn(scene(BALL), 0.0, 0.0, 0.0)
    both = drawn(scene(BALL, PANEL), 0.0, 0.0, 0.0)
    to_ball = np.array([0.0, 0.6, 0.8]) @ np.asarray(both.direction) > math.sqrt(1 - 0.4**2) - 1e-5
    on_panel = np.abs(np.asarray(both.distance * both.direction)[2] - 2.0) < 1e-3
    assert (to_ball & ~on_panel).mean() == pytest.approx(0.5, abs=0.1)
    chosen = to_ball & ~on_panel
    np.testing.assert_allclose(both.density[chosen], alone.density[0] / 2, rtol=1e-5)


@pytest.mark.parametrize("lamp", [BALL, PANEL], ids=["sphere", "rectangle"])
def test_what_meets_a_light_by_itself_knows_the_density_of_sampling_it(lamp):
    layout, arrays, moment = ready(scene(lamp, BALL if lamp is PANEL else PANEL))
    origin, (choice, pair) = points(0.1, -0.2, 0.3), uniform()
    found = lights.sample(layout, arrays, moment, origin, choice / 2, pair)  # the first of two
    hit = surfaces.nearest(layout, arrays, moment, origin, found.direction)
    surface = surfaces.surface(layout, arrays, moment, hit, origin, found.direction)
    density = lights.density_of_hit(
        layout, arrays, moment, hit.number, surface, origin, found.direction
    )
    first = np.asarray(hit.number) == 0
    assert first.mean() > 0.6  # the other lamp hides a part
    np.testing.assert_allclose(density[first], found.density[first], rtol=1e-3)


def test_what_is_no_light_has_no_density():
    layout, arrays, moment = ready(scene(BALL))
    origin, down = points(0.0, 0.0, 0.0), points(0.0, 0.0, -1.0)
    hit = surfaces.nearest(layout, arrays, moment, origin, down)
    surface = surfaces.surface(layout, arrays, moment, hit, origin, down)
    assert (np.asarray(hit.number) == 1).all()
    density = lights.density_of_hit(layout, arrays, moment, hit.number, surface, origin, down)
    assert not np.any(density)


SUN = Sun(direction=(1.0, 2.0, 2.0), colour=(2.0, 1.0, 0.5), angle=5.0)


def test_a_white_surface_that_faces_the_sun_has_its_colour():
    found = drawn(scene(sun=SUN), 0.0, 0.0, 0.0)
    towards = np.array([1.0, 2.0, 2.0]) / 3
    cosine = towards @ np.asarray(found.direction)
    assert np.degrees(np.arccos(cosine.min())) == pytest.approx(5.0, abs=0.05)
    assert np.isinf(found.distance).all()
    # Lambert's reflected radiance: the mean of radiance × cosine / (π density).
    reflected = np.asarray(found.radiance) * cosine / (np.pi * np.asarray(found.density))
    np.testing.assert_allclose(reflected.mean(axis=1), SUN.colour, rtol=1e-3)


def test_the_sun_is_seen_as_a_disc_of_its_angle():
    layout, arrays, _ = ready(scene(sun=SUN))
    towards = np.array([1.0, 2.0, 2.0]) / 3
    aside = np.cross(towards, [0.0, 0.0, 1.0])
    angles = np.radians(np.linspace(0, 10, RAYS))
    rays = np.outer(towards, np.cos(angles)) + np.outer(
        aside / np.linalg.norm(aside), np.sin(angles)
    )
    rays, mirror = jnp.asarray(rays, jnp.float32), jnp.full(RAYS, jnp.inf)
    seen = lights.background(layout, arrays, rays, mirror, weigh=True)
    inside = np.asarray(seen)[0] > 0
    assert np.degrees(angles[inside].max()) == pytest.approx(5.0, abs=0.02)
    assert inside[: inside.sum()].all()
    np.testing.assert_allclose(seen[:, 0], arrays.sun[1], rtol=1e-5)


def test_a_sky_blends_from_the_horizon_to_the_zenith_and_is_even_below():
    sky = Environment(zenith=(0.1, 0.2, 0.9), horizon=(0.8, 0.6, 0.4), strength=2.0)
    layout, arrays, _ = ready(scene(environment=sky))
    heights = np.linspace(-1, 1, RAYS)
    rays = np.stack([np.sqrt(1 - heights**2), np.zeros(RAYS), heights])
    none = jnp.full(RAYS, jnp.inf)
    light = np.asarray(
        lights.background(layout, arrays, jnp.asarray(rays, jnp.float32), none, weigh=False)
    )
    np.testing.assert_allclose(light[:, -1], 2 * np.array(sky.zenith), rtol=1e-4)
    below = light[:, heights <= 0]
    np.testing.assert_allclose(below, np.broadcast_to(2 * np.array([sky.horizon]).T, below.shape))
    assert (np.diff(light[2]) >= -1e-6).all()


def test_weights_of_two_ways_to_find_the_same_light_sum_to_one():
    random = np.random.default_rng(0)
    first, second = (jnp.asarray(10 ** random.uniform(-3, 3, 100), jnp.float32) for _ in range(2))
    total = lights.power(first, second) + lights.power(second, first)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    # The square: nine tenths and one tenth of the density weigh 81 and 1.
    assert float(lights.power(jnp.full(1, 9.0), jnp.ones(1))[0]) == pytest.approx(81 / 82)
    # A mirror's direction is never sampled otherwise.
    assert float(lights.power(jnp.full(1, jnp.inf), jnp.ones(1))[0]) == 1.0


def test_frames_are_rotations_whose_third_column_is_the_normal():
    normals = np.random.default_rng(0).normal(size=(3, 500))
    normals = np.concatenate([normals / np.linalg.norm(normals, axis=0), np.eye(3), -np.eye(3)], 1)
    turned = np.asarray(lights.frame(jnp.asarray(normals, jnp.float32))).transpose(2, 0, 1)
    np.testing.assert_allclose(
        turned @ turned.swapaxes(1, 2), np.tile(np.eye(3), (506, 1, 1)), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(turned), 1.0, atol=1e-5)
    np.testing.assert_allclose(turned[:, :, 2], normals.T, atol=1e-6)


@pytest.mark.parametrize(("sun", "count"), [(NO_SUN, 2), (SUN, 3)])
def test_lights_are_counted_with_the_sun(sun, count):
    made = scene(BALL, PANEL, sun=sun)
    assert lights.count(ready(made)[0]) == count
    assert lights.count(ready(dataclasses.replace(made, objects=made.objects[2:]))[0]) == count - 2
