# SPDX-License-Identifier: Apache-2.0
"""Peak signal-to-noise ratio in dB, one value per frame.

Papers average the PSNR of frames, not their squared errors; the two differ, because a mean of
logarithms is not the logarithm of the mean. Two conventions are in use, so a table has to name the
one that it shows.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

__all__ = ["psnr_flavr", "psnr_uint8"]


def psnr_flavr(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    """Return −10·log₁₀(MSE + 1e-8) of frames that are not clamped, as in FLAVR's code."""
    return -10.0 * jnp.log10(_mean_square_error(prediction, target) + 1e-8)


def psnr_uint8(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    """Return the PSNR of frames clamped and rounded to 8 bits, as in a file; infinite if equal."""
    rounded = (jnp.round(255.0 * jnp.clip(frames, 0.0, 1.0)) for frames in (prediction, target))
    return 20.0 * jnp.log10(255.0) - 10.0 * jnp.log10(_mean_square_error(*rounded))


def _mean_square_error(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    difference = prediction - target
    return (difference * difference).mean(axis=(-3, -2, -1))
