# SPDX-License-Identifier: Apache-2.0
"""Peak signal-to-noise ratio in dB, of each frame on its own.

Average the values of frames, not their errors: papers do, and the mean of logs is not the log of
the mean. Two conventions are in use; name the one a table shows.
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
    """As FLAVR's code measures it: −10·log₁₀(mse + 1e-8), of frames that are not even clamped."""
    return -10.0 * jnp.log10(_mean_square_error(prediction, target) + 1e-8)


def psnr_uint8(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    """As seen in a file: of frames clamped to [0, 1] and rounded to 8 bits; inf when equal."""
    rounded = (jnp.round(255.0 * jnp.clip(frames, 0.0, 1.0)) for frames in (prediction, target))
    return 20.0 * jnp.log10(255.0) - 10.0 * jnp.log10(_mean_square_error(*rounded))


def _mean_square_error(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    difference = prediction - target
    return (difference * difference).mean(axis=(-3, -2, -1))
