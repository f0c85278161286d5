# SPDX-License-Identifier: Apache-2.0
"""Clips of small motion, and the same frames with their motion magnified.

Each layer of a collage moves, turns, grows and bends in proportion to one number, the amount of
motion: 0 at rest, 1 at the end of its range. The frame painted at the amount m · s is the frame at
the amount s with its motion from rest magnified m times. The truth is therefore as exact as the
inputs.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key, UInt8

from flavr_jax.data.synthetic import collage
from flavr_jax.data.synthetic.motion import log_between

__all__ = ["MagnifiedConfig", "Sample", "draw", "film", "quantised"]


@dataclasses.dataclass(frozen=True)
class MagnifiedConfig:
    """Content and motion of clips to magnify.

    Attributes:
        crop: side of the square frames in pixels, a multiple of 8.
        batch_size: samples in a step, over all devices.
        factors: smallest and largest factor.
        reach: largest magnified displacement of a layer, in pixels.
        turn: largest magnified rotation, in radians.
        zoom: largest magnified change of size, relative.
        bend: largest magnified deformation, in texels; two layers in five bend.
        noise: largest standard deviation of the noise of input frames.
        still_share: share of clips whose background is still.
        n_objects: number of objects in front of the background.
        texture_size: side of a layer's texture in texels, each 0.6 to 1.5 pixels wide.
    """

    crop: int = 128
    batch_size: int = 32
    factors: tuple[float, float] = (2.0, 30.0)
    reach: float = 12.0
    turn: float = 0.12
    zoom: float = 0.1
    bend: float = 6.0
    noise: float = 0.03
    still_share: float = 0.5
    n_objects: int = 3
    texture_size: int = 192

    def __post_init__(self) -> None:
        if self.crop % 8:
            raise ValueError(f"`crop` is {self.crop}; it is a multiple of 8, such as 128.")
        if len(self.factors) != 2 or not 1 <= self.factors[0] <= self.factors[1]:
            raise ValueError(
                f"`factors` is {self.factors}; give the smallest and the largest, 1 or more."
            )
        if not 0 <= self.noise <= 1:
            raise ValueError(f"`noise` is {self.noise}; it is a share of white, such as 0.02.")


class Sample(NamedTuple):
    """Input frames, a factor, and the third input with its motion magnified.

    Attributes:
        frames: the frame at rest, and three consecutive frames.
        factor: how many times the motion from the frame at rest is magnified.
        target: the middle one of the three frames, magnified, without noise.
    """

    frames: Float[Array, "*batch 4 height width 3"]
    factor: Float[Array, "*batch"]
    target: Float[Array, "*batch 1 height width 3"]


class _Scene(NamedTuple):
    """Layers, their poses at rest, and the change of poses at the amount 1."""

    cutouts: collage.Cutouts
    rest: collage.Poses
    change: collage.Poses


def draw(
    key: Key[Array, ""],
    config: MagnifiedConfig,
    photographs: UInt8[Array, "m rows columns 3"] | None = None,
) -> Sample:
    """Draw a sample of a vibration with random factor, speed and noise."""
    key_scene, key_values, key_noise = jax.random.split(key, 3)
    u = jax.random.uniform(key_values, (6,))
    factor = log_between(u[0], *config.factors)
    # Speeds of up to 1.6 radians a frame: a whole vibration takes four frames or more.
    phases = 2 * math.pi * u[1] + (0.05 + 1.55 * u[2]) * jnp.arange(-1.0, 2.0)
    amounts = (0.1 + 0.9 * u[3]) * jnp.sin(phases) / factor
    # In 30 % of the samples, the frame at rest is the previous one.
    amounts = jnp.where(u[4] < 0.3, amounts - amounts[0], amounts)
    scene = _random_scene(key_scene, config, photographs)
    times = jnp.concatenate([jnp.zeros(1), amounts, factor * amounts[1:2]])
    frames = _paint(scene, times, config)
    # Mostly little noise, because most footage has little.
    noisy = quantised(key_noise, frames[:4], config.noise * u[5] ** 2)
    return Sample(noisy, factor, frames[4:])


def film(
    key: Key[Array, ""],
    amounts: Float[Array, " time"],
    config: MagnifiedConfig,
    photographs: UInt8[Array, "m rows columns 3"] | None = None,
) -> Float[Array, "time height width 3"]:
    """Paint the scene of a key at the given amounts of motion, without noise."""
    return _paint(_random_scene(key, config, photographs), amounts, config)


def quantised(
    key: Key[Array, ""], frames: Float[Array, "*frames"], noise: Float[Array, ""] | float
) -> Float[Array, "*frames"]:
    """Add noise and round to 8 bits, as a camera does; ``noise`` is a standard deviation."""
    noisy = frames + noise * jax.random.normal(key, frames.shape)
    return jnp.round(255.0 * jnp.clip(noisy, 0.0, 1.0)) / 255.0


def _paint(
    scene: _Scene, amounts: Float[Array, " time"], config: MagnifiedConfig
) -> Float[Array, "time height width 3"]:
    def at(amount: Float[Array, ""]) -> collage.Poses:
        return jax.tree.map(lambda rest, change: rest + amount * change, scene.rest, scene.change)

    return collage.paint(scene.cutouts, jax.vmap(at)(amounts), (config.crop, config.crop))


def _random_scene(
    key: Key[Array, ""],
    config: MagnifiedConfig,
    photographs: UInt8[Array, "m rows columns 3"] | None,
) -> _Scene:
    layers = config.n_objects + 1
    key_texture, key_values, key_wave = jax.random.split(key, 3)
    u = jax.random.uniform(key_values, (10, layers))
    is_object = jnp.arange(layers) > 0
    moves = jnp.where(is_object, u[0] < 0.85, u[0][0] >= config.still_share).astype(jnp.float32)
    log_scale = jnp.log(log_between(u[1], 0.6, 1.5))
    reach = moves * log_between(u[2], 0.5, config.reach)
    heading = 2 * math.pi * u[3]
    place = 0.45 * config.crop * is_object * (2.0 * u[4:6] - 1.0)
    # Cubes of uniform values favour small rotations and zooms.
    rates = moves * (2.0 * u[6:8] - 1.0) ** 3
    waves = jax.vmap(lambda key: collage.random_wave(key, config.bend))(
        jax.random.split(key_wave, layers)
    )
    amplitude, number, phase = jnp.moveaxis(waves, 1, 0)
    still = jnp.zeros_like(amplitude)
    bends = (moves * (u[8] < 0.4))[:, None] * amplitude
    rest = collage.Poses(
        position=place.T,
        angle=2 * math.pi * u[9],
        log_scale=log_scale,
        wave=jnp.stack([still, number, phase], axis=1),
    )
    change = collage.Poses(
        position=(reach * jnp.stack([jnp.cos(heading), jnp.sin(heading)])).T,
        angle=config.turn * rates[0],
        log_scale=config.zoom * rates[1],
        wave=jnp.stack([bends, still, still], axis=1),
    )
    cutouts = collage.cut_out(
        key_texture,
        config.n_objects,
        config.texture_size,
        log_scale=log_scale,
        photographs=photographs,
    )
    return _Scene(cutouts, rest, change)
