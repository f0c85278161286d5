# SPDX-License-Identifier: Apache-2.0
"""What rays meet: the nearest object, and the surface there.

Vectors have the shape ``3 ray``: each component is a long contiguous row, which vectorises well.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from flavr_jax.render import bvh, intersect, patterns, traversal
from flavr_jax.render.world import Layout, Materials, Moment, World

__all__ = [
    "Hit",
    "Scalars",
    "Surface",
    "Vectors",
    "dot",
    "nearest",
    "normalise",
    "rows",
    "shadowed",
    "surface",
    "turn",
]

Vectors: TypeAlias = Float[Array, "3 ray"]
Scalars: TypeAlias = Float[Array, " ray"]

_NEAR = 1e-4  # a ray does not meet what is nearer, such as the surface that it leaves

# Normals of the unit box's faces. NumPy, because a JAX array would start JAX when this is imported.
_FACES = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32)


class Hit(NamedTuple):
    """The nearest object of each ray; ``number`` is −1 if there is none."""

    distance: Scalars
    number: Int[Array, " ray"]
    triangle: Int[Array, " ray"]


class Surface(NamedTuple):
    """Points on surfaces.

    Attributes:
        point: position.
        flat: unit normal of the geometry, on the side that the ray came from.
        normal: unit normal for shading, on the same side.
        enters: whether the ray came from outside.
        colour: colour of the material there.
        material: its other properties.
    """

    point: Vectors
    flat: Vectors
    normal: Vectors
    enters: Bool[Array, " ray"]
    colour: Vectors
    material: Materials


def nearest(
    layout: Layout, world: World, moment: Moment, origin: Vectors, direction: Vectors
) -> Hit:
    """Find the nearest object of each ray."""
    distance = jnp.full(origin.shape[1], jnp.inf)
    index = jnp.full(origin.shape[1], -1, jnp.int32)
    triangle = index
    for number, shape in enumerate(layout.shapes):
        start, towards = _local(moment, number, origin, direction)
        if shape == "mesh":
            found, of_mesh = traversal.traverse(
                world.meshes[layout.meshes[number]],
                start / world.size[number, 0],
                towards / world.size[number, 0],
                distance,
                nearest=True,
            )
            triangle = jnp.where(of_mesh >= 0, of_mesh, triangle)
        else:
            found = _distance(shape, world.size[number], start, towards)
        closer = found < distance
        distance = jnp.where(closer, found, distance)
        index = jnp.where(closer, number, index)
    return Hit(distance, index, triangle)


def shadowed(
    layout: Layout,
    world: World,
    moment: Moment,
    origin: Vectors,
    direction: Vectors,
    limit: Scalars,
) -> Bool[Array, " ray"]:
    """Return whether anything blocks each ray before ``limit``, in lengths of the direction."""
    blocked = jnp.zeros(limit.shape, bool)
    for number, shape in enumerate(layout.shapes):
        start, towards = _local(moment, number, origin, direction)
        if shape == "mesh":
            size = world.size[number, 0]
            mesh = world.meshes[layout.meshes[number]]
            # Rays that are blocked already have no length, so that their traversal ends at once.
            limit_here = jnp.where(blocked, 0.0, limit)
            _, triangle = traversal.traverse(
                mesh, start / size, towards / size, limit_here, nearest=False
            )
            blocked |= triangle >= 0
        else:
            blocked |= _distance(shape, world.size[number], start, towards) < limit
    return blocked


def surface(
    layout: Layout, world: World, moment: Moment, hit: Hit, origin: Vectors, direction: Vectors
) -> Surface:
    """Return the surfaces that rays meet; where there is none, values are undefined but finite."""
    missed = hit.number < 0
    index = jnp.maximum(hit.number, 0)
    point = origin + jnp.where(missed, 1.0, hit.distance) * direction
    rotation = rows(moment.rotation, index)
    local = _transposed(rotation, point - rows(moment.position, index))
    size = rows(world.size, index)
    flat, smooth = local, local  # the normals of a sphere
    for number, shape in enumerate(layout.shapes):
        here = index == number
        if shape == "box":
            # The face whose plane is closest, relative to the box's size.
            apart = local / size
            highest = jnp.abs(apart).max(axis=0)
            face = jnp.where(jnp.abs(apart) >= highest, jnp.sign(apart), 0.0)
            flat, smooth = (jnp.where(here, face, each) for each in (flat, smooth))
        elif shape in ("plane", "rectangle"):
            up = jnp.array([[0.0], [0.0], [1.0]])
            flat, smooth = (jnp.where(here, up, each) for each in (flat, smooth))
        elif shape == "mesh":
            mesh = world.meshes[layout.meshes[number]]
            normals = bvh.normals_at(mesh, hit.triangle, local / world.size[number, 0])
            flat, smooth = (jnp.where(here, a, b) for a, b in zip(normals, (flat, smooth)))
    flat, smooth = (normalise(turn(rotation, each)) for each in (flat, smooth))
    material = Materials(*(rows(column, index) for column in world.materials))
    colour = patterns.colour(layout.patterns, world.images, material, local, size)
    enters = dot(flat, direction) < 0
    flat = jnp.where(enters, flat, -flat)
    smooth = jnp.where(dot(smooth, flat) < 0, -smooth, smooth)
    # Seen at a grazing angle, an interpolated normal may face away from the ray.
    smooth = jnp.where(dot(smooth, direction) < 0, smooth, flat)
    return Surface(point, flat, smooth, enters, colour, material)


def rows(table: Float[Array, "row ..."], index: Int[Array, " ray"]) -> Float[Array, "... ray"]:
    """Return rows of a table, with the axis of rays last."""
    # A product with a one-hot matrix is faster on CPUs than a gather.
    chosen = (index[:, None] == jnp.arange(len(table))).astype(jnp.float32)
    picked = jnp.matmul(chosen, table.reshape(len(table), -1), precision=lax.Precision.HIGHEST)
    return picked.T.reshape(*table.shape[1:], len(index))


def turn(rotation: Float[Array, "3 3 #ray"], vectors: Float[Array, "3 #ray"]) -> Array:
    """Rotate vectors."""
    return jnp.stack([dot(row, vectors) for row in rotation])


def dot(a: Float[Array, "3 #ray"], b: Float[Array, "3 #ray"]) -> Array:
    """Return the inner product of each pair of vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def normalise(vectors: Float[Array, "3 #ray"]) -> Array:
    """Scale vectors to length 1."""
    return vectors * lax.rsqrt(dot(vectors, vectors) + 1e-30)


def _transposed(rotation: Float[Array, "3 3 #ray"], vectors: Float[Array, "3 #ray"]) -> Array:
    return turn(rotation.swapaxes(0, 1), vectors)


def _local(
    moment: Moment, number: int, origin: Vectors, direction: Vectors
) -> tuple[Vectors, Vectors]:
    """Return rays in an object's coordinates."""
    rotation = moment.rotation[number][..., None]
    start = _transposed(rotation, origin - moment.position[number][:, None])
    return start, _transposed(rotation, direction)


def _distance(shape: str, size: Float[Array, "3"], origin: Vectors, direction: Vectors) -> Scalars:
    """Return the distance to a shape in its own coordinates; infinite if it is missed."""
    if shape == "sphere":
        entry, leave = intersect.sphere(origin, direction, size[0])
        # From inside, or from its own surface, a ray meets the far side.
        distance = jnp.where(entry > _NEAR, entry, leave)
    elif shape == "box":
        heights = jnp.stack([size, size], axis=1).reshape(-1)
        found = intersect.convex(jnp.asarray(_FACES), heights, origin, direction)
        distance = jnp.where(found.entry > _NEAR, found.entry, found.exit)
        distance = jnp.where(found.entry < found.exit, distance, jnp.inf)
    else:
        distance = -origin[2] / jnp.where(direction[2] == 0, 1e-30, direction[2])
        if shape == "rectangle":
            inside = jnp.abs(origin[:2] + distance * direction[:2]) <= size[:2, None]
            distance = jnp.where(inside.all(axis=0), distance, jnp.inf)
    return jnp.where(distance > _NEAR, distance, jnp.inf)
