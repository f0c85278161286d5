# SPDX-License-Identifier: Apache-2.0
"""Intersections of rays with spheres and convex solids, one array for each component of a vector.

Components are separate arrays because XLA then fuses a whole scene's tests into one loop without
storing vectors. Directions need not have length 1: distances are in multiples of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

__all__ = ["Crossing", "Vector", "convex", "dot", "sphere"]

Vector: TypeAlias = Sequence[Array] | Array
"""Three arrays x, y, z that broadcast against each other, or one array with a first axis of 3."""


class Crossing(NamedTuple):
    """Where a ray enters and leaves a convex solid; it misses if ``entry`` > ``exit``."""

    entry: Float[Array, "..."]
    exit: Float[Array, "..."]
    front: Int[Array, "..."]  # face of the entry
    back: Int[Array, "..."]  # face of the exit


def dot(a: Vector, b: Vector) -> Array:
    """Return the inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def sphere(
    offset: Vector, direction: Vector, radius: Array | float = 1.0
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return the distances at which rays enter and leave a sphere; infinite if they miss it.

    Args:
        offset: origin of the rays relative to the sphere's centre.
        direction: direction of the rays.
        radius: radius of the sphere; a negative one is never hit.
    """
    square = dot(direction, direction)
    nearest = -dot(offset, direction) / square
    # |offset|² − nearest² would lose precision for distant spheres; the offset from the centre to
    # the ray's closest point does not.
    apart = [o + nearest * d for o, d in zip(offset, direction)]
    # The square with the radius's sign, so that a negative one is never hit.
    inside = radius * jnp.abs(radius) - dot(apart, apart)
    half = jnp.sqrt(jnp.maximum(inside, 0.0) / square)
    hit = inside > 0
    return jnp.where(hit, nearest - half, jnp.inf), jnp.where(hit, nearest + half, jnp.inf)


def convex(
    normals: Float[Array, "faces 3"],
    heights: Float[Array, " faces"],
    origin: Vector | None,
    direction: Vector,
) -> Crossing:
    """Intersect rays with the solid of all points p with normal · p ≤ height for every face.

    Args:
        normals: outward normals of the faces.
        heights: distances of the faces from the coordinates' origin, in lengths of the normal.
        origin: origin of the rays; None is the coordinates' origin.
        direction: direction of the rays.
    """
    shape = jnp.broadcast_shapes(*(jnp.shape(each) for each in direction))
    entry, leave = jnp.full(shape, -jnp.inf), jnp.full(shape, jnp.inf)
    front, back = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32)
    for face in range(normals.shape[0]):
        speed = dot(normals[face], direction)
        gap = heights[face] if origin is None else heights[face] - dot(normals[face], origin)
        # Parallel to a face, the distance is +∞ inside of it, which limits nothing, and −∞ outside,
        # which makes the ray a miss.
        distance = gap / speed
        enters = (speed < 0) & (distance > entry)
        leaves = (speed >= 0) & (distance < leave)
        entry, front = jnp.where(enters, distance, entry), jnp.where(enters, face, front)
        leave, back = jnp.where(leaves, distance, leave), jnp.where(leaves, face, back)
    return Crossing(entry, leave, front, back)
