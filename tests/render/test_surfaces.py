# SPDX-License-Identifier: Apache-2.0
"""What rays hit, against the textbook's quadratic equation in double precision."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.render import Ball, Ground, Scene, surfaces

BALLS = (
    Ball((0.0, 0.0, 1.0), 1.0),
    Ball((1.5, 0.5, 0.6), 0.5),
    Ball((-2.0, 1.0, 2.0), 0.7),
)


@pytest.fixture(scope="module")
def rays():
    random = np.random.default_rng(3)
    origin = random.uniform([-6, -6, 3.2], [6, 6, 8], (400, 3))  # outside all balls
    target = random.uniform([-3, -2, -1], [3, 2, 3.5], (400, 3))
    direction = target - origin
    direction[:20] *= -1  # some look away from everything
    return origin, direction / np.linalg.norm(direction, axis=1, keepdims=True)


def by_hand(origin, direction, ground):
    """Distance and number of the nearest root of |o + t d − c|² = r², or of o_z + t d_z = 0."""
    best, number = np.inf, -1
    for index, ball in enumerate(BALLS):
        offset = origin - ball.centre
        roots = np.roots([1.0, 2 * offset @ direction, offset @ offset - ball.radius**2])
        if np.isreal(roots).all() and 0 < roots.min() < best:
            best, number = roots.min(), index
    if ground and direction[2] < 0 and -origin[2] / direction[2] < best:
        best, number = -origin[2] / direction[2], len(BALLS)
    return best, number


@pytest.mark.parametrize("ground", [Ground(), None], ids=["ground", "nothing below"])
def test_rays_hit_what_the_quadratic_equation_says(rays, ground):
    moment = Scene(BALLS, ground=ground).at(0.0)
    columns = [jnp.asarray(values.T, jnp.float32) for values in rays]
    distance, index = surfaces.nearest(moment.balls, ground, *columns)
    expected = [by_hand(origin, direction, ground) for origin, direction in zip(*rays)]
    assert {number for _, number in expected} == ({-1, 0, 1, 2, 3} if ground else {-1, 0, 1, 2})
    np.testing.assert_array_equal(index, [number for _, number in expected])
    np.testing.assert_allclose(distance, [best for best, _ in expected], rtol=2e-5)


def test_shadows_are_where_a_ray_to_the_sun_hits_a_ball(rays):
    moment = Scene(BALLS).at(0.0)
    columns = [jnp.asarray(values.T, jnp.float32) for values in rays]
    expected = [by_hand(origin, direction, None)[1] >= 0 for origin, direction in zip(*rays)]
    np.testing.assert_array_equal(surfaces.shadowed(moment.balls, *columns), expected)


def test_a_surface_has_the_place_the_direction_and_the_stuff_of_its_ball():
    red, blue = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)
    balls = (
        Ball((0.0, 0.0, 1.0), 1.0),
        Ball((3.0, 0.0, 1.0), 0.5, (red, blue), "bands", 0.3, 0.2, (0.0, 2.0, 0.0)),
    )
    point = np.array([3.0, -0.3, 1.4])  # bands: a height of 0.8 radii is of the second colour
    surface = surfaces.hit(
        Scene(balls).at(0.0).balls, None, jnp.asarray(point[:, None]), jnp.array([1])
    )
    np.testing.assert_allclose(surface.normal[:, 0], [0.0, -0.6, 0.8], atol=1e-6)
    np.testing.assert_allclose(surface.colour[:, 0], red, rtol=1e-6)
    np.testing.assert_allclose(surface.emission[:, 0], [0.0, 2.0, 0.0])
    np.testing.assert_allclose([surface.reflectance[0], surface.roughness[0]], [0.3, 0.2])


def test_a_pattern_turns_with_its_ball():
    colours = ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    ball = Ball((0.0, 0.0, 0.0), 1.0, colours, "wedges", turn=0.7, roll=0.4)
    places = np.random.default_rng(0).normal(size=(200, 3))
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    still = colour_of(ball, 0.0, places)
    moved = colour_of(ball, 2.0, places @ ball.rotation(2.0).T)
    assert 0.2 < still.mean() < 0.8
    assert np.mean(still != moved) < 0.02  # rounding decides at the edges


def colour_of(ball, time, places):
    points = jnp.asarray(places.T, jnp.float32)
    index = jnp.zeros(len(places), int)
    return np.asarray(surfaces.hit(Scene((ball,)).at(time).balls, None, points, index).colour[0])
