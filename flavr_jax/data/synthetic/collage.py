# SPDX-License-Identifier: Apache-2.0
"""Textured objects in front of a background, each at a pose of its own in every frame.

The layers of ``scenes`` follow random paths; a collage is painted at poses that the caller chooses.
Clips for motion magnification and for classes of motion are made this way.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key, UInt8, UInt32

from flavr_jax.data.synthetic import textures
from flavr_jax.data.synthetic.motion import log_between

__all__ = ["Cutouts", "Poses", "cut_out", "paint", "random_wave"]


class Cutouts(NamedTuple):
    """Packed textures from back to front; the first is the background."""

    texels: UInt32[Array, "layer twice twice"]
    is_background: Bool[Array, " layer"]


class Poses(NamedTuple):
    """Pose of each layer in each frame.

    Attributes:
        position: pixels from the image's centre to the texture's centre, to the right and down.
        angle: in radians, clockwise.
        log_scale: logarithm of pixels per texel.
        wave: amplitude in texels, wave number in radians per texel, and phase of a deformation,
            horizontal and vertical; see :func:`random_wave`.
    """

    position: Float[Array, "*frame layer 2"]
    angle: Float[Array, "*frame layer"]
    log_scale: Float[Array, "*frame layer"]
    wave: Float[Array, "*frame layer 3 2"]


def cut_out(
    key: Key[Array, ""],
    n_objects: int,
    texture_size: int,
    *,
    log_scale: Float[Array, " layer"],
    photographs: UInt8[Array, "m rows columns 3"] | None = None,
    photograph_share: float = 0.5,
) -> Cutouts:
    """Draw the textures of a background and of objects in front of it.

    Args:
        key: random key.
        n_objects: number of objects.
        texture_size: side of each texture in texels.
        log_scale: logarithm of the pixels per texel at which each layer is seen.
        photographs: pictures to cut some textures from, at least ``texture_size`` high and wide.
        photograph_share: share of layers that get such a texture.
    """

    def one(key: Key[Array, ""], index: Int[Array, ""], log_scale: Float[Array, ""]) -> Array:
        key_colour, key_shape = jax.random.split(key)
        painting = textures.colour(
            key_colour, texture_size, photographs, real_share=photograph_share
        )
        covered, _ = textures.coverage(key_shape, painting.relief, is_text=False)
        alpha = jnp.where(index > 0, covered, 1.0)
        return textures.pack(painting.colours, alpha, jnp.exp(log_scale))

    layers = jnp.arange(n_objects + 1)
    texels = jax.vmap(one)(jax.random.split(key, n_objects + 1), layers, log_scale)
    return Cutouts(texels, layers == 0)


def paint(
    cutouts: Cutouts, poses: Poses, size: tuple[int, int]
) -> Float[Array, "time height width 3"]:
    """Paint a clip.

    Args:
        cutouts: the layers.
        poses: pose of each layer in each frame.
        size: height and width of a frame in pixels.
    """

    def over(
        behind: Float[Array, "3 time height width"], layer: tuple[Cutouts, Poses]
    ) -> tuple[Float[Array, "3 time height width"], None]:
        cutout, places = layer
        look_up = functools.partial(_look_up, cutout, size)
        *colour, alpha = jax.vmap(look_up)(places)
        return behind + alpha * (jnp.stack(colour) - behind), None

    blank = jnp.zeros((3, poses.angle.shape[0], *size))
    by_layer = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), poses)
    # A scan compiles one layer's look-ups once, however many layers there are.
    colours, _ = lax.scan(over, blank, (cutouts, by_layer))
    return jnp.moveaxis(colours, 0, -1)


def random_wave(key: Key[Array, ""], most: float) -> Float[Array, "3 2"]:
    """Draw a wave that displaces points (u, v) of a texture by a · sin(k · (v, u) + φ).

    Amplitudes are at most ``most`` texels, and small enough that the texture does not fold.
    """
    share, number, phase = jax.random.uniform(key, (3, 2))
    number = log_between(number, 0.03, 0.3)
    return jnp.stack([share * jnp.minimum(most, 0.5 / number), number, 2 * math.pi * phase])


def _look_up(
    cutout: Cutouts, size: tuple[int, int], pose: Poses
) -> list[Float[Array, "height width"]]:
    """Sample red, green, blue and coverage of a layer at every pixel of one frame."""
    height, width = size
    x = jnp.arange(width, dtype=jnp.float32)[None, :] - (width - 1) / 2 - pose.position[0]
    y = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2 - pose.position[1]
    shrink = jnp.exp(-pose.log_scale)
    cos, sin = shrink * jnp.cos(pose.angle), shrink * jnp.sin(pose.angle)
    u, v = cos * x + sin * y, cos * y - sin * x
    amplitude, number, phase = pose.wave
    u, v = (
        u + amplitude[0] * jnp.sin(number[0] * v + phase[0]),
        v + amplitude[1] * jnp.sin(number[1] * u + phase[1]),
    )
    return textures.sample(cutout.texels, u, v, mirror=cutout.is_background)
