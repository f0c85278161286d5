# SPDX-License-Identifier: Apache-2.0
"""Textures at several resolutions (mipmaps), for surfaces seen in perspective.

A texture far away has several texels in a pixel, and looking up one of them would flicker. Williams
1983 (Pyramidal Parametrics) averages them beforehand, to half, a quarter … of the resolution.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt32

from flavr_jax.data.synthetic import textures

__all__ = ["N_LEVELS", "build", "sample"]

N_LEVELS = 6
"""Number of resolutions; the first has two texels for each texel of the original texture."""


def build(colour: Float[Array, "size size 3"]) -> UInt32[Array, " words"]:
    """Pack a texture at all resolutions, the finest first.

    Args:
        colour: colours in [0, 1]; ``size`` is a power of two, at least 2 ** (N_LEVELS - 1).
    """
    levels = [textures.pack(colour, jnp.ones(colour.shape[:2])).reshape(-1)]
    for _ in range(1, N_LEVELS):
        codes = (colour * 255.0 + 0.5).astype(jnp.uint32)
        levels.append((codes[..., 0] | codes[..., 1] << 8 | codes[..., 2] << 16).reshape(-1))
        half = colour.shape[0] // 2
        colour = colour.reshape(half, 2, half, 2, 3).mean(axis=(1, 3))
    return jnp.concatenate(levels)


def sample(
    words: UInt32[Array, "textures words"],
    size: int,
    texture: Int[Array, "..."],
    level: Int[Array, "..."],
    u: Float[Array, "..."],
    v: Float[Array, "..."],
) -> tuple[Float[Array, "..."], ...]:
    """Sample one resolution of one of several textures bilinearly; beyond borders it is mirrored.

    Args:
        words: textures from :func:`build`.
        size: side of the original textures in texels.
        texture: which texture.
        level: which resolution, from 0 to N_LEVELS - 1.
        u: horizontal position in texels of the original texture.
        v: vertical position.

    Returns:
        Red, green and blue in [0, 1].
    """
    side = (2 * size) >> level
    scale = jnp.ldexp(2.0, -level)
    # The sizes of the finer levels are a geometric series: 4 size² (1 + 1/4 + 1/16 + …).
    start = (16 * size * size - 4 * side * side) // 3 + texture * words.shape[1]
    u, v = scale * u - 0.5, scale * v - 0.5
    left, top = jnp.floor(u), jnp.floor(v)
    to_right, to_bottom = u - left, v - top
    column, row = left.astype(jnp.int32), top.astype(jnp.int32)
    flat = words.reshape(-1)
    corners = [
        [
            flat[start + _mirrored(row + i, side) * side + _mirrored(column + j, side)]
            for j in (0, 1)
        ]
        for i in (0, 1)
    ]

    def channel(shift: int) -> Float[Array, "..."]:
        (a, b), (c, d) = (
            [((word >> shift) & 255).astype(jnp.float32) for word in pair] for pair in corners
        )
        upper, lower = a + to_right * (b - a), c + to_right * (d - c)
        return (upper + to_bottom * (lower - upper)) / 255.0

    return tuple(channel(shift) for shift in (0, 8, 16))


def _mirrored(index: Int[Array, "..."], side: Int[Array, "..."]) -> Int[Array, "..."]:
    """Fold indices into a texture by mirroring it."""
    wrapped = index & (2 * side - 1)  # a remainder, because sides are powers of two
    return jnp.minimum(wrapped, 2 * side - 1 - wrapped)
