# SPDX-License-Identifier: Apache-2.0
"""Sharpness of predicted frames relative to the true ones, one value per frame.

PSNR prefers a blurred guess to a sharp one in the wrong place. A video then looks sharp in original
frames and soft in made ones: it pulses at the original frame rate.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from flavr_jax.metrics.error import levels

__all__ = ["laplacian_energy", "laplacian_ratio"]

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def laplacian_energy(
    frames: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    """Return the mean square of the Laplacian of the luminance, in levels of 255.

    The Laplacian is the sum of the four neighbours minus four times the pixel, inside the frame.
    Frames are clamped and rounded to 8 bits, as in a file.
    """
    grey = levels(frames) @ jnp.asarray(_LUMINANCE)
    across = grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    down = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1]
    return jnp.square(across + down - 4.0 * grey[..., 1:-1, 1:-1]).mean(axis=(-2, -1))


def laplacian_ratio(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    """Return the Laplacian energy relative to the target's: 1 is as sharp, less is softer.

    The ratio is 1 if neither has any detail.
    """
    floor = 1e-6  # far below the energy of a single level in a single pixel of a large frame
    return (laplacian_energy(prediction) + floor) / (laplacian_energy(target) + floor)
