# SPDX-License-Identifier: Apache-2.0
"""Path tracing: Kajiya, The Rendering Equation, 1986.

Random numbers depend on seed and pixel, not on the time, so the remaining noise is the same in all
frames and does not flicker.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Int, UInt32

from flavr_jax.render import bsdf, lights, sampling, surfaces, world
from flavr_jax.render.scene import Scene
from flavr_jax.render.surfaces import Scalars, Vectors, dot, normalise, turn
from flavr_jax.render.world import Layout, Moment, World

__all__ = ["Image", "Renderer", "tone_map"]

_TILES = {"cpu": 4096, "gpu": 1 << 20}
"""Rays traced at a time: on a CPU, the arrays of a bounce fit into its cache."""

_CLEARANCE = 1e-4  # paths start this far above a surface, relative to its distance from the origin
_ROULETTE = 3  # surfaces after which paths may end at random
_USES = 4  # pairs of random numbers at each surface: light, choices, direction, roulette


class Image(NamedTuple):
    """A rendered image: linear light; albedo and normals of the first surfaces, for denoising."""

    light: Float[Array, "height width 3"]
    albedo: Float[Array, "height width 3"]
    normal: Float[Array, "height width 3"]


class _Paths(NamedTuple):
    """State of paths.

    Attributes:
        origin: position of the latest surface.
        direction: unit vector in which they continue.
        weight: fraction of the light from this direction that reaches the camera.
        light: light collected so far.
        density: density with which the direction was chosen; infinite for mirrors.
        alive: whether they continue.
    """

    origin: Vectors
    direction: Vectors
    weight: Vectors
    light: Vectors
    density: Scalars
    alive: Bool[Array, " ray"]


@dataclasses.dataclass(frozen=True)
class Renderer:
    """A scene made ready: meshes are read and hierarchies built once.

    Attributes:
        scene: scene to render.
        devices: devices that share the pixels of each image; none is JAX's default device. The
            image does not depend on their number.
    """

    scene: Scene
    devices: tuple[Any, ...] = ()

    @functools.cached_property
    def _compiled(self) -> tuple[Layout, World]:
        return world.compile_scene(self.scene)

    def render(
        self, time: float, *, height: int, width: int, samples: int, seed: int = 0, first: int = 0
    ) -> Image:
        """Render an image.

        Args:
            time: time in seconds; any real number.
            height: image height in pixels.
            width: image width in pixels.
            samples: paths per pixel; four times as many at least halve the noise.
            seed: seed of the paths; the same seed gives the same image, bit for bit.
            first: number of the first sample, to continue an image: the mean of samples 0 to 15 and
                16 to 31 is the image of 32 samples, provided that the shutter is closed.

        Raises:
            ValueError: a size or a count is below 1.
        """
        for name, value in {"height": height, "width": width, "samples": samples}.items():
            if value < 1:
                raise ValueError(f"`{name}` is {value}; it is at least 1.")
        layout, arrays = self._compiled
        mesh = Mesh(np.array(self.devices or jax.devices()[:1]), ("device",))
        tile = _TILES.get(mesh.devices[0].platform, _TILES["gpu"])
        values = _Values(
            arrays,
            world.moments(self.scene, time, samples),
            jnp.uint32(first),
            jnp.int32(samples),
            jnp.uint32(seed),
        )
        channels = _trace(values, layout, height, width, tile, mesh)
        return Image(*jax.device_put(channels, mesh.devices[0]))


def tone_map(
    light: Float[Array, "height width 3"], exposure: float = 1.0
) -> Float[Array, "height width 3"]:
    """Map linear light to sRGB in [0, 1]; highlights roll off instead of clipping.

    The film curve is Narkowicz's fit to ACES (2015).
    """
    light = jnp.maximum(exposure * light, 0.0)
    film = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    film = jnp.clip(film, 0.0, 1.0)
    # sRGB's curve (IEC 61966-2-1).
    return jnp.where(film <= 0.0031308, 12.92 * film, 1.055 * film ** (1 / 2.4) - 0.055)


class _Values(NamedTuple):
    """Values of an image; programs are compiled for their shapes only.

    Attributes:
        arrays: what does not move.
        places: positions at each sample; a single row, if nothing moves while the shutter is open.
        first: number of the first sample.
        samples: number of samples.
        seed: seed of the paths.
    """

    arrays: World
    places: Moment
    first: UInt32[Array, ""]
    samples: Int[Array, ""]
    seed: UInt32[Array, ""]


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _trace(
    values: _Values, layout: Layout, height: int, width: int, most: int, mesh: Mesh
) -> tuple[Float[Array, "{height} {width} 3"], ...]:
    count, workers = height * width, mesh.size
    rays = min(most, -(-count // workers))
    rounds = -(-count // (rays * workers))

    def tiles(values: _Values, numbers: Int[Array, " tile"]) -> Float[Array, "tile ray 9"]:
        return lax.map(functools.partial(_tile, values, layout, (height, width), rays), numbers)

    # Devices take tiles in turn, so that an expensive part of the image is shared by all.
    order = np.arange(rounds * workers).reshape(rounds, workers).T.reshape(-1)
    shared = jax.shard_map(
        tiles, mesh=mesh, in_specs=(P(), P("device")), out_specs=P("device"), check_vma=False
    )(values, jnp.asarray(order))
    image = shared.reshape(workers, rounds, rays, 9).swapaxes(0, 1)
    image = image.reshape(-1, 9)[:count].reshape(height, width, 9)
    return image[..., :3], image[..., 3:6], image[..., 6:]


def _tile(
    values: _Values, layout: Layout, size: tuple[int, int], rays: int, number: Int[Array, ""]
) -> Float[Array, "{rays} 9"]:
    """Trace all samples of consecutive pixels."""
    # The last tile repeats the last pixel.
    pixel = jnp.minimum(number * rays + jnp.arange(rays), size[0] * size[1] - 1)
    seeds = sampling.seeds(values.seed, pixel.astype(jnp.uint32))
    last = len(values.places.focus) - 1

    def add(index: Int[Array, ""], total: Float[Array, "9 ray"]) -> Float[Array, "9 ray"]:
        moment = jax.tree.map(lambda column: column[jnp.minimum(index, last)], values.places)
        sample = values.first + index.astype(jnp.uint32)
        rays = _camera_rays(values.arrays, moment, sample, seeds, pixel, size)
        return total + _path(layout, values.arrays, moment, sample, seeds, *rays)

    total = lax.fori_loop(0, values.samples, add, jnp.zeros((9, rays)))
    return (total / values.samples).T


def _camera_rays(
    arrays: World,
    moment: Moment,
    sample: UInt32[Array, ""],
    seeds: UInt32[Array, " ray"],
    pixel: Int[Array, " ray"],
    size: tuple[int, int],
) -> tuple[Vectors, Vectors]:
    """Return rays from the lens through pixels."""
    row, column = jnp.divmod(pixel, size[1])
    across, along = sampling.pair(sample, seeds, 0)
    x = (column + across - size[1] / 2) / size[0] * arrays.lens[0]
    y = (row + along - size[0] / 2) / size[0] * arrays.lens[0]
    u, v = sampling.disc(sampling.pair(sample, seeds, 1))
    u, v = arrays.lens[1] * u, arrays.lens[1] * v
    # From a point of the lens to where the ray through its middle meets the plane in focus.
    local = jnp.stack([x - u / moment.focus, y - v / moment.focus, jnp.ones_like(x)])
    axes = moment.axes.T[..., None]  # columns: right, down, forward
    offset = turn(axes, jnp.stack([u, v, jnp.zeros_like(u)]))
    return moment.eye[:, None] + offset, normalise(turn(axes, local))


def _path(
    layout: Layout,
    arrays: World,
    moment: Moment,
    sample: UInt32[Array, ""],
    seeds: UInt32[Array, " ray"],
    origin: Vectors,
    direction: Vectors,
) -> Float[Array, "9 ray"]:
    """Trace paths; return their light, and albedo and normal of the first surface."""
    paths = _Paths(
        origin,
        direction,
        jnp.ones_like(origin),
        jnp.zeros_like(origin),
        # As from a mirror: at the camera no light was sampled, so that what a path meets counts in
        # full.
        jnp.full(origin.shape[1], jnp.inf),
        jnp.ones(origin.shape[1], bool),
    )

    def bounce(state: tuple[_Paths, Array], number: Int[Array, ""]) -> tuple[Any, None]:
        paths, first = state
        # Uses 0 and 1 are the camera's: the place in the pixel and that on the lens.
        uses = [sampling.pair(sample, seeds, 2 + _USES * number + use) for use in range(_USES)]
        paths, features = _bounce(layout, arrays, moment, paths, number, uses)
        return (paths, jnp.where(number == 0, features, first)), None

    start = (paths, jnp.zeros((6, origin.shape[1])))
    (paths, first), _ = lax.scan(bounce, start, jnp.arange(layout.bounces + 1))
    return jnp.concatenate([paths.light, first])


def _bounce(
    layout: Layout,
    arrays: World,
    moment: Moment,
    paths: _Paths,
    number: Int[Array, ""],
    uses: list[sampling.Pair],
) -> tuple[_Paths, Float[Array, "6 ray"]]:
    """Follow paths to the next surface, add its light, and choose the next direction.

    The last surface only adds its own light: the other half of the estimate of direct light there.

    Returns:
        The paths, and albedo and normal of the surfaces.
    """
    hit = surfaces.nearest(layout, arrays, moment, paths.origin, paths.direction)
    found = surfaces.surface(layout, arrays, moment, hit, paths.origin, paths.direction)
    missed = hit.number < 0
    sky = lights.background(layout, arrays, paths.direction, paths.density, weigh=True)
    is_light = ~missed & (found.material.is_light > 0)
    other = lights.density_of_hit(
        layout, arrays, moment, hit.number, found, paths.origin, paths.direction
    )
    share = lights.power(paths.density, other)
    own = jnp.where(missed, sky, jnp.where(is_light, share * found.colour, 0.0))
    light = _limited(paths.weight * own, arrays.brightest, number)

    goes_on = paths.alive & ~missed & ~is_light & (number < layout.bounces)
    rotation = lights.frame(found.normal)
    out = turn(rotation.swapaxes(0, 1), -paths.direction)
    distance = jnp.where(missed, 1.0, hit.distance)
    away = _CLEARANCE * (1.0 + distance) * found.flat
    if lights.count(layout):
        direct = _direct(layout, arrays, moment, found, rotation, out, away, uses)
        direct = jnp.where(goes_on, paths.weight * direct, 0.0)
        light += _limited(direct, arrays.brightest, number + 1)
    scattered = bsdf.sample(found.material, found.colour, out, found.enters, uses[1][1], uses[2])
    direction = normalise(turn(rotation, scattered.direction))
    weight = paths.weight * scattered.weight
    # Russian roulette: dim paths end at random, and those that survive make up for them.
    # The lower limit keeps survivors from becoming more than 20 times as bright.
    chance = jnp.where(number >= _ROULETTE, jnp.clip(weight.max(axis=0), 0.05, 0.95), 1.0)
    goes_on &= uses[3][0] < chance
    # Directions below the geometric surface, where shading normals differ from it, are lost.
    outward = dot(direction, found.flat) > 0
    goes_on &= outward | (found.material.is_glass > 0)
    after = _Paths(
        found.point + jnp.where(outward, away, -away),
        direction,
        jnp.where(goes_on, weight / chance, 0.0),
        paths.light + jnp.where(paths.alive, light, 0.0),
        scattered.density,
        goes_on,
    )
    # The denoiser takes albedos up to 1.
    albedo = jnp.where(missed, jnp.minimum(sky, 1.0), jnp.minimum(found.colour, 1.0))
    return after, jnp.concatenate([albedo, jnp.where(missed, 0.0, found.normal)])


def _direct(
    layout: Layout,
    arrays: World,
    moment: Moment,
    found: surfaces.Surface,
    rotation: Array,
    out: Vectors,
    away: Vectors,
    uses: list[sampling.Pair],
) -> Vectors:
    """Return the light of one light that surfaces scatter back along the paths."""
    origin = found.point + away
    to = lights.sample(layout, arrays, moment, origin, uses[1][0], uses[0])
    local = turn(rotation.swapaxes(0, 1), to.direction)
    scattered, density = bsdf.evaluate(found.material, found.colour, local, out)
    # Shorter, so that the light does not block itself.
    limit = to.distance * (1 - 1e-3)
    seen = (scattered.max(axis=0) > 0) & (dot(to.direction, found.flat) > 0)
    # Rays that bring nothing have no length, so that traversals end at once.
    limit = jnp.where(seen, limit, 0.0)
    seen &= ~surfaces.shadowed(layout, arrays, moment, origin, to.direction, limit)
    share = lights.power(to.density, density) / jnp.maximum(to.density, 1e-20)
    return jnp.where(seen, share * scattered * to.radiance, 0.0)


def _limited(light: Vectors, most: Float[Array, ""], number: Int[Array, ""]) -> Vectors:
    """Limit light that comes by way of a surface."""
    return jnp.where(number > 0, jnp.minimum(light, most), light)
