# SPDX-License-Identifier: Apache-2.0
"""Bilinear interpolation in a kernel: four neighbours of a position for each thread."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float32, Int32, Shaped

from pallas_kernels.hopper.primitives import Ref, Scalar
from pallas_kernels.hopper.rows import read_rows

__all__ = ["Axis", "Neighbours", "Pixel", "Values", "axis_at", "between", "neighbours", "rows_at"]

Values: TypeAlias = Float32[Array, " tile"]
"""A number for each pixel of a tile."""

Pixel: TypeAlias = tuple[Values, ...]
"""The channels of a tile's pixels."""


class Axis(NamedTuple):
    """Positions along one axis: the two neighbours, the second one's share, and the slope.

    The slope is that of the clamped position in the displacement: 1 inside the image, 0 outside.
    """

    first: Int32[Array, " tile"]
    second: Int32[Array, " tile"]
    share: Values
    slope: Values


class Neighbours(NamedTuple):
    """The four pixels around a position."""

    upper_left: Pixel
    upper_right: Pixel
    lower_left: Pixel
    lower_right: Pixel


def axis_at(position: Values, size: int) -> Axis:
    """Neighbours of positions along an axis of ``size`` pixels, clamped to it."""
    last = size - 1
    inside = jnp.maximum(position, 0.0)
    clamped = jnp.minimum(inside, float(last))
    # Truncation rounds down, because positions are not negative. NaN becomes some integer: clamp
    # again, so that no address is outside the image; the share stays NaN.
    first = jnp.minimum(jnp.maximum(clamped.astype(jnp.int32), 0), last)
    share = clamped - first.astype(jnp.float32)
    # At the border itself the slope is 1/2, as that of JAX's minimum and maximum is.
    slope = _half_steps(position > 0.0, position >= 0.0)
    slope *= _half_steps(inside < float(last), inside <= float(last))
    return Axis(first, jnp.minimum(first + 1, last), share, slope)


def _half_steps(strictly: Bool[Array, " tile"], at_least: Bool[Array, " tile"]) -> Values:
    return 0.5 * (jnp.where(strictly, 1.0, 0.0) + jnp.where(at_least, 1.0, 0.0))


def neighbours(
    images: Shaped[Ref, "images_x_pixels columns"],
    first_row: Scalar,
    width: int,
    across: Axis,
    down: Axis,
    *,
    interpret: bool,
) -> Neighbours:
    """Read the four pixels around a position, each with one access.

    Args:
        images: a row for each pixel.
        first_row: number of image rows before the image.
        width: width of the image.
        across: columns.
        down: rows.
        interpret: whether the interpreter runs the kernel.
    """
    pixels = []
    for row in (down.first, down.second):
        start = (first_row + row) * width
        for column in (across.first, across.second):
            pixels.append(read_rows(images, start + column, interpret=interpret))
    return Neighbours(*pixels)


def rows_at(around: Neighbours, share: Values) -> tuple[Pixel, Pixel]:
    """Both rows at the position's column."""
    return (
        between(around.upper_left, around.upper_right, share),
        between(around.lower_left, around.lower_right, share),
    )


def between(first: Pixel, second: Pixel, share: Values) -> Pixel:
    """Linear interpolation, in the form in which a share of 0 or 1 copies finite values exactly."""
    return tuple(a * (1 - share) + b * share for a, b in zip(first, second))
