# SPDX-License-Identifier: Apache-2.0
"""Path tracing: Kajiya, The Rendering Equation, 1986.

At each hit the sun is sampled directly, and the path continues in a cosine-weighted direction or in
the direction of reflection. The random numbers of a pixel are a low-discrepancy sequence (Roberts
2018,
https://extremelearning.com.au/unreasonable-effectiveness-of-quasirandom-sequences/) with an offset
per pixel (Cranley and Patterson 1976). Offsets depend on the key and not on time, so the remaining
noise is the same in all frames and does not flicker.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key

from flavr_jax.render.scene import Balls, Ground, Moment, Scene, Sky, Sun
from flavr_jax.render.surfaces import (
    Scalars,
    Surface,
    Vectors,
    dot,
    fraction,
    hit,
    nearest,
    normalise,
    shadowed,
)

__all__ = ["radiance", "render"]

_R2 = (0.7548776662466927, 0.5698402909980532)  # 1/g and 1/g², where g³ = g + 1
_CLEARANCE = 1e-3  # paths start this far above a surface, so that they do not hit it again
_TILE = 4096  # rays traced at a time, so that the arrays of a bounce fit into a CPU's cache
_BRIGHTEST = 4.0  # most light that a hit may add, to limit fireflies; such a pixel is white
_DRAWS = 3  # pairs of random numbers per hit: sun, kind of reflection, direction


class _World(NamedTuple):
    balls: Balls
    ground: Ground | None
    sky: Sky
    sun: Sun


class _Paths(NamedTuple):
    """State of paths at their latest hit.

    Attributes:
        origin: position of the hit.
        direction: unit vector in which they continue.
        weight: fraction of the light from this direction that reaches the camera.
        light: light collected so far.
        sharp: true if all surfaces so far were mirrors.
    """

    origin: Vectors
    direction: Vectors
    weight: Vectors
    light: Vectors
    sharp: Bool[Array, " ray"]


def render(
    scene: Scene, time: float, *, height: int, width: int, samples: int, key: Key[Array, ""]
) -> Float[Array, "{height} {width} 3"]:
    """Render an image in sRGB with values in [0, 1]; for the arguments see ``radiance``."""
    light = radiance(scene, time, height=height, width=width, samples=samples, key=key)
    # The film curve of Narkowicz 2015 (a fit to ACES): highlights roll off instead of clipping.
    film = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    film = jnp.clip(film, 0.0, 1.0)
    return jnp.where(film <= 0.0031308, 12.92 * film, 1.055 * film ** (1 / 2.4) - 0.055)


def radiance(
    scene: Scene,
    time: float,
    *,
    height: int,
    width: int,
    samples: int,
    key: Key[Array, ""],
    bounces: int = 3,
) -> Float[Array, "{height} {width} 3"]:
    """Compute the linear light that reaches each pixel.

    Args:
        scene: the scene to render.
        time: time in frames; any real number.
        height: image height in pixels.
        width: image width in pixels.
        samples: paths per pixel; four times as many at least halve the noise.
        key: random key of the paths; the same key gives the same image, bit for bit.
        bounces: number of surfaces that a path may hit.

    Raises:
        ValueError: a size or a count is below 1.
    """
    counts = {"height": height, "width": width, "samples": samples, "bounces": bounces}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"`{name}` is {value}; it is at least 1.")
    return _trace(scene.at(time), key, (scene.ground, scene.sky, scene.sun), *counts.values())


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def _trace(
    moment: Moment,
    key: Key[Array, ""],
    surroundings: tuple[Ground | None, Sky, Sun],
    height: int,
    width: int,
    samples: int,
    bounces: int,
) -> Float[Array, "{height} {width} 3"]:
    world = _World(moment.balls, *surroundings)
    draws_key, shift_key = jax.random.split(key)
    draws = _draws(draws_key, samples, 1 + _DRAWS * bounces)
    rows = next(
        n for n in range(height, 0, -1) if height % n == 0 and (n == 1 or n * width <= _TILE)
    )

    def tile(first: Int[Array, ""]) -> Float[Array, "rows width 3"]:
        row, column = jnp.divmod(first * width + jnp.arange(rows * width), width)
        shift = jax.random.uniform(jax.random.fold_in(shift_key, first), (2, rows * width))

        def add_sample(total: Vectors, draws: Float[Array, "draw 2"]) -> tuple[Vectors, None]:
            uniform = fraction(draws[:, :, None] + shift)  # [draw, 2, ray]
            x = (column + uniform[0, 0] - width / 2) / height
            y = (row + uniform[0, 1] - height / 2) / height
            right, down, forward = moment.rays[:, :, None]
            paths = _Paths(
                origin=jnp.broadcast_to(moment.eye[:, None], total.shape),
                direction=normalise(x * right + y * down + forward),
                weight=jnp.ones_like(total),
                light=jnp.zeros_like(total),
                sharp=jnp.ones(total.shape[1], bool),
            )
            hits = uniform[1:].reshape(bounces, _DRAWS, *uniform.shape[1:])
            paths, _ = lax.scan(
                lambda paths, draw: (_bounce(world, paths, draw), None), paths, hits
            )
            return total + paths.light, None

        total, _ = lax.scan(add_sample, jnp.zeros((3, rows * width)), draws)
        return (total / samples).T.reshape(rows, width, 3)

    return lax.map(tile, jnp.arange(0, height, rows)).reshape(height, width, 3)


def _draws(key: Key[Array, ""], samples: int, count: int) -> Float[Array, "{samples} {count} 2"]:
    """Return ``count`` points in the unit square per sample; each is well spread over samples."""
    points = fraction(jnp.arange(1, samples + 1)[:, None] * jnp.array(_R2))

    def shuffled(key: Key[Array, ""]) -> Float[Array, "sample 2"]:
        # Without shuffling, two hits would use the same points, and their light would correlate.
        order, shift = jax.random.split(key)
        return jax.random.permutation(order, points) + jax.random.uniform(shift, (2,))

    return jax.vmap(shuffled, out_axes=1)(jax.random.split(key, count))


def _bounce(world: _World, paths: _Paths, uniform: Float[Array, "draw 2 ray"]) -> _Paths:
    """Follow each path to the next surface, add its light, and choose the next direction."""
    distance, index = nearest(world.balls, world.ground, paths.origin, paths.direction)
    ends = index < 0
    point = paths.origin + jnp.where(ends, 1.0, distance) * paths.direction
    surface = hit(world.balls, world.ground, point, index)
    facing = jnp.maximum(-dot(paths.direction, surface.normal), 0.0)
    # Schlick 1994: at grazing angles every specular surface reflects like a mirror.
    fresnel = surface.reflectance + (1 - surface.reflectance) * (1 - facing) ** 5
    fresnel = jnp.where(surface.reflectance > 0, fresnel, 0.0)
    diffuse = (1 - fresnel) * surface.colour
    mirrored = paths.direction + 2 * facing * surface.normal
    origin = point + _CLEARANCE * surface.normal

    seen = jnp.where(paths.sharp, fresnel, 0.0)
    sun = _sunlight(world, surface, origin, diffuse, seen, mirrored, uniform[0])
    light = jnp.where(ends, _sky(world.sky, paths.direction), surface.emission + sun)

    # Importance sampling: choose specular reflection in proportion to the light that it carries.
    chance = fresnel / jnp.maximum(fresnel + jnp.mean(diffuse, axis=0), 1e-6)
    reflects = uniform[1, 0] < chance
    share = jnp.where(reflects, fresnel, diffuse) / jnp.where(reflects, chance, 1 - chance)
    scatter = _on_sphere(uniform[2])
    glossy = mirrored + surface.roughness * scatter
    # Keep the direction above the surface.
    glossy += 2 * jnp.maximum(-dot(glossy, surface.normal), 0.0) * surface.normal
    # A radius slightly below 1, because normal + scatter could be zero otherwise.
    direction = jnp.where(reflects, glossy, surface.normal + 0.9999 * scatter)
    return _Paths(
        origin=origin,
        direction=normalise(direction),
        weight=jnp.where(ends, 0.0, paths.weight * share),
        light=paths.light + jnp.minimum(paths.weight * light, _BRIGHTEST),
        sharp=paths.sharp & reflects & (surface.reflectance > 0.5),
    )


def _sunlight(
    world: _World,
    surface: Surface,
    origin: Vectors,
    diffuse: Vectors,
    fresnel: Scalars,
    mirrored: Vectors,
    uniform: Float[Array, "2 ray"],
) -> Vectors:
    """Return the sunlight that surfaces reflect back along the paths.

    Only this function adds sunlight: paths that miss all surfaces see a sky without the sun's disc.
    """
    sun = normalise(jnp.array(world.sun.direction)[:, None])
    radius = math.tan(world.sun.angle)
    to_sun = normalise(sun + radius * _on_sphere(uniform))
    height = dot(to_sun, surface.normal)
    lit = (height > 0) & ~shadowed(world.balls, origin, to_sun)
    # The specular image of the sun; its edge is blurred in proportion to roughness.
    blur = 0.1 * radius + 0.5 * surface.roughness
    apart = jnp.sqrt(jnp.maximum(2 - 2 * dot(mirrored, sun), 0.0))
    disc = jnp.clip((radius + blur - apart) / (2 * blur), 0.0, 1.0) / radius**2
    colour = jnp.array(world.sun.colour)[:, None]
    return jnp.where(lit, colour * (diffuse * height + fresnel * disc), 0.0)


def _sky(sky: Sky, direction: Vectors) -> Vectors:
    zenith, horizon = jnp.array([sky.zenith, sky.horizon])[:, :, None]
    return horizon + jnp.sqrt(jnp.maximum(direction[2], 0.0)) * (zenith - horizon)


def _on_sphere(uniform: Float[Array, "2 ray"]) -> Vectors:
    """Return points distributed uniformly over the unit sphere."""
    z = 1 - 2 * uniform[0]
    level = jnp.sqrt(jnp.maximum(1 - z * z, 0.0))
    angle = 2 * math.pi * uniform[1]
    return jnp.stack([level * jnp.cos(angle), level * jnp.sin(angle), z])
