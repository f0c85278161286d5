# SPDX-License-Identifier: Apache-2.0
"""Intersections of rays with balls and ground, and materials at the intersections.

Vectors have the shape ``3 ray``: each component is a long contiguous row, which vectorises well.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from flavr_jax.render.scene import Balls, Ground

__all__ = [
    "Scalars",
    "Surface",
    "Vectors",
    "dot",
    "fraction",
    "hit",
    "nearest",
    "normalise",
    "shadowed",
]

Vectors: TypeAlias = Float[Array, "3 ray"]
Scalars: TypeAlias = Float[Array, " ray"]


class Surface(NamedTuple):
    """Points on surfaces, and the materials at these points."""

    point: Vectors
    normal: Vectors
    colour: Vectors
    emission: Vectors
    reflectance: Scalars
    roughness: Scalars


def nearest(
    balls: Balls, ground: Ground | None, origin: Vectors, direction: Vectors
) -> tuple[Scalars, Int[Array, " ray"]]:
    """Return distance and index of the first surface: balls, then the ground, or −1 for none."""
    distances = [_entry(balls, number, origin, direction) for number in range(len(balls.radius))]
    if ground is not None:
        down = -origin[2] / direction[2]
        distances.append(jnp.where((direction[2] < 0) & (down > 0), down, jnp.inf))
    table = jnp.stack(distances)
    distance = jnp.min(table, axis=0)
    # argmin would give the index directly, but is slower on CPUs.
    number = jnp.arange(len(distances))[:, None]
    index = jnp.max(jnp.where((table == distance) & (table < jnp.inf), number, -1), axis=0)
    return distance, index


def shadowed(balls: Balls, origin: Vectors, direction: Vectors) -> Bool[Array, " ray"]:
    """Return whether a ball blocks each ray; the ground cannot, because nothing is below it."""
    blocked = jnp.zeros(origin.shape[1], bool)
    for number in range(len(balls.radius)):
        blocked |= _entry(balls, number, origin, direction) < jnp.inf
    return blocked


def hit(balls: Balls, ground: Ground | None, point: Vectors, index: Int[Array, " ray"]) -> Surface:
    """Return the surface ``index`` at points on it; for −1 the result is undefined but finite."""
    ball = jax.tree.map(lambda rows: _rows(rows, index), balls)
    normal = normalise(point - ball.centre)  # also finite for −1
    mix = _ball_pattern(jnp.sum(ball.rotation * normal[:, None], axis=0), ball.pattern)
    first, second = ball.colours
    on_ball = Surface(
        point,
        normal,
        first + mix * (second - first),
        ball.emission,
        ball.reflectance,
        ball.roughness,
    )
    if ground is None:
        return on_ball
    first, second = jnp.array(ground.colours)[:, :, None]
    on_ground = Surface(
        point,
        jnp.broadcast_to(jnp.array([[0.0], [0.0], [1.0]]), point.shape),
        first + _ground_pattern(point, ground) * (second - first),
        jnp.zeros_like(point),
        jnp.full(index.shape, ground.reflectance),
        jnp.full(index.shape, ground.roughness),
    )
    is_ground = index == len(balls.radius)
    return jax.tree.map(lambda a, b: jnp.where(is_ground, a, b), on_ground, on_ball)


def _entry(balls: Balls, number: int, origin: Vectors, direction: Vectors) -> Scalars:
    """Return the distance at which rays enter a ball; infinite if they miss it or start inside."""
    x, y, z = origin - balls.centre[number][:, None]
    u, v, w = direction
    along = x * u + y * v + z * w
    # |offset|² − along² would lose precision for distant balls; the offset from the centre to the
    # closest point of the ray does not.
    x, y, z = x - along * u, y - along * v, z - along * w
    inside = balls.radius[number] ** 2 - (x * x + y * y + z * z)
    entry = -along - jnp.sqrt(jnp.maximum(inside, 0.0))
    return jnp.where((inside > 0) & (entry > 0), entry, jnp.inf)


def _rows(table: Float[Array, "row ..."], index: Int[Array, " ray"]) -> Float[Array, "... ray"]:
    """Return the rows ``index`` of a table, zeros for −1; the axis of rays comes last."""
    # A product with a one-hot matrix is faster on CPUs than a gather.
    chosen = (index[:, None] == jnp.arange(len(table))).astype(jnp.float32)
    rows = jnp.matmul(chosen, table.reshape(len(table), -1), precision="highest")
    return rows.T.reshape(*table.shape[1:], len(index))


def _ball_pattern(local: Vectors, kind: Scalars) -> Scalars:
    """Return the fraction of a ball's second colour in a direction from its centre."""
    x, y, z = local
    bands = fraction(1.2 * z) < 0.5
    # The first factors have the sign of sin 4φ; the last one makes caps at the poles.
    wedges = x * y * (x * x - y * y) * (0.93 - jnp.abs(z)) > 0
    cell = 2.6 * local + 0.5
    offset = cell - jnp.round(cell)
    dots = dot(offset, offset) < 0.11
    mix = (kind == 1) & bands | (kind == 2) & wedges | (kind == 3) & dots
    return mix.astype(jnp.float32)


def _ground_pattern(point: Vectors, ground: Ground) -> Scalars:
    """Return the fraction of the ground's second colour: Truchet arcs, and a shade per tile."""
    place = point[:2] / ground.tile
    corner = jnp.floor(place)
    u, v = place - corner
    x, y = jnp.clip(corner, -1e6, 1e6).astype(jnp.int32)
    bits = (x * 73856093) ^ (y * 19349663)  # a hash of the tile's coordinates
    bits = (bits ^ (bits >> 13)) * 1274126177
    u = jnp.where((bits >> 16) & 1, u, 1 - u)
    first, second = u * u + v * v, (1 - u) ** 2 + (1 - v) ** 2
    off_arc = jnp.abs(jnp.sqrt(jnp.minimum(first, second)) - 0.5)
    shade = ((bits >> 20) & 7) / 7.0
    line = jnp.where(jnp.abs(off_arc - 0.26) < 0.03, 0.6, 0.22 * shade)
    mix = jnp.where(off_arc < 0.16, 0.82 + 0.18 * shade, line)
    return 0.4 + (mix - 0.4) * jnp.exp(-dot(point, point) / ground.fade**2)


def fraction(x: Array) -> Array:
    """Return the fractional part; ``% 1`` takes ten times as long on CPUs."""
    return x - jnp.floor(x)


def dot(a: Float[Array, "3 #ray"], b: Float[Array, "3 #ray"]) -> Scalars:
    """Return the inner product of each pair of vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def normalise(vectors: Vectors) -> Vectors:
    """Scale vectors to length 1."""
    return vectors * lax.rsqrt(dot(vectors, vectors))
