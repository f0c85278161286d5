# SPDX-License-Identifier: Apache-2.0
"""The hierarchy of a mesh."""

import numpy as np

from flavr_jax.render import bvh


def test_leaves_hold_every_triangle_once_and_boxes_hold_their_triangles():
    vertices = np.random.default_rng(0).uniform(-2, 2, (180, 3))
    tree = bvh.build(vertices, np.arange(180).reshape(60, 3), np.ones((180, 3)))
    is_leaf = np.asarray(tree.size) > 0
    assert np.asarray(tree.size).max() <= bvh.LEAF
    corners = np.asarray(tree.corner)[:, None] + np.pad(
        np.asarray(tree.edges), [(0, 0), (1, 0), (0, 0)]
    )
    given = vertices.reshape(60, 3, 3)
    np.testing.assert_allclose(
        np.sort(corners[:, 0], axis=0), np.sort(given[:, 0], axis=0), rtol=1e-6
    )
    held = []
    for row in np.flatnonzero(is_leaf):
        first, size = int(tree.first[row]), int(tree.size[row])
        held += range(first, first + size)
        inside = corners[first : first + size]
        assert (inside >= np.asarray(tree.lower)[row] - 1e-5).all()
        assert (inside <= np.asarray(tree.upper)[row] + 1e-5).all()
    assert held == list(range(60))
