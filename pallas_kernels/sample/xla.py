# SPDX-License-Identifier: Apache-2.0
"""Bilinear look-up with one gather per pixel: the four neighbours lie side by side in memory.

The cost of XLA's gather depends more on the number of indices than on the bytes, on CPUs and GPUs.
So each image is first copied to a table whose rows hold a pixel and its right, lower and lower
right neighbours.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

__all__ = ["sample"]


def sample(
    images: Float[Array, "batch source image_height image_width channel"],
    displacements: Float[Array, "batch output source height width 2"],
    weights: Float[Array, "batch output source height width"],
) -> Float[Array, "batch output height width channel"]:
    """See :func:`pallas_kernels.sample`."""
    batch, sources, image_height, image_width, channels = images.shape
    _, outputs, _, height, width, _ = displacements.shape
    # Clamp first: neighbours and fractions are then those of the clamped position.
    x = jnp.clip(jnp.arange(width) + displacements[..., 0], 0, image_width - 1)
    y = jnp.clip(jnp.arange(height)[:, None] + displacements[..., 1], 0, image_height - 1)
    # floor has gradient 0; displacements get theirs through the fractions x - left and y - top.
    left, top = lax.stop_gradient(jnp.floor(x)), lax.stop_gradient(jnp.floor(y))
    # One table for all images of the batch; its rows are ordered by image, row and column.
    image = jnp.arange(batch * sources).reshape(batch, 1, sources, 1, 1)
    number = (image * image_height + top.astype(jnp.int32)) * image_width + left.astype(jnp.int32)
    found = _neighbours(images)[number.reshape(-1)]
    found = found.reshape(*number.shape, 2, 2, channels)
    across, down = (x - left)[..., None, None], (y - top)[..., None]
    rows = found[..., 0, :] * (1 - across) + found[..., 1, :] * across
    pixels = rows[..., 0, :] * (1 - down) + rows[..., 1, :] * down
    # Mix the sources; each has its own weight at every pixel.
    mixed = (pixels * weights[..., None]).sum(axis=2)
    return mixed.reshape(batch, outputs, height, width, channels)


def _neighbours(
    images: Float[Array, "batch source height width channel"],
) -> Float[Array, "pixels four_neighbours"]:
    """Table of each pixel with its right, lower and lower right neighbours; edges are repeated."""
    *_, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    four = [padded[:, :, y : y + height, x : x + width] for y in (0, 1) for x in (0, 1)]
    return jnp.stack(four, axis=-2).reshape(-1, 4 * channels)
