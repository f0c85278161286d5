# SPDX-License-Identifier: Apache-2.0
"""Interpolation error of colours in levels of 255, one value per frame.

Two metrics have this name. Middlebury's is the root mean square of the colour distance; the tables
of DAIN, RIFE and others show the mean absolute difference. Both use clamped 8-bit frames.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

__all__ = ["error_absolute", "error_rms", "levels"]


def error_rms(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    """Return the root of the mean over pixels of the squared distance of colours.

    References:
        Baker et al. 2011, "A Database and Evaluation Methodology for Optical Flow"
    """
    difference = levels(prediction) - levels(target)
    return jnp.sqrt((difference * difference).sum(axis=-1).mean(axis=(-2, -1)))


def error_absolute(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    """Return the mean absolute difference over pixels and colours."""
    return jnp.abs(levels(prediction) - levels(target)).mean(axis=(-3, -2, -1))


def levels(
    frames: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames height width 3"]:
    """Return colours from 0 to 255, clamped and rounded as in a file."""
    return jnp.round(255.0 * jnp.clip(frames, 0.0, 1.0))
