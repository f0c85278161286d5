# SPDX-License-Identifier: Apache-2.0
"""Random numbers of paths: Owen-scrambled Sobol points, shuffled per pixel and use.

Burley 2020, Practical Hash-based Owen Scrambling: a path's many dimensions are pairs of the
two-dimensional Sobol sequence, each shuffled and scrambled by a seed of its own.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, UInt32

__all__ = ["cone", "cosine", "disc", "pair", "seeds"]

Pair: TypeAlias = tuple[Float[Array, " ray"], Float[Array, " ray"]]

_BITS = 16  # of sample numbers: at most 65,536 samples in a pixel


def seeds(seed: UInt32[Array, ""], pixel: UInt32[Array, " ray"]) -> UInt32[Array, " ray"]:
    """Return a seed for each pixel."""
    return _hash(pixel ^ _hash(seed))


def pair(sample: UInt32[Array, ""], seed: UInt32[Array, " ray"], use: int | Array) -> Pair:
    """Return two random numbers in [0, 1) for each pixel.

    Args:
        sample: number of the sample; the points of samples 0 to N − 1 are well spread.
        seed: seeds of the pixels.
        use: what the numbers are for; different uses are independent.
    """
    # 2³² divided by the golden ratio: multiples of it are far from each other.
    seed = _hash(seed + jnp.uint32(0x9E3779B9) * jnp.asarray(use, jnp.uint32))
    # Owen's scrambling changes each bit by the higher ones, and the hash by the lower ones, hence
    # the reversals.
    shuffled = _reversed(_scramble(_reversed(sample), seed)) & ((1 << _BITS) - 1)
    # The first dimension of Sobol's sequence is the reversed number. The second one sums direction
    # numbers of the polynomial x + 1, each the last one XOR its half.
    first, second = _reversed(shuffled), jnp.zeros_like(shuffled)
    direction = 1 << 31
    for bit in range(_BITS):
        second ^= jnp.where((shuffled >> bit) & 1, jnp.uint32(direction), jnp.uint32(0))
        direction ^= direction >> 1
    points = (
        _reversed(_scramble(_reversed(each), _hash(seed + number)))
        for number, each in ((1, first), (2, second))
    )
    # 24 bits are what a float32 holds exactly: more could round up to 1.
    x, y = ((each >> 8).astype(jnp.float32) * 2.0**-24 for each in points)
    return x, y


def disc(uniform: Pair) -> Pair:
    """Map uniform numbers to the unit disc, uniformly."""
    radius, angle = jnp.sqrt(uniform[0]), 2 * math.pi * uniform[1]
    return radius * jnp.cos(angle), radius * jnp.sin(angle)


def cosine(uniform: Pair) -> Float[Array, "3 ray"]:
    """Map uniform numbers to directions about z with density cos θ / π."""
    # Malley's method: the directions above uniform points of the disc.
    x, y = disc(uniform)
    return jnp.stack([x, y, jnp.sqrt(jnp.maximum(1.0 - uniform[0], 0.0))])


def cone(uniform: Pair, height: Float[Array, " ray"]) -> Float[Array, "3 ray"]:
    """Map uniform numbers to directions in a cone about z, uniformly.

    Args:
        uniform: numbers in [0, 1).
        height: 1 − cosine of the cone's half angle, which keeps its precision for small angles.
    """
    drop = uniform[0] * height
    # The sine: 1 − (1 − drop)², without its loss of precision.
    level = jnp.sqrt(jnp.maximum(drop * (2.0 - drop), 0.0))
    angle = 2 * math.pi * uniform[1]
    return jnp.stack([level * jnp.cos(angle), level * jnp.sin(angle), 1.0 - drop])


def _scramble(x: UInt32[Array, "..."], seed: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Scramble bits, each by the lower ones (Laine and Karras 2011, constants of Burley 2020)."""
    x = x + seed
    x = x ^ (x * jnp.uint32(0x6C50B47C))
    x = x ^ (x * jnp.uint32(0xB82F1E52))
    x = x ^ (x * jnp.uint32(0xC7AFE638))
    return x ^ (x * jnp.uint32(0x8D22F6E6))


def _reversed(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Reverse the order of bits."""
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        x = ((x >> shift) & jnp.uint32(mask)) | ((x & jnp.uint32(mask)) << shift)
    return (x >> 16) | (x << 16)


def _hash(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Mix the bits of integers: lowbias32 of https://nullprogram.com/blog/2018/07/31/."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
