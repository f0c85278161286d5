# SPDX-License-Identifier: Apache-2.0
"""Cartoon textures: regions of flat colours with dark outlines.

Photographs have texture everywhere that tells where a pixel went. In a drawing only outlines do,
and whole areas look alike.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

__all__ = ["paint"]

_COLOURS = 6


def paint(
    key: Key[Array, ""],
    fields: Float[Array, "2 size size"],
    outline: Float[Array, ""],
) -> tuple[Float[Array, "size size 3"], Float[Array, "3"]]:
    """Paint the regions between the contour lines of two smooth fields.

    Args:
        key: random key of colours and contours.
        fields: smooth noise of unit variance.
        outline: width of outlines in texels; half of the textures have none inside an object.

    Returns:
        Colours in [0, 1], and the colour of the ink.
    """
    u = jax.random.uniform(key, (3 * _COLOURS + 7,))
    palette, ink = 0.1 + 0.9 * u[7:].reshape(_COLOURS, 3), 0.2 * u[:3]
    is_outlined, density = u[3] < 0.5, 0.3 + 0.7 * u[4]
    heights = density * fields + u[5:7, None, None]
    band = jnp.floor(heights).astype(jnp.int32)
    # A step across a contour of either field changes the colour, by 1 or by 3 of 6.
    colours = palette[(band[0] + 3 * band[1]) % _COLOURS]
    # Distance to the nearest contour line in texels, to first order: height over slope.
    slope = jnp.hypot(*jnp.gradient(heights, axis=(1, 2)))
    distance = (jnp.abs(heights - jnp.round(heights)) / (slope + 1e-6)).min(axis=0)
    inked = is_outlined * jnp.clip(0.5 * outline + 0.5 - distance, 0.0, 1.0)
    return colours + inked[..., None] * (ink - colours), ink
