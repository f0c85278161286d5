# SPDX-License-Identifier: Apache-2.0
"""Bounding volume hierarchy of a triangle mesh, and its traversal without a stack.

Nodes are stored depth first, each with the index of the node to visit if its box is missed. A ray
then needs one integer of state, which suits arrays of rays (Smits 1998, Efficiency Issues for Ray
Tracing).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

__all__ = ["Bvh", "build", "normals_at", "traverse"]

_LEAF = 4  # triangles in a leaf, at most
_BOXES = 6  # boxes visited before the triangles of a leaf are
_SLOW = 16  # one ray in this many goes on in a smaller array
# Sizes of arrays from which the slow rays are taken. GPUs trace larger ones, where the gain has not
# been measured.
_DIVIDED = range(1 << 12, 1 << 16)


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
        is_leaf = len(chosen) <= _LEAF
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


class _Rays(NamedTuple):
    """Rays, and one over their direction."""

    origin: Float[Array, "3 ray"]
    direction: Float[Array, "3 ray"]
    inverse: Float[Array, "3 ray"]


class _State(NamedTuple):
    """Where rays are in the hierarchy, and what they have met.

    Attributes:
        node: next node; the number of nodes at the end.
        best: distance of the nearest triangle so far.
        triangle: its number, or −1.
    """

    node: Int[Array, " ray"]
    best: Float[Array, " ray"]
    triangle: Int[Array, " ray"]


def traverse(
    bvh: Bvh,
    origin: Float[Array, "3 ray"],
    direction: Float[Array, "3 ray"],
    limit: Float[Array, " ray"],
    *,
    nearest: bool,
) -> tuple[Float[Array, " ray"], Int[Array, " ray"]]:
    """Find a triangle that each ray meets within ``limit``.

    Args:
        bvh: hierarchy.
        origin: origin of the rays.
        direction: direction of the rays, of any length.
        limit: distances, in lengths of the direction, that count.
        nearest: find the nearest triangle; otherwise stop at any, which is enough for shadows.

    Returns:
        Distance and number of the triangle; ``limit`` and −1 if there is none.
    """
    # Not infinite: an origin on a side of a box would make 0 · ∞, which is NaN.
    inverse = 1.0 / jnp.where(jnp.abs(direction) < 1e-12, 1e-12, direction)
    start = jnp.zeros(limit.shape, jnp.int32)
    state = _State(start, limit, jnp.full(limit.shape, -1, jnp.int32))
    state = _search(bvh, _Rays(origin, direction, inverse), state, nearest=nearest)
    return state.best, state.triangle


def _search(bvh: Bvh, rays: _Rays, state: _State, *, nearest: bool) -> _State:
    """Follow rays to the end of the hierarchy.

    All rays of an array take as many steps as the slowest ray, about ten times as many as most rays
    need. Therefore, the slowest rays go on in a smaller array.
    """
    n_nodes, count = len(bvh.skip), len(state.node)
    few = count // _SLOW if count in _DIVIDED else 0

    def goes_on(state: _State) -> Bool[Array, ""]:
        return (state.node < n_nodes).sum() > few

    state = lax.while_loop(goes_on, lambda state: _visit(bvh, rays, state, nearest), state)
    if not few:
        return state
    # Unused places get a number beyond the last ray: they read the last ray, and what they write is
    # dropped.
    slow = jnp.nonzero(state.node < n_nodes, size=few, fill_value=count)[0]
    found = _State(*(column.at[slow].get(mode="clip") for column in state))
    found = found._replace(node=jnp.where(slow < count, found.node, n_nodes))
    chosen = _Rays(*(column.at[:, slow].get(mode="clip") for column in rays))
    found = _search(bvh, chosen, found, nearest=nearest)
    return _State(*(all_.at[slow].set(some, mode="drop") for all_, some in zip(state, found)))


def _visit(bvh: Bvh, rays: _Rays, state: _State, nearest: bool) -> _State:
    """Visit several boxes, and the triangles of the leaf that is reached, if any."""
    n_nodes = len(bvh.skip)
    node, best, triangle = state
    # All rays take the same steps, and triangles need more memory traffic than boxes.
    node, is_leaf = _descend(bvh, rays, node, best)
    for _ in range(_BOXES - 1):
        node, is_leaf = _descend(bvh, rays, node, best)
    at = jnp.minimum(node, n_nodes - 1)
    first, count = bvh.first[at], bvh.size[at]
    for offset in range(_LEAF):
        number = jnp.minimum(first + offset, len(bvh.corner) - 1)
        distance = _triangle(bvh, number, rays.origin, rays.direction)
        closer = is_leaf & (offset < count) & (distance < best)
        best = jnp.where(closer, distance, best)
        triangle = jnp.where(closer, number, triangle)
    node = jnp.where(is_leaf, bvh.skip[at], node)
    node = node if nearest else jnp.where(triangle >= 0, n_nodes, node)
    return _State(node, best, triangle)


def _descend(
    bvh: Bvh, rays: _Rays, node: Int[Array, " ray"], best: Float[Array, " ray"]
) -> tuple[Int[Array, " ray"], Bool[Array, " ray"]]:
    """Go to the next node, or stay at a leaf whose box is met; return whether it is one."""
    n_nodes = len(bvh.skip)
    at = jnp.minimum(node, n_nodes - 1)
    near = (bvh.lower[at].T - rays.origin) * rays.inverse
    far = (bvh.upper[at].T - rays.origin) * rays.inverse
    entry = jnp.minimum(near, far).max(axis=0)
    leave = jnp.maximum(near, far).min(axis=0)
    inside = (entry <= leave) & (leave > 0) & (entry < best) & (node < n_nodes)
    is_leaf = inside & (bvh.size[at] > 0)
    following = jnp.where(inside, at + 1, bvh.skip[at])
    return jnp.where(is_leaf | (node >= n_nodes), node, following), is_leaf


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


def _triangle(
    bvh: Bvh, number: Int[Array, " ray"], origin: Array, direction: Array
) -> Float[Array, " ray"]:
    """Return the distance to triangles from either side (Möller and Trumbore 1997)."""
    a, b = bvh.edges[number].transpose(1, 2, 0)
    across = jnp.cross(direction, b, axis=0)
    determinant = (a * across).sum(0)
    # A ray along the triangle's plane gets a scale of 0, which counts as a miss below.
    scale = 1.0 / jnp.where(jnp.abs(determinant) < 1e-12, jnp.inf, determinant)
    offset = origin - bvh.corner[number].T
    u = (offset * across).sum(0) * scale
    other = jnp.cross(offset, a, axis=0)
    v = (direction * other).sum(0) * scale
    distance = (b * other).sum(0) * scale
    meets: Bool[Array, " ray"] = (u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0) & (scale != 0)
    return jnp.where(meets, distance, jnp.inf)
