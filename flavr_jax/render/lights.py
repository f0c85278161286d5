# SPDX-License-Identifier: Apache-2.0
"""Light from spheres, rectangles, the sun and the environment, and the sampling of it.

Next-event estimation: at each surface one light is chosen and a direction to it is sampled. A path
that meets a light by itself counts too; both estimates are weighted by their densities (Veach 1995,
the power heuristic).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from flavr_jax.render import patterns, sampling
from flavr_jax.render.surfaces import Scalars, Surface, Vectors, dot, normalise, turn
from flavr_jax.render.world import Layout, Moment, World

__all__ = ["LightSample", "background", "count", "density_of_hit", "frame", "power", "sample"]


class LightSample(NamedTuple):
    """A direction to a light; the density is per solid angle, with the choice of the light."""

    direction: Vectors
    distance: Scalars
    radiance: Vectors
    density: Scalars


def count(layout: Layout) -> int:
    """Return the number of lights that are sampled."""
    return len(layout.lights) + layout.has_sun


def sample(
    layout: Layout,
    world: World,
    moment: Moment,
    point: Vectors,
    choice: Scalars,
    uniform: sampling.Pair,
) -> LightSample:
    """Sample a direction from points to one of the lights."""
    total = count(layout)
    # Numbers just below 1 may round up to `total`.
    chosen = jnp.minimum((choice * total).astype(jnp.int32), total - 1)
    direction = jnp.broadcast_to(world.sun[0][:, None], point.shape)
    distance = jnp.full(choice.shape, jnp.inf)
    radiance, density = jnp.zeros(point.shape), jnp.ones(choice.shape)
    # The sun is the last light: its values stay where none of the others is chosen.
    if layout.has_sun:
        drop = world.sun[2, 0]
        axis = jnp.broadcast_to(world.sun[0][:, None], point.shape)
        direction = turn(frame(axis), sampling.cone(uniform, jnp.broadcast_to(drop, choice.shape)))
        radiance = jnp.broadcast_to(world.sun[1][:, None], point.shape)
        density = jnp.broadcast_to(1 / (2 * math.pi * drop), choice.shape)
    for place, number in enumerate(layout.lights):
        here = chosen == place
        if layout.shapes[number] == "sphere":
            found = _to_sphere(world, moment, number, point, uniform)
        else:
            found = _to_rectangle(world, moment, number, point, uniform)
        direction = jnp.where(here, found.direction, direction)
        distance = jnp.where(here, found.distance, distance)
        radiance = jnp.where(here, world.materials.colour[number][:, None], radiance)
        density = jnp.where(here, found.density, density)
    return LightSample(direction, distance, radiance, density / total)


def density_of_hit(
    layout: Layout,
    world: World,
    moment: Moment,
    index: Int[Array, " ray"],
    surface: Surface,
    origin: Vectors,
    direction: Vectors,
) -> Scalars:
    """Return the density with which :func:`sample` would have chosen directions that met a light.

    It is 0 for objects that are not sampled as lights.
    """
    density = jnp.zeros(index.shape)
    for number in layout.lights:
        if layout.shapes[number] == "sphere":
            apart = moment.position[number][:, None] - origin
            # A cone has the solid angle 2π (1 − cosine).
            here = 1 / (2 * math.pi * _drop(world.size[number, 0], apart))
        else:
            offset = surface.point - origin
            area = 4 * world.size[number, 0] * world.size[number, 1]
            cosine = jnp.maximum(jnp.abs(dot(surface.flat, direction)), 1e-6)
            # A density per area, seen from the origin: distance² / cosine.
            here = dot(offset, offset) / (cosine * area)
        density = jnp.where(index == number, here, density)
    return density / max(count(layout), 1)


def background(
    layout: Layout, world: World, direction: Vectors, density: Scalars, *, weigh: bool
) -> Vectors:
    """Return the light of sky and sun for rays that miss all objects.

    Args:
        layout: structure of the scene.
        world: the scene.
        direction: directions of the rays.
        density: density with which they were chosen; infinite for mirrors and the camera.
        weigh: whether the sun was also sampled from the point that the rays come from.
    """
    zenith, horizon = world.sky[0][:, None], world.sky[1][:, None]
    light = horizon + jnp.sqrt(jnp.maximum(direction[2], 0.0)) * (zenith - horizon)
    u = jnp.arctan2(direction[1], direction[0]) / (2 * math.pi) % 1.0
    v = jnp.arccos(jnp.clip(direction[2], -1.0, 1.0)) / math.pi
    light += patterns.bilinear(world.panorama, u, v)
    if layout.has_sun:
        drop = world.sun[2, 0]
        # Half the square of the chord equals 1 − cosine, without its loss of precision.
        apart = direction - world.sun[0][:, None]
        inside = 0.5 * dot(apart, apart) < drop
        other = 1 / (2 * math.pi * drop * count(layout))
        share = power(density, other) if weigh else 1.0
        light += jnp.where(inside, share * world.sun[1][:, None], 0.0)
    return light


def power(density: Scalars, other: Scalars | Array) -> Scalars:
    """Return the weight of a sample of ``density`` when ``other`` could have drawn it too."""
    ratio = jnp.where(jnp.isinf(density), 0.0, other / jnp.maximum(density, 1e-20))
    return 1 / (1 + ratio * ratio)


def frame(normal: Vectors) -> Array:
    """Return rotations whose third column is the normal (Duff et al. 2017)."""
    x, y, z = normal
    # Chosen so that the denominator below is never near 0.
    sign = jnp.where(z >= 0, 1.0, -1.0)
    a = -1 / (sign + z)
    b = x * y * a
    first = jnp.stack([1 + sign * x * x * a, sign * b, -sign * x])
    second = jnp.stack([b, sign + y * y * a, -y])
    return jnp.stack([first, second, normal], axis=1)


def _drop(radius: Array, apart: Vectors) -> Scalars:
    """Return 1 − cosine of the half angle at which a sphere is seen; 2 from inside."""
    # 1 − sqrt(1 − s) = s / (1 + sqrt(1 − s)), which keeps its precision for small s.
    square = radius**2 / jnp.maximum(dot(apart, apart), 1e-12)
    return jnp.where(square < 1, square / (1 + jnp.sqrt(jnp.maximum(1 - square, 0.0))), 2.0)


def _to_sphere(
    world: World, moment: Moment, number: int, point: Vectors, uniform: sampling.Pair
) -> LightSample:
    apart = moment.position[number][:, None] - point
    drop = _drop(world.size[number, 0], apart)
    direction = turn(frame(normalise(apart)), sampling.cone(uniform, drop))
    along = dot(apart, direction)
    square = jnp.maximum(world.size[number, 0] ** 2 - dot(apart, apart) + along**2, 0.0)
    near = along - jnp.sqrt(square)
    distance = jnp.where(near > 0, near, along + jnp.sqrt(square))
    return LightSample(direction, distance, apart, 1 / (2 * math.pi * drop))


def _to_rectangle(
    world: World, moment: Moment, number: int, point: Vectors, uniform: sampling.Pair
) -> LightSample:
    size, rotation = world.size[number], moment.rotation[number]
    x, y = ((2 * u - 1) * s for u, s in zip(uniform, size))
    target = moment.position[number][:, None] + turn(
        rotation[..., None], jnp.stack([x, y, jnp.zeros_like(x)])
    )
    apart = target - point
    square = jnp.maximum(dot(apart, apart), 1e-12)
    distance = jnp.sqrt(square)
    direction = apart / distance
    cosine = jnp.abs(dot(rotation[:, 2][:, None], direction))
    return LightSample(
        direction, distance, apart, square / jnp.maximum(4 * size[0] * size[1] * cosine, 1e-12)
    )
