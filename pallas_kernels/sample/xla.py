# SPDX-License-Identifier: Apache-2.0
"""Bilinear look-up in two forms: one for GPUs, where indices are costly, and one for CPUs.

On a GPU the cost of XLA's gather depends more on the number of indices than on the bytes. So each
image is first copied to a table whose rows hold a pixel and its right, lower and lower right
neighbours, and every look-up is one row.

On a CPU, XLA writes gathered rows to memory before it uses them, but fuses a gather of single
numbers with the arithmetic around it. So all four neighbours are gathered number by number,
interpolated and mixed in one loop over the pixels. Each channel is an image of its own (a plane),
with such a loop: a loop over interleaved channels cannot use vector instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from pallas_kernels.core import device

__all__ = ["interleaved", "look_up", "sample"]


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
    """Four gathers per pixel and channel, in one loop for each channel."""
    *_, sources, height, width, _ = displacements.shape
    columns, rows = jnp.arange(width), jnp.arange(height)[:, None]
    planes = []
    for channel in range(images.shape[-1]):
        # Sources are a loop here, because XLA does not fuse a gather with a sum over an axis.
        total = jnp.zeros((), images.dtype)
        for source in range(sources):
            moved = displacements[:, :, source]
            at = columns + moved[..., 0], rows + moved[..., 1]
            total = total + look_up(images[:, source, ..., channel], *at) * weights[:, :, source]
        planes.append(total)
    return interleaved(planes)


def look_up(
    planes: Float[Array, "batch image_height image_width"],
    x: Float[Array, "batch output height width"],
    y: Float[Array, "batch output height width"],
) -> Float[Array, "batch output height width"]:
    """One channel of each image at the positions (x, y), which are clamped to the image."""
    batch, height, width = planes.shape
    across, down = _axis(x, width), _axis(y, height)
    image = jnp.arange(batch).reshape(batch, 1, 1, 1)
    upper = (image * height + down.first) * width + across.first
    # At the lower and right border, the second neighbour has no share: take the first.
    lower = upper + jnp.where(down.first < height - 1, width, 0)
    step = jnp.where(across.first < width - 1, 1, 0)
    # In memory of its own: otherwise XLA computes it from what it is made of in every loop.
    numbers = lax.optimization_barrier(planes.reshape(-1))
    top, bottom = (_between(numbers, row, step, across.share) for row in (upper, lower))
    return top * (1 - down.share) + bottom * down.share


def interleaved(
    planes: Sequence[Float[Array, "*image"]],
) -> Float[Array, "*image channel"]:
    """Planes as the channels of one image."""
    # Without a barrier XLA would compute the planes in a loop over the interleaved channels.
    return jnp.stack(lax.optimization_barrier(tuple(planes)), axis=-1)


def _between(
    numbers: Float[Array, " values"],
    place: Int[Array, "*image"],
    step: Int[Array, "*image"],
    share: Float[Array, "*image"],
) -> Float[Array, "*image"]:
    """Values between two neighbours in a row; all indices are valid, so none is compared."""
    left, right = (numbers.at[each].get(mode="promise_in_bounds") for each in (place, place + step))
    return left * (1 - share) + right * share


def _axis(positions: Float[Array, "*image"], length: int) -> _Axis:
    """Neighbours and shares along one axis, clamped to its length."""
    # Clamp first: neighbours and shares are then those of the clamped position.
    within = jnp.clip(positions, 0, length - 1)
    # floor has gradient 0; displacements get theirs through the shares.
    first = lax.stop_gradient(jnp.floor(within))
    return _Axis(first.astype(jnp.int32), within - first)


def _positions(
    displacements: Float[Array, "*images height width 2"], image_height: int, image_width: int
) -> tuple[_Axis, _Axis]:
    """Columns and rows at which to look up, clamped to the image."""
    height, width = displacements.shape[-3:-1]
    x, y = (displacements[..., n] for n in (0, 1))
    return (
        _axis(jnp.arange(width) + x, image_width),
        _axis(jnp.arange(height)[:, None] + y, image_height),
    )


def _neighbours(
    images: Float[Array, "batch source height width channel"],
) -> Float[Array, "pixels four_neighbours"]:
    """Table of each pixel with its right, lower and lower right neighbours; edges are repeated."""
    *_, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    four = [padded[:, :, y : y + height, x : x + width] for y in (0, 1) for x in (0, 1)]
    return jnp.stack(four, axis=-2).reshape(-1, 4 * channels)
