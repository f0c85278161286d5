# SPDX-License-Identifier: Apache-2.0
"""Bounding volume hierarchy of a triangle mesh.

Nodes are stored depth first, each with the index of the node to visit if its box is missed. A ray
then needs no stack, only one integer of state, which suits arrays of rays (Smits 1998, Efficiency
Issues for Ray Tracing).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

__all__ = ["LEAF", "Bvh", "build", "normals_at"]

LEAF = 4
"""Most triangles in a leaf."""


class Bvh(NamedTuple):
    """A hierarchy; triangles are in the order of the leaves."""

    lower: Float[Array, "nodes 3"]
    upper: Float[Array, "nodes 3"]
    skip: Int[Array, " nodes"]  # next node if this one's box is missed
    first: Int[Array, " nodes"]  # first triangle of a leaf
    size: Int[Array, " nodes"]  # triangles of a leaf; 0 for an inner node
    corner: Float[Array, "triangles 3"]
    edges: Float[Array, "triangles 2 3"]
    normals: Float[Array, "triangles 3 3"]  # at the corners


def build(
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "triangles 3"],
    normals: Float[np.ndarray, "vertices 3"],
) -> Bvh:
    """Build the hierarchy by halving triangles at the median of the longest axis."""
    corners = vertices[faces]
    centres = corners.mean(axis=1)
    order: list[int] = []
    rows: list[list[float | int]] = []

    def add(chosen: np.ndarray) -> None:
        row = len(rows)
        box = corners[chosen].reshape(-1, 3)
        is_leaf = len(chosen) <= LEAF
        first = len(order) if is_leaf else 0
        rows.append([*box.min(0), *box.max(0), 0, first, len(chosen) if is_leaf else 0])
        if is_leaf:
            order.extend(chosen.tolist())
        else:
            axis = int(np.argmax(np.ptp(centres[chosen], axis=0)))
            half = len(chosen) // 2
            chosen = chosen[np.argpartition(centres[chosen, axis], half)]
            add(chosen[:half])
            add(chosen[half:])
        # Only now it is known where the nodes below this one end.
        rows[row][6] = len(rows)

    add(np.arange(len(faces)))
    table = np.array(rows)
    skip, first, count = table[:, 6:].astype(np.int32).T
    corners, faces = corners[order], faces[order]
    return Bvh(
        jnp.asarray(table[:, :3], jnp.float32),
        jnp.asarray(table[:, 3:6], jnp.float32),
        jnp.asarray(skip),
        jnp.asarray(first),
        jnp.asarray(count),
        jnp.asarray(corners[:, 0], jnp.float32),
        jnp.asarray(corners[:, 1:] - corners[:, :1], jnp.float32),
        jnp.asarray(normals[faces], jnp.float32),
    )


def normals_at(
    bvh: Bvh, triangle: Int[Array, " ray"], point: Float[Array, "3 ray"]
) -> tuple[Float[Array, "3 ray"], Float[Array, "3 ray"]]:
    """Return the triangle's own unit normal, and the one interpolated from its corners."""
    number = jnp.maximum(triangle, 0)
    a, b = bvh.edges[number].transpose(1, 2, 0)
    flat = jnp.cross(a, b, axis=0)
    offset = point - bvh.corner[number].T
    area = (flat * flat).sum(0)
    u = (jnp.cross(offset, b, axis=0) * flat).sum(0) / area
    v = (jnp.cross(a, offset, axis=0) * flat).sum(0) / area
    first, second, third = bvh.normals[number].transpose(1, 2, 0)
    smooth = (1 - u - v) * first + u * second + v * third
    return flat * lax.rsqrt(area), smooth * lax.rsqrt((smooth * smooth).sum(0) + 1e-20)
