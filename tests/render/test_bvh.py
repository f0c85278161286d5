# SPDX-License-Identifier: Apache-2.0
"""The hierarchy, against every triangle tested in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.render import bvh


@pytest.fixture(scope="module")
def soup():
    """60 random triangles, and 300 rays among them."""
    random = np.random.default_rng(0)
    vertices = (random.uniform(-2, 2, (60, 1, 3)) + random.uniform(-1, 1, (60, 3, 3))).reshape(
        -1, 3
    )
    faces = np.arange(180).reshape(60, 3)
    origin = random.uniform(-4, 4, (300, 3))
    direction = random.uniform(-2, 2, (300, 3)) - origin
    return bvh.build(vertices, faces, np.ones((180, 3))), vertices[faces], origin, direction


@pytest.fixture(params=[False, True])
def divided(request, monkeypatch):
    """Whether the slow rays of an array go on in a smaller one."""
    monkeypatch.setattr(bvh, "_DIVIDED", range(16, 1000) if request.param else range(0))
    return request.param


def by_hand(triangles, origin, direction):
    """Distances from solving o + t d = a + u (b − a) + v (c − a) for every triangle."""
    a, b, c = triangles.swapaxes(0, 1)
    matrix = np.stack([np.broadcast_to(-direction, a.shape), b - a, c - a], axis=-1)
    t, u, v = np.linalg.solve(matrix, (origin - a)[..., None])[..., 0].T
    return np.where((t > 0) & (u >= 0) & (v >= 0) & (u + v <= 1), t, np.inf)


def rays(origin, direction):
    return jnp.asarray(origin.T, jnp.float32), jnp.asarray(direction.T, jnp.float32)


def test_the_nearest_triangle_is_found(soup, divided, monkeypatch):
    arrays = set()
    visit = bvh._visit

    def noted(bvh, rays, state, nearest):
        arrays.add(len(state.node))
        return visit(bvh, rays, state, nearest)

    monkeypatch.setattr(bvh, "_visit", noted)
    tree, triangles, origin, direction = soup
    find = jax.jit(lambda *rays: bvh.traverse(tree, *rays, nearest=True))
    distance, number = find(*rays(origin, direction), jnp.full(300, jnp.inf))
    expected = np.array([by_hand(triangles, *ray).min() for ray in zip(origin, direction)])
    assert 0.3 < np.isfinite(expected).mean() < 0.99
    np.testing.assert_allclose(distance, expected, rtol=1e-4)
    np.testing.assert_array_equal(number >= 0, np.isfinite(expected))
    # The slowest 18 rays and the slowest of these go on in arrays of their own.
    assert arrays == ({300, 18, 1} if divided else {300})


@pytest.mark.usefixtures("divided")
def test_any_triangle_within_the_limit_makes_a_shadow(soup):
    tree, triangles, origin, direction = soup
    find = jax.jit(lambda *rays: bvh.traverse(tree, *rays, nearest=False))
    _, number = find(*rays(origin, direction), jnp.full(300, 0.9))
    expected = [by_hand(triangles, *ray).min() < 0.9 for ray in zip(origin, direction)]
    np.testing.assert_array_equal(number >= 0, expected)


def test_leaves_hold_every_triangle_once_and_boxes_hold_their_triangles(soup):
    tree, triangles, *_ = soup
    is_leaf = np.asarray(tree.size) > 0
    assert np.asarray(tree.size).sum() == len(triangles)
    corners = np.asarray(tree.corner)[:, None] + np.pad(
        np.asarray(tree.edges), [(0, 0), (1, 0), (0, 0)]
    )
    for row in np.flatnonzero(is_leaf):
        first, size = int(tree.first[row]), int(tree.size[row])
        inside = corners[first : first + size]
        assert (inside >= np.asarray(tree.lower)[row] - 1e-5).all()
        assert (inside <= np.asarray(tree.upper)[row] + 1e-5).all()
