# SPDX-License-Identifier: Apache-2.0
"""Cubic interpolation as bilinear look-ups of an image and of its second differences.

Bilinear interpolation blurs, most of all half-way between pixels. Along one axis, the cubic
interpolation of Catmull and Rom is

    cubic(x) = linear(x) − f (1 − f) / 2 · linear of the second differences(x)

where f is the distance from the pixel before x. Along two axes, the corrections of both are added.
Their product is left out, so that a look-up reads 12 pixels instead of 16.

Source: Keys 1981, Cubic convolution interpolation for digital image processing, with a = −1/2.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

__all__ = ["second_differences", "sources", "weight"]


def sources(
    images: Float[Array, "batch source image_height image_width channel"],
    displacements: Float[Array, "batch output source height width 2"],
    weights: Float[Array, "batch output source height width"],
) -> tuple[
    Float[Array, "batch _source image_height image_width channel"],
    Float[Array, "batch output _source height width 2"],
    Float[Array, "batch output _source height width"],
]:
    """Arguments of :func:`pallas_kernels.sample` for cubic look-ups with these arguments."""
    height, width = images.shape[2:4]
    rows, columns = jnp.arange(weights.shape[3])[:, None], jnp.arange(weights.shape[4])
    across = weight(columns + displacements[..., 0], width)
    down = weight(rows + displacements[..., 1], height)
    every = images, second_differences(images, 3), second_differences(images, 2)
    return (
        jnp.concatenate(every, axis=1),
        jnp.concatenate([displacements] * 3, axis=2),
        jnp.concatenate([weights, weights * across, weights * down], axis=2),
    )


def second_differences(images: Float[Array, "*image"], axis: int) -> Float[Array, "*image"]:
    """The pixel before, minus twice each pixel, plus the one after; edges are repeated."""
    ends = [(int(each == axis),) * 2 for each in range(images.ndim)]
    beyond, length = jnp.pad(images, ends, mode="edge"), images.shape[axis]
    before, after = (lax.slice_in_dim(beyond, n, n + length, axis=axis) for n in (0, 2))
    return before - 2 * images + after


def weight(positions: Float[Array, "*image"], length: int) -> Float[Array, "*image"]:
    """Weight of the second differences along one axis, at positions that are clamped to it."""
    within = jnp.clip(positions, 0, length - 1)
    share = within - lax.stop_gradient(jnp.floor(within))
    return -0.5 * share * (1 - share)
