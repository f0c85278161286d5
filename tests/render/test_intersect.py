# SPDX-License-Identifier: Apache-2.0
"""Intersections, against textbook formulas in double precision, one ray at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.render import intersect

BOX = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
HALF = np.array([1.0, 0.5, 2.0])


@pytest.fixture(scope="module")
def rays():
    random = np.random.default_rng(0)
    origin = random.uniform(-5, 5, (300, 3))
    origin[:30] = random.uniform(-0.4, 0.4, (30, 3))  # inside
    direction = random.uniform(-3, 3, (300, 3)) - origin
    return origin, direction * random.uniform(0.2, 3.0, (300, 1))  # of any length


def columns(vectors):
    return list(jnp.asarray(vectors.T, jnp.float32))


def test_a_sphere_is_met_at_the_roots_of_its_equation(rays):
    entry, leave = intersect.sphere(*map(columns, rays), radius=1.5)
    hits = 0
    for o, d, near, far in zip(*rays, entry, leave):
        roots = np.roots([d @ d, 2 * o @ d, o @ o - 1.5**2])
        if np.isreal(roots).all():
            hits += 1
            np.testing.assert_allclose([near, far], sorted(roots.real), rtol=1e-4, atol=1e-5)
        else:
            assert near == far == np.inf
    assert 50 < hits < 290


def test_a_sphere_of_negative_radius_is_never_met(rays):
    entry, _ = intersect.sphere(*map(columns, rays), radius=-1.5)
    assert (entry == jnp.inf).all()


def test_a_distant_small_sphere_is_met_precisely():
    # In float32, o·o − r² would have lost the radius altogether.
    origin = np.array([[4000.0, 3000.0, 0.0]])
    direction = -origin / 5000.0
    entry, leave = intersect.sphere(columns(origin), columns(direction), radius=0.5)
    np.testing.assert_allclose([entry[0], leave[0]], [4999.5, 5000.5], atol=2e-3)


def by_slabs(origin, direction):
    """Entry and exit of the box |x| ≤ HALF, as intersections of three slabs."""
    times = np.sort([(-HALF - origin) / direction, (HALF - origin) / direction], axis=0)
    return times[0].max(), times[1].min()


def test_a_box_is_entered_and_left_where_its_slabs_are(rays):
    found = intersect.convex(
        jnp.asarray(BOX, jnp.float32), jnp.asarray(np.repeat(HALF, 2), jnp.float32),
        *map(columns, rays),
    )  # fmt: skip
    hits = 0
    for o, d, entry, leave, front, back in zip(*rays, *found):
        near, far = by_slabs(o, d)
        assert (entry < leave) == (near < far)
        if near < far:
            hits += 1
            np.testing.assert_allclose([entry, leave], [near, far], rtol=1e-4, atol=1e-5)
            assert BOX[front] @ (o + near * d) == pytest.approx(HALF[front // 2])
            assert BOX[back] @ (o + far * d) == pytest.approx(HALF[back // 2])
    assert 50 < hits < 290


def test_without_an_origin_rays_start_at_zero(rays):
    _, direction = rays
    planes = jnp.asarray(BOX, jnp.float32), jnp.asarray(np.repeat(HALF, 2), jnp.float32)
    implied = intersect.convex(*planes, None, columns(direction))
    stated = intersect.convex(*planes, columns(np.zeros_like(direction)), columns(direction))
    for a, b in zip(implied, stated):
        np.testing.assert_array_equal(a, b)
