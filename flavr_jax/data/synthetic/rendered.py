# SPDX-License-Identifier: Apache-2.0
"""Synthetic clips of random three-dimensional worlds, rendered on the device at any time.

Layers (:mod:`scenes`) move as flat pictures. Here, parallax, perspective, rotation in depth,
self-occlusion and moving shadows follow from geometry. Only primary rays and one shadow ray are
traced, and light is computed in closed form, so frames have no noise. Each pixel is the mean of
several rays at fixed positions: edges are smooth and do not flicker.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key, UInt8, UInt32

from flavr_jax.data import augment
from flavr_jax.data.synthetic import mipmaps, worlds
from flavr_jax.data.synthetic import textures as painting
from flavr_jax.data.synthetic.worlds import N_FACES, View, World, WorldConfig
from flavr_jax.render.intersect import convex, dot, sphere

__all__ = ["RenderedConfig", "draw_many"]

_AWAY = 1e-3  # shadow rays start this far from a surface, relative to its distance


@dataclasses.dataclass(frozen=True)
class RenderedConfig:
    """Content and quality of rendered clips.

    Attributes:
        world: objects and motion.
        texture_size: side of a texture in texels, a power of two.
        real_share: probability that a texture is a crop of a real frame, if there are any.
        photograph_share: share of still photographs among real pictures, if there are both.
        samples: rays for each pixel; with motion blur, each at another moment of the exposure.
        shadows: whether objects cast shadows.
        blur_share: share of clips with motion blur.
        max_exposure: longest exposure time in intervals between inputs.
        sharpness: largest ``amount`` of :func:`augment.sharpen`.
    """

    world: WorldConfig = dataclasses.field(default_factory=WorldConfig)
    texture_size: int = 256
    real_share: float = 0.75
    photograph_share: float = 0.3
    samples: int = 8
    shadows: bool = True
    blur_share: float = 0.15
    max_exposure: float = 0.3
    sharpness: float = 1.5

    def __post_init__(self) -> None:
        size, least = self.texture_size, 2 ** (mipmaps.N_LEVELS - 1)
        if size < least or size & (size - 1):
            raise ValueError(
                f"`texture_size` is {size}; it is a power of two, at least {least}. Use 256."
            )


class _Hit(NamedTuple):
    """What a ray meets first."""

    distance: Float[Array, "height width"]
    surface: Int[Array, "height width"]
    normal: tuple[Array, ...]
    u: Float[Array, "height width"]
    v: Float[Array, "height width"]


def draw_many(
    keys: Key[Array, " clips"],
    times: Float[Array, "clips time"],
    size: tuple[int, int],
    config: RenderedConfig,
    textures: UInt8[Array, "n rows columns 3"] | None = None,
    photographs: UInt8[Array, "m rows columns 3"] | None = None,
) -> Float[Array, "clips time height width 3"]:
    """Render one clip for each key.

    Args:
        keys: random keys; each alone determines its clip.
        times: times of each clip's frames in intervals between inputs; the inputs of a window are
            at 0, 1, 2 and 3.
        size: height and width of a frame in pixels.
        config: content and quality.
        textures: real frames to cut textures from, at least ``texture_size`` high and wide.
        photographs: still pictures to cut textures from, likewise.
    """

    def paint(key: Key[Array, ""]) -> UInt32[Array, " words"]:
        return mipmaps.build(
            painting.colour(
                key,
                config.texture_size,
                textures,
                real_share=config.real_share,
                photographs=photographs,
                photograph_share=config.photograph_share,
            ).colours
        )

    return jax.vmap(functools.partial(_film, size, config, paint))(keys, times)


def _film(
    size: tuple[int, int],
    config: RenderedConfig,
    paint: Callable[[Array], UInt32[Array, " words"]],
    key: Key[Array, ""],
    times: Float[Array, " time"],
) -> Float[Array, "time height width 3"]:
    """Render one clip."""
    key_world, key_textures, key_lens = jax.random.split(key, 3)
    world = worlds.random_world(key_world, size, config.world)
    words = jax.vmap(paint)(jax.random.split(key_textures, config.world.n_textures))
    blurs, open_share, sharp_share = jax.random.uniform(key_lens, (3,))
    samples = config.samples
    exposure = config.max_exposure * open_share * (blurs < config.blur_share)

    def add(total: Array, sample: tuple[Array, ...]) -> tuple[Array, None]:
        place, moment, blend = sample
        expose = functools.partial(_expose, world, words, size, config)
        return total + jax.vmap(expose, (0, None, None))(times + moment, place, blend), None

    # One sample of all pixels at a time: all samples together would not fit into memory.
    moments = exposure * ((jnp.arange(samples) + 0.5) / samples - 0.5)
    blends = (jnp.arange(samples) + 0.5) / samples
    start = jnp.zeros((len(times), *size, 3))
    total, _ = lax.scan(add, start, (jnp.asarray(_places(samples)), moments, blends))
    # Light adds up, not the values that encode it; a gamma of 2 costs less than one of 2.2.
    frames = jnp.sqrt(jnp.clip(total / samples, 1e-9, 1.0))
    return jnp.clip(augment.sharpen(frames, config.sharpness * sharp_share), 0.0, 1.0)


def _places(samples: int) -> Float[np.ndarray, "samples 2"]:
    """Return positions spread over a pixel, relative to its centre (Roberts' R2 sequence)."""
    steps = np.arange(1, samples + 1)[:, None] * np.array([0.7548776662466927, 0.5698402909980532])
    places = steps % 1.0
    return (places - places.mean(axis=0)).astype(np.float32)


def _expose(
    world: World,
    words: UInt32[Array, "textures words"],
    size: tuple[int, int],
    config: RenderedConfig,
    time: Float[Array, ""],
    place: Float[Array, "2"],
    blend: Float[Array, ""],
) -> Float[Array, "height width 3"]:
    """Trace one ray for each pixel and return the light that it brings.

    Args:
        world: the world.
        words: its textures.
        size: height and width of a frame in pixels.
        config: whether there are shadows, and the size of textures.
        time: when the ray is traced.
        place: position within pixels.
        blend: threshold in (0, 1) that chooses between two resolutions of a texture. Over the
            samples of a pixel, its values blend the two.
    """
    seen = worlds.view(world, time)
    pixel = 1.0 / (world.focal * size[0])
    x = (jnp.arange(size[1]) + 0.5 - size[1] / 2 + place[0]) * pixel
    y = (jnp.arange(size[0]) + 0.5 - size[0] / 2 + place[1]) * pixel
    x, y = jnp.broadcast_to(x, size), jnp.broadcast_to(y[:, None], size)
    ray = (x, y, jnp.ones(size))
    # Barriers here and below keep XLA from computing hits again in each of the many values that
    # depend on them.
    hit = lax.optimization_barrier(_nearest(seen, ray))
    point = tuple(hit.distance * each for each in ray)

    finish = world.finish
    texture, density = finish.texture[hit.surface], finish.density[hit.surface]
    u, v = (density * (hit.u, hit.v)[i] + finish.shift[:, i][hit.surface] for i in range(2))
    length = jnp.sqrt(dot(ray, ray))
    facing = jnp.maximum(-dot(hit.normal, ray) / length, 0.02)
    level = _level(density * pixel * hit.distance, facing, blend)
    colour = mipmaps.sample(words, config.texture_size, texture, level, u, v)

    towards = [jnp.broadcast_to(each, size) for each in seen.direction]
    slope = jnp.maximum(dot(hit.normal, towards), 0.0)
    if config.shadows:
        origin = tuple(p + _AWAY * hit.distance * n for p, n in zip(point, hit.normal))
        slope = jnp.where(_is_shadowed(seen, origin, towards), 0.0, slope)
    middle = [t - r / length for t, r in zip(towards, ray)]
    middle_length = jnp.sqrt(jnp.maximum(dot(middle, middle), 1e-6))
    apart = 1.0 - dot(middle, hit.normal) / middle_length
    shine = finish.gloss[hit.surface] * jnp.exp(-finish.shininess[hit.surface] * apart)
    shine = jnp.where(slope > 0, shine, 0.0)
    above = 0.75 + 0.25 * dot(hit.normal, seen.up)
    clear = jnp.exp(-seen.fog[3] * hit.distance * length)
    light = []
    for i in range(3):
        diffuse = (colour[i] * finish.tint[:, i][hit.surface]) ** 2  # the gamma of `_film`
        lit = diffuse * (seen.sky[i] * above + seen.sun[i] * slope) + seen.sun[i] * shine
        light.append(seen.fog[i] + clear * (lit - seen.fog[i]))
    return jnp.stack(light, axis=-1)


def _level(
    texels: Float[Array, "height width"],
    facing: Float[Array, "height width"],
    blend: Float[Array, ""],
) -> Int[Array, "height width"]:
    """Return the level of a texture's pyramid to look up.

    Args:
        texels: texture pixels that a pixel of the frame covers across.
        facing: cosine of the angle between ray and normal.
        blend: threshold in (0, 1) that chooses between two levels.
    """
    # A pixel covers more along a surface that is seen at a grazing angle. Several rays share the
    # pixel, so that half the longer extent is the distance to resolve.
    texels *= jnp.maximum(0.5 / facing, 1.0)
    level = jnp.floor(jnp.log2(jnp.maximum(texels, 0.1)) + 0.5 + blend).astype(jnp.int32)
    return jnp.clip(level, 0, mipmaps.N_LEVELS - 1)


def _nearest(seen: View, ray: tuple[Array, ...]) -> _Hit:
    """Find the first surface; the room encloses everything, so that there always is one."""
    n_balls, n_solids = len(seen.matrix), len(seen.normals) - 1
    room = convex(seen.normals[-1], seen.heights[-1], None, ray)

    def entry_of(normals: Array, heights: Array) -> Float[Array, "height width"]:
        found = convex(normals, heights, None, ray)
        hits = (found.entry < found.exit) & (found.entry > 0)
        return jnp.where(hits, found.entry, jnp.inf)

    distance, solid = _smallest(jax.vmap(entry_of)(seen.normals[:-1], seen.heights[:-1]))
    closer = distance < room.exit
    distance = jnp.where(closer, distance, room.exit)
    # Only of the nearest solid: with the face of every solid, a CPU would take three times as long.
    front = _front(seen.normals, seen.heights, solid, ray)
    face = jnp.where(closer, solid * N_FACES + front, n_solids * N_FACES + room.back)
    surface = n_balls + jnp.where(closer, solid, n_solids + room.back)
    side = jnp.where(closer, 1.0, -1.0)  # the room's walls are seen from behind
    distance, face, surface, side = lax.optimization_barrier((distance, face, surface, side))
    point = [distance * each for each in ray]
    rows = [seen.across.reshape(-1, 4), seen.down.reshape(-1, 4)]
    u, v = (
        table[:, 0][face] * point[0]
        + table[:, 1][face] * point[1]
        + table[:, 2][face] * point[2]
        + table[:, 3][face]
        for table in rows
    )
    normals = seen.normals.reshape(-1, 3)
    normal = tuple(side * normals[:, axis][face] for axis in range(3))
    return _nearer_ball(seen, ray, _Hit(distance, surface, normal, u, v))


def _front(
    normals: Float[Array, "solids faces 3"],
    heights: Float[Array, "solids faces"],
    solid: Int[Array, "height width"],
    ray: tuple[Array, ...],
) -> Int[Array, "height width"]:
    """Face through which each ray enters the solid that it hits."""
    entry, front = jnp.full(solid.shape, -jnp.inf), jnp.zeros(solid.shape, jnp.int32)
    for face in range(N_FACES):
        speed = dot([normals[:, face, axis][solid] for axis in range(3)], ray)
        distance = heights[:, face][solid] / speed
        enters = (speed < 0) & (distance > entry)
        entry, front = jnp.where(enters, distance, entry), jnp.where(enters, face, front)
    return front


def _smallest(
    values: Float[Array, "n height width"],
) -> tuple[Float[Array, "height width"], Int[Array, "height width"]]:
    """Smallest value at each pixel, and its index; of equal values, the first."""
    # Without a barrier, XLA would inline the intersections in each of the steps.
    values = lax.optimization_barrier(values)
    value, index = values[0], jnp.zeros(values.shape[1:], jnp.int32)
    for number, other in enumerate(values[1:], start=1):
        closer = other < value
        value, index = jnp.where(closer, other, value), jnp.where(closer, number, index)
    return value, index


def _nearer_ball(seen: View, ray: tuple[Array, ...], hit: _Hit) -> _Hit:
    """Replace hits by those of the nearest ball, where it is nearer."""
    offsets = -(seen.matrix * seen.centre[:, None]).sum(axis=2)  # in coordinates of unit spheres

    def entry_of(matrix: Array, offset: Array, radius: Array) -> Float[Array, "height width"]:
        entry, _ = sphere(list(offset), [dot(row, ray) for row in matrix], radius)
        return jnp.where(entry > 0, entry, jnp.inf)

    entries = jax.vmap(entry_of)(seen.matrix, offsets, seen.radius)
    entry, ball = lax.optimization_barrier(_smallest(entries))
    closer = entry < hit.distance
    matrix = [[seen.matrix[:, i, j][ball] for j in range(3)] for i in range(3)]
    distance = jnp.where(closer, entry, hit.distance)
    on_unit = [offsets[:, i][ball] + distance * dot(row, ray) for i, row in enumerate(matrix)]
    normal = [dot([row[axis] for row in matrix], on_unit) for axis in range(3)]
    scale = lax.rsqrt(jnp.maximum(dot(normal, normal), 1e-12))
    # Texture coordinates of a cube around the ball, from the sphere's direction: no poles.
    a, b, c = (jnp.abs(each) for each in on_unit)
    first, second = (a >= b) & (a >= c), b >= c
    p, q, r = on_unit
    along = jnp.where(first, p, jnp.where(second, q, r))
    # The extent of the unit sphere is that of the ellipsoid along its mean axis.
    extents = lax.rsqrt((seen.matrix**2).sum(axis=(1, 2)) / 3.0)
    extent = extents[ball] / jnp.maximum(jnp.abs(along), 0.5)
    u = extent * jnp.where(first, q, p)
    v = extent * jnp.where(first | second, r, q)
    return _Hit(
        distance,
        jnp.where(closer, ball, hit.surface),
        tuple(jnp.where(closer, n * scale, m) for n, m in zip(normal, hit.normal)),
        jnp.where(closer, u, hit.u),
        jnp.where(closer, v, hit.v),
    )


def _is_shadowed(seen: View, origin: tuple[Array, ...], towards: list[Array]) -> Array:
    """Return whether an object is between points and the sun; walls let its light in."""

    def by_solid(normals: Array, heights: Array) -> Bool[Array, "height width"]:
        found = convex(normals, heights, origin, towards)
        return (found.entry < found.exit) & (found.entry > 0)

    def by_ball(matrix: Array, centre: Array, radius: Array) -> Bool[Array, "height width"]:
        apart = [o - c for o, c in zip(origin, centre)]
        offset, direction = ([dot(row, each) for row in matrix] for each in (apart, towards))
        entry, _ = sphere(offset, direction, radius)
        return (entry > 0) & (entry < jnp.inf)

    # Without barriers, XLA would compute the points again for every object.
    origin = lax.optimization_barrier(origin)
    solids = jax.vmap(by_solid)(seen.normals[:-1], seen.heights[:-1])
    balls = jax.vmap(by_ball)(seen.matrix, seen.centre, seen.radius)
    solids, balls = lax.optimization_barrier((solids, balls))
    return functools.reduce(jnp.logical_or, [*solids, *balls])
