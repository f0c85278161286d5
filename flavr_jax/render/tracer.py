# SPDX-License-Identifier: Apache-2.0
"""Light along random paths: Kajiya, The Rendering Equation, 1986.

At each hit the sun is sampled directly and one path goes on, into a cosine-weighted direction or
into the mirror's. The random numbers of a pixel are the R2 sequence (Roberts 2018,
https://extremelearning.com.au/unreasonable-effectiveness-of-quasirandom-sequences/), shifted from
pixel to pixel by the same lattice. So neighbours err in different directions, the little noise that
remains looks like a fine dither, and it is the same in all frames: it does not flicker.

Vectors have their components first, ``3 ray``: each becomes a long row that vectorises well.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key

from flavr_jax.render.scene import Scene, Snapshot

__all__ = ["radiance", "render"]

Vectors: TypeAlias = Float[Array, "3 ray"]
Scalars: TypeAlias = Float[Array, "ray"]

_R2 = (0.7548776662466927, 0.5698402909980532)  # 1/g and 1/g², g³ = g + 1
_CLEARANCE = 1e-3  # paths go on this far above a surface, lest rounding makes them hit it again
_TILE = 8192  # rays at a time: what a bounce computes then stays in a CPU's cache
_DRAWS = 3  # pairs of random numbers at each hit: for the sun, for the choice, for the direction


class _Surface(NamedTuple):
    """What paths have hit."""

    point: Vectors
    normal: Vectors
    colour: Vectors
    emission: Vectors
    reflectance: Scalars
    roughness: Scalars


class _Paths(NamedTuple):
    """The ends of the paths, the share of light that reaches the camera from there, and its sum."""

    origin: Vectors
    direction: Vectors
    weight: Vectors
    light: Vectors
    sharp: Bool[Array, "ray"]


def render(
    scene: Scene, time: float, *, height: int, width: int, samples: int, key: Key[Array, ""]
) -> Float[Array, "height width 3"]:
    """The picture at any time, sRGB in [0, 1]; arguments as of ``radiance``."""
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
    bounces: int = 4,
) -> Float[Array, "height width 3"]:
    """Linear light that reaches each pixel at any time.

    Args:
        scene: what is seen.
        time: in the scene's unit.
        height: of the picture, in pixels.
        width: likewise.
        samples: paths for each pixel.
        key: chooses the paths; the same key gives the same picture, bit for bit.
        bounces: surfaces that a path may hit.
    """
    for name, value in dict(height=height, width=width, samples=samples, bounces=bounces).items():
        if value < 1:
            raise ValueError(f"`{name}` is {value}; it is at least 1.")
    return _trace(scene.at(time), key, height, width, samples, bounces)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _trace(
    world: Snapshot, key: Key[Array, ""], height: int, width: int, samples: int, bounces: int
) -> Float[Array, "height width 3"]:
    world = jax.tree.map(jnp.asarray, world)
    draws = _draws(key, samples, 1 + _DRAWS * bounces)
    rows = next(n for n in range(height, 0, -1) if height % n == 0 and (n * width <= _TILE or n == 1))

    def tile(first: Int[Array, ""]) -> Float[Array, "{rows} {width} 3"]:
        row, column = jnp.divmod(first * width + jnp.arange(rows * width), width)
        row, column = row.astype(jnp.float32), column.astype(jnp.float32)
        shift = jax.random.uniform(jax.random.fold_in(key, first), (2, rows * width))

        def add_sample(total: Vectors, draws: Float[Array, "draw 2"]) -> tuple[Vectors, None]:
            uniform = _fraction(draws[:, :, None] + shift)  # [draw, 2, ray]
            x = (column + uniform[0, 0] - width / 2) / (height * world.focal)
            y = (row + uniform[0, 1] - height / 2) / (height * world.focal)
            right, down, forward = world.axes[:, :, None]
            paths = _Paths(
                origin=jnp.broadcast_to(world.eye[:, None], total.shape),
                direction=_normalise(x * right + y * down + forward),
                weight=jnp.ones_like(total),
                light=jnp.zeros_like(total),
                sharp=jnp.ones_like(x, bool),
            )
            hits = uniform[1:].reshape(bounces, _DRAWS, *uniform.shape[1:])
            paths, _ = lax.scan(lambda paths, draw: (_bounce(world, paths, draw), None), paths, hits)
            return total + paths.light, None

        total, _ = lax.scan(add_sample, jnp.zeros((3, rows * width)), draws)
        return (total / samples).T.reshape(rows, width, 3)

    return lax.map(tile, jnp.arange(0, height, rows)).reshape(height, width, 3)


def _draws(key: Key[Array, ""], samples: int, count: int) -> Float[Array, "sample {count} 2"]:
    """For each sample ``count`` points of the unit square, each well spread over the samples."""
    points = _fraction(jnp.arange(1, samples + 1)[:, None] * jnp.array(_R2))

    def shuffled(key: Key[Array, ""]) -> Float[Array, "sample 2"]:
        # Unshuffled, the points of two hits would be the same, and their light correlated.
        order, shift = jax.random.split(key)
        return jax.random.permutation(order, points) + jax.random.uniform(shift, (2,))

    return jax.vmap(shuffled, out_axes=1)(jax.random.split(key, count))


def _bounce(world: Snapshot, paths: _Paths, uniform: Float[Array, "draw 2 ray"]) -> _Paths:
    """Follow each path to the next surface, collect its light, and choose where to go on."""
    distance, index = lax.optimization_barrier(_nearest(world, paths.origin, paths.direction))
    hit = index >= 0
    surface = _surface(world, paths, jnp.where(hit, distance, 1.0), index)
    surface = lax.optimization_barrier(surface)
    facing = jnp.maximum(-_dot(paths.direction, surface.normal), 0.0)
    # Schlick 1994: all surfaces that reflect at all are mirrors at grazing angles.
    fresnel = surface.reflectance + (1 - surface.reflectance) * (1 - facing) ** 5
    fresnel = jnp.where(surface.reflectance > 0, fresnel, 0.0)
    mirrored = paths.direction + 2 * facing * surface.normal
    origin = surface.point + _CLEARANCE * surface.normal

    sun = _sunlight(world, surface, origin, mirrored, fresnel, paths.sharp, uniform[0])
    light = jnp.where(hit, surface.emission + sun, _sky(world, paths.direction))

    reflects = uniform[1, 0] < fresnel
    scatter = _on_sphere(uniform[2])
    direction = jnp.where(
        reflects, mirrored + surface.roughness * scatter, surface.normal + 0.9999 * scatter
    )
    return _Paths(
        origin=origin,
        direction=_normalise(direction),
        weight=paths.weight * jnp.where(hit, jnp.where(reflects, 1.0, surface.colour), 0.0),
        light=paths.light + paths.weight * light,
        sharp=paths.sharp & reflects,
    )


def _nearest(
    world: Snapshot, origin: Vectors, direction: Vectors
) -> tuple[Scalars, Int[Array, "ray"]]:
    """Distance and number of the first surface: a ball's, the ground's after them, or −1."""
    distance = jnp.full(origin.shape[1], jnp.inf)
    index = jnp.full(origin.shape[1], -1)
    count = len(world.balls)
    if world.ground is not None:
        down = -origin[2] / direction[2]
        below = (direction[2] < 0) & (down > 0)
        distance, index = jnp.where(below, down, jnp.inf), jnp.where(below, count, -1)
    # A loop of few balls, unrolled: one pass over the rays, and no table of all pairs.
    for number, ball in enumerate(world.balls):
        entry = _entry(ball, origin, direction)
        nearer = entry < distance
        distance, index = jnp.where(nearer, entry, distance), jnp.where(nearer, number, index)
    return distance, index


def _entry(ball: Float[Array, "25"], origin: Vectors, direction: Vectors) -> Scalars:
    """Distance at which rays enter a ball; infinite where they miss it or start beyond."""
    offset = origin - ball[:3, None]
    along = _dot(offset, direction)
    # |offset|² − along² cancels for far balls; the squared distance of ball and ray does not.
    apart = offset - along * direction
    inside = ball[3] ** 2 - _dot(apart, apart)
    entry = -along - jnp.sqrt(jnp.maximum(inside, 0.0))
    return jnp.where((inside > 0) & (entry > 0), entry, jnp.inf)


def _surface(
    world: Snapshot, paths: _Paths, distance: Scalars, index: Int[Array, "ray"]
) -> _Surface:
    """Place, direction and material of what was hit; anything where nothing was."""
    point = paths.origin + distance * paths.direction
    table = jnp.matmul(world.balls.T, (index == jnp.arange(len(world.balls))[:, None]).astype(jnp.float32), precision="highest")
    normal = _normalise(point - table[:3])
    axes = table[4:13].reshape(3, 3, -1)
    mix = _ball_pattern(jnp.sum(axes * normal[:, None], axis=0), table[24])
    colour = table[13:16] + mix * (table[16:19] - table[13:16])
    ball = _Surface(point, normal, colour, table[19:22], table[22], table[23])
    if world.ground is None:
        return ball
    up = jnp.array([[0.0], [0.0], [1.0]])
    first, second = world.ground[:3, None], world.ground[3:6, None]
    mix = _ground_pattern(point, world.ground[6], world.ground[9])
    ground = _Surface(
        point=point,
        normal=jnp.broadcast_to(up, point.shape),
        colour=first + mix * (second - first),
        emission=jnp.zeros_like(point),
        reflectance=jnp.full_like(distance, world.ground[7]),
        roughness=jnp.full_like(distance, world.ground[8]),
    )
    on_ground = index == len(world.balls)
    return jax.tree.map(lambda a, b: jnp.where(on_ground, a, b), ground, ball)


def _ball_pattern(local: Vectors, kind: Scalars) -> Scalars:
    """Share of a ball's second colour, by the direction from its centre."""
    x, y, z = local
    bands = _fraction(1.2 * z) < 0.5
    wedges = x * y * (x * x - y * y) * (0.93 - jnp.abs(z)) > 0  # sin 4φ, but for caps at the poles
    cell = 2.6 * local + 0.5
    offset = cell - jnp.round(cell)
    dots = _dot(offset, offset) < 0.11
    mix = jnp.stack([jnp.zeros_like(bands), bands, wedges, dots])
    return jnp.take_along_axis(mix, kind.astype(jnp.int32)[None], axis=0)[0].astype(jnp.float32)


def _ground_pattern(point: Vectors, tile: Scalars | Array, fade: Array) -> Scalars:
    """Share of the ground's second colour: Truchet's quarter circles, and a shade for each tile."""
    place = point[:2] / tile
    corner = jnp.floor(place)
    u, v = place - corner
    x, y = jnp.clip(corner, -1e6, 1e6).astype(jnp.int32)
    bits = (x * 73856093) ^ (y * 19349663)
    bits = (bits ^ (bits >> 13)) * 1274126177
    u = jnp.where((bits >> 16) & 1, u, 1 - u)
    near = jnp.minimum(_hypot(u, v), _hypot(1 - u, 1 - v))
    ribbon = jnp.abs(near - 0.5) < 0.16
    line = jnp.abs(jnp.abs(near - 0.5) - 0.26) < 0.03
    shade = ((bits >> 20) & 7) / 7.0
    mix = jnp.where(ribbon, 0.82 + 0.18 * shade, jnp.where(line, 0.6, 0.22 * shade))
    return 0.4 + (mix - 0.4) * jnp.exp(-_dot(point, point) / fade**2)


def _sky(world: Snapshot, direction: Vectors) -> Vectors:
    zenith, horizon = world.sky[:, :, None]
    return horizon + jnp.sqrt(jnp.maximum(direction[2], 0.0)) * (zenith - horizon)


def _sunlight(
    world: Snapshot,
    surface: _Surface,
    origin: Vectors,
    mirrored: Vectors,
    fresnel: Scalars,
    sharp: Bool[Array, "ray"],
    uniform: Float[Array, "2 ray"],
) -> Vectors:
    """Sunlight that leaves surfaces towards where the paths came from.

    The sun is only ever seen here: paths that miss everything get the sky without it.
    """
    sun, colour, radius = world.sun[:3, None], world.sun[3:6, None], jnp.tan(world.sun[6])
    to_sun = _normalise(sun + radius * _on_sphere(uniform))
    height = _dot(to_sun, surface.normal)
    lit = (height > 0) & ~_shadowed(world, origin, to_sun)
    # What a mirror shows of the disc, its rim as blurred as the mirror.
    blur = 0.1 * radius + 0.5 * surface.roughness[None]
    apart = jnp.sqrt(jnp.maximum(2 - 2 * _dot(mirrored, sun), 0.0))
    disc = jnp.clip((radius + blur - apart) / (2 * blur), 0.0, 1.0) / radius**2
    disc = jnp.where(sharp, disc, 0.0)
    return jnp.where(lit, colour * (surface.colour * (1 - fresnel) * height + fresnel * disc), 0.0)


def _shadowed(world: Snapshot, origin: Vectors, direction: Vectors) -> Bool[Array, "ray"]:
    blocked = (_entry(ball, origin, direction) < jnp.inf for ball in world.balls)
    return functools.reduce(jnp.logical_or, blocked)


def _on_sphere(uniform: Float[Array, "2 ray"]) -> Vectors:
    """Points spread evenly over the unit sphere."""
    z = 1 - 2 * uniform[0]
    level = jnp.sqrt(jnp.maximum(1 - z * z, 0.0))
    angle = 2 * math.pi * uniform[1]
    return jnp.stack([level * jnp.cos(angle), level * jnp.sin(angle), z])


def _hypot(x: Scalars, y: Scalars) -> Scalars:
    return jnp.sqrt(x * x + y * y)  # lengths are near 1: no need of jnp.hypot's care, nor its time


def _fraction(x: Array) -> Array:
    return x - jnp.floor(x)  # `% 1` is an order of magnitude slower on CPUs


def _dot(a: Vectors, b: Vectors) -> Scalars:
    return jnp.sum(a * b, axis=0)


def _normalise(vectors: Vectors) -> Vectors:
    return vectors * lax.rsqrt(_dot(vectors, vectors))
