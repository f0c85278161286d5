# SPDX-License-Identifier: Apache-2.0
"""Bilinear look-up in two forms: one for GPUs, where indices are costly, and one for CPUs.

On a GPU the cost of XLA's gather depends more on the number of indices than on the bytes. So each
image is first copied to a table whose rows hold a pixel and its right, lower and lower right
neighbours, and every look-up is one row.

On a CPU, XLA writes gathered rows to memory before it uses them, but fuses a gather of single
numbers with the arithmetic around it. So all four neighbours are gathered number by number,
interpolated and mixed in one loop over the pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from pallas_kernels.core import device

__all__ = ["sample"]


class _Axis(NamedTuple):
    """Positions along one axis: index of the first neighbour, and share of the second."""

    first: Int[Array, "*image"]
    share: Float[Array, "*image"]


def sample(
    images: Float[Array, "batch source image_height image_width channel"],
    displacements: Float[Array, "batch output source height width 2"],
    weights: Float[Array, "batch output source height width"],
) -> Float[Array, "batch output height width channel"]:
    """See :func:`pallas_kernels.sample`."""
    form = _from_numbers if device.is_cpu() else _from_table
    return form(images, displacements, weights)


def _from_table(
    images: Float[Array, "batch source image_height image_width channel"],
    displacements: Float[Array, "batch output source height width 2"],
    weights: Float[Array, "batch output source height width"],
) -> Float[Array, "batch output height width channel"]:
    """One gather per pixel: its four neighbours lie side by side in memory."""
    batch, sources, height, width, channels = images.shape
    across, down = _positions(displacements, height, width)
    # One table for all images of the batch; its rows are ordered by image, row and column.
    image = jnp.arange(batch * sources).reshape(batch, 1, sources, 1, 1)
    number = (image * height + down.first) * width + across.first
    found = _neighbours(images)[number.reshape(-1)]
    found = found.reshape(*number.shape, 2, 2, channels)
    share = across.share[..., None, None]
    rows = found[..., 0, :] * (1 - share) + found[..., 1, :] * share
    share = down.share[..., None]
    pixels = rows[..., 0, :] * (1 - share) + rows[..., 1, :] * share
    # Mix the sources; each has its own weight at every pixel.
    return (pixels * weights[..., None]).sum(axis=2)


def _from_numbers(
    images: Float[Array, "batch source image_height image_width channel"],
    displacements: Float[Array, "batch output source height width 2"],
    weights: Float[Array, "batch output source height width"],
) -> Float[Array, "batch output height width channel"]:
    """Four gathers per pixel and channel, in one loop with everything else."""
    batch, sources, height, width, channels = images.shape
    # Copying each channel to a plane of its own would take longer, and spread a pixel over memory.
    numbers = images.reshape(-1)
    totals = [jnp.zeros((), images.dtype)] * channels
    # Sources are a loop here, not an axis, because XLA does not fuse a gather with a sum over it.
    for source in range(sources):
        across, down = _positions(displacements[:, :, source], height, width)
        image = (jnp.arange(batch) * sources + source).reshape(batch, 1, 1, 1)
        upper = ((image * height + down.first) * width + across.first) * channels
        lower = upper + jnp.where(down.first < height - 1, width * channels, 0)
        step = jnp.where(across.first < width - 1, channels, 0)
        for channel in range(channels):
            top, bottom = (
                _between(numbers, row + channel, step, across.share) for row in (upper, lower)
            )
            pixels = top * (1 - down.share) + bottom * down.share
            totals[channel] = totals[channel] + pixels * weights[:, :, source]
    return jnp.stack(totals, axis=-1)


def _between(
    numbers: Float[Array, " values"],
    place: Int[Array, "*image"],
    step: Int[Array, "*image"],
    share: Float[Array, "*image"],
) -> Float[Array, "*image"]:
    """Values between two neighbours in a row; all indices are valid, so none is compared."""
    left, right = (numbers.at[each].get(mode="promise_in_bounds") for each in (place, place + step))
    return left * (1 - share) + right * share


def _positions(
    displacements: Float[Array, "*images height width 2"], image_height: int, image_width: int
) -> tuple[_Axis, _Axis]:
    """Columns and rows at which to look up, clamped to the image."""
    # Clamp first: neighbours and shares are then those of the clamped position.
    height, width = displacements.shape[-3:-1]
    x = jnp.clip(jnp.arange(width) + displacements[..., 0], 0, image_width - 1)
    y = jnp.clip(jnp.arange(height)[:, None] + displacements[..., 1], 0, image_height - 1)
    # floor has gradient 0; displacements get theirs through the shares.
    left, top = lax.stop_gradient(jnp.floor(x)), lax.stop_gradient(jnp.floor(y))
    return _Axis(left.astype(jnp.int32), x - left), _Axis(top.astype(jnp.int32), y - top)


def _neighbours(
    images: Float[Array, "batch source height width channel"],
) -> Float[Array, "pixels four_neighbours"]:
    """Table of each pixel with its right, lower and lower right neighbours; edges are repeated."""
    *_, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    four = [padded[:, :, y : y + height, x : x + width] for y in (0, 1) for x in (0, 1)]
    return jnp.stack(four, axis=-2).reshape(-1, 4 * channels)
