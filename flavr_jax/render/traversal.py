# SPDX-License-Identifier: Apache-2.0
"""Traversal of a mesh's hierarchy by arrays of rays.

On an NVIDIA GPU, a Triton kernel follows each ray to its end. On other devices, XLA moves all rays
of an array in lockstep.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jaxtyping import Bool, Float, Int

from flavr_jax.render.bvh import LEAF, Bvh
from flavr_jax.render.intersect import Vector, dot

try:
    from jax.experimental.pallas import triton as _triton
except ImportError:  # deprecated since JAX 0.11
    _triton = None

triton: Any = _triton

__all__ = ["traverse"]

_BOXES = 6  # boxes visited before the triangles of a leaf are
_BLOCK = 32  # rays of a thread block: a warp, which ends with the slowest of its rays
_SLOW = 16  # one ray in this many goes on in a smaller array
_DIVIDED = range(1 << 12, 1 << 16)  # sizes of arrays from which the slow rays are taken


class _Query(NamedTuple):
    """Arguments of :func:`traverse`."""

    bvh: Bvh
    origin: Float[Array, "3 ray"]
    direction: Float[Array, "3 ray"]
    limit: Float[Array, " ray"]


class _Rays(NamedTuple):
    """Rays, and one over their direction."""

    origin: Vector
    direction: Vector
    inverse: Vector


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
    by_xla = functools.partial(_by_xla, nearest=nearest)
    by_kernel = functools.partial(_by_kernel, nearest=nearest) if _has_triton() else by_xla
    query = _Query(bvh, origin, direction, limit)
    return lax.platform_dependent(query, cuda=by_kernel, default=by_xla)


def _has_triton() -> bool:
    """Return whether Triton supports the default device, if that is an NVIDIA GPU."""
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    is_old = capability.startswith(("5.", "6.", "7."))  # before Ampere
    return triton is not None and not is_old


def _by_kernel(
    query: _Query, *, nearest: bool, interpret: bool = False
) -> tuple[Float[Array, " ray"], Int[Array, " ray"]]:
    """Trace rays in a GPU kernel; ``interpret`` runs it in JAX's interpreter instead."""
    kernel = functools.partial(_kernel, nearest=nearest)
    shape = query.limit.shape
    found = tuple(jax.ShapeDtypeStruct(shape, kind) for kind in (jnp.float32, jnp.int32))
    parameters = None if interpret else triton.CompilerParams(num_warps=_BLOCK // 32)
    call = pl.pallas_call(
        kernel,
        found,
        grid=(-(-len(query.limit) // _BLOCK),),
        compiler_params=parameters,
        interpret=interpret,
    )
    return call(*jax.tree.leaves(query))


def _kernel(*refs: Any, nearest: bool) -> None:
    """Follow the rays of a block to the end of the hierarchy."""
    *columns, origin, direction, limit, best, triangle = refs
    bvh = Bvh(*columns)
    # The last block repeats the last ray.
    ray = jnp.minimum(pl.program_id(0) * _BLOCK + jnp.arange(_BLOCK), limit.shape[0] - 1)
    rays, state = _start(
        [origin[axis, ray] for axis in range(3)],
        [direction[axis, ray] for axis in range(3)],
        limit[ray],
    )
    state = lax.while_loop(
        lambda state: state.node.min() < bvh.skip.shape[0],
        lambda state: _visit(bvh, rays, state, nearest),
        state,
    )
    best[ray], triangle[ray] = state.best, state.triangle


def _by_xla(query: _Query, *, nearest: bool) -> tuple[Float[Array, " ray"], Int[Array, " ray"]]:
    bvh, *rays = query
    state = _search(bvh, *_start(*rays), nearest=nearest)
    return state.best, state.triangle


def _start(origin: Vector, direction: Vector, limit: Float[Array, " ray"]) -> tuple[_Rays, _State]:
    # Not infinite: an origin on a side of a box would make 0 · ∞, which is NaN.
    inverse = [1.0 / jnp.where(jnp.abs(each) < 1e-12, 1e-12, each) for each in direction]
    start = jnp.zeros(limit.shape, jnp.int32)
    return _Rays(origin, direction, inverse), _State(start, limit, start - 1)


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
    found = jax.tree.map(lambda column: column.at[slow].get(mode="clip"), state)
    found = found._replace(node=jnp.where(slow < count, found.node, n_nodes))
    chosen = jax.tree.map(lambda column: column.at[..., slow].get(mode="clip"), rays)
    found = _search(bvh, chosen, found, nearest=nearest)
    return _State(*(all_.at[slow].set(some, mode="drop") for all_, some in zip(state, found)))


def _visit(bvh: Bvh, rays: _Rays, state: _State, nearest: bool) -> _State:
    """Visit several boxes, and the triangles of the leaf that is reached, if any."""
    n_nodes = bvh.skip.shape[0]
    node, best, triangle = state
    # All rays take the same steps, and triangles need more memory traffic than boxes.
    node, is_leaf = _descend(bvh, rays, node, best)
    for _ in range(_BOXES - 1):
        node, is_leaf = _descend(bvh, rays, node, best)
    at = jnp.minimum(node, n_nodes - 1)
    first, count = bvh.first[at], bvh.size[at]
    for offset in range(LEAF):
        number = jnp.minimum(first + offset, bvh.corner.shape[0] - 1)
        distance = _triangle(bvh, number, rays)
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
    n_nodes = bvh.skip.shape[0]
    at = jnp.minimum(node, n_nodes - 1)
    entry, leave = -jnp.inf, best
    for low, high, origin, inverse in zip(
        _parts(bvh.lower, at), _parts(bvh.upper, at), rays.origin, rays.inverse
    ):
        near, far = (low - origin) * inverse, (high - origin) * inverse
        entry = jnp.maximum(entry, jnp.minimum(near, far))
        leave = jnp.minimum(leave, jnp.maximum(near, far))
    inside = (entry <= leave) & (leave > 0) & (node < n_nodes)
    is_leaf = inside & (bvh.size[at] > 0)
    following = jnp.where(inside, at + 1, bvh.skip[at])
    return jnp.where(is_leaf | (node >= n_nodes), node, following), is_leaf


def _triangle(bvh: Bvh, number: Int[Array, " ray"], rays: _Rays) -> Float[Array, " ray"]:
    """Return the distance to triangles from either side (Möller and Trumbore 1997)."""
    edges = _parts(bvh.edges, number)
    a, b = edges[:3], edges[3:]
    across = _cross(rays.direction, b)
    determinant = dot(a, across)
    # A ray along the triangle's plane gets a scale of 0, which counts as a miss below.
    scale = 1.0 / jnp.where(jnp.abs(determinant) < 1e-12, jnp.inf, determinant)
    offset = [o - c for o, c in zip(rays.origin, _parts(bvh.corner, number))]
    u = dot(offset, across) * scale
    other = _cross(offset, a)
    v = dot(rays.direction, other) * scale
    distance = dot(b, other) * scale
    meets: Bool[Array, " ray"] = (u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0) & (scale != 0)
    return jnp.where(meets, distance, jnp.inf)


def _parts(table: Any, row: Int[Array, " ray"]) -> list[Array]:
    """Return rows of an array, or of a kernel's reference to one, with each component apart."""
    if isinstance(table, Array):  # XLA gathers whole rows faster
        return list(table[row].reshape(len(row), -1).T)
    return [table[(row, *place)] for place in np.ndindex(*table.shape[1:])]


def _cross(a: Vector, b: Vector) -> list[Array]:
    return [a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))]
