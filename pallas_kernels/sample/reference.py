# SPDX-License-Identifier: Apache-2.0
"""The definition of :func:`pallas_kernels.sample`: four look-ups per pixel."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

__all__ = ["sample"]


def sample(
    images: Float[Array, "batch source image_height image_width channel"],
    displacements: Float[Array, "batch output source height width 2"],
    weights: Float[Array, "batch output source height width"],
) -> Float[Array, "batch output height width channel"]:
    """See :func:`pallas_kernels.sample`."""
    batch, sources, image_height, image_width, _ = images.shape
    height, width = displacements.shape[3:5]
    x = jnp.clip(jnp.arange(width) + displacements[..., 0], 0, image_width - 1)
    y = jnp.clip(jnp.arange(height)[:, None] + displacements[..., 1], 0, image_height - 1)
    left, top = jnp.floor(x), jnp.floor(y)
    of_sample = jnp.arange(batch)[:, None, None, None, None]
    of_source = jnp.arange(sources)[:, None, None]
    total = jnp.zeros(())
    for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
            # Positions are clamped, so a row or column beyond the image has the weight 0; `minimum`
            # only keeps its index valid.
            rows = jnp.minimum(row, image_height - 1).astype(jnp.int32)
            columns = jnp.minimum(column, image_width - 1).astype(jnp.int32)
            found = images[of_sample, of_source, rows, columns]
            total = total + (down * across * weights)[..., None] * found
    return total.sum(axis=2)
