# SPDX-License-Identifier: Apache-2.0
"""Interpolation error: how far colours are off, in levels of 255, of each frame on its own.

Two go by this name. Middlebury's own is the root mean square of the colour distance; the tables of
DAIN, RIFE and others have the mean of absolute differences. Both are of clamped 8-bit frames.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

__all__ = ["error_absolute", "error_rms"]


def error_rms(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    """Baker et al. (2011): the root of the mean over pixels of the squared distance of colours."""
    difference = _levels(prediction) - _levels(target)
    return jnp.sqrt((difference * difference).sum(axis=-1).mean(axis=(-2, -1)))


def error_absolute(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    """The mean absolute difference over pixels and colours."""
    return jnp.abs(_levels(prediction) - _levels(target)).mean(axis=(-3, -2, -1))


def _levels(
    frames: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames height width 3"]:
    return jnp.round(255.0 * jnp.clip(frames, 0.0, 1.0))
