# SPDX-License-Identifier: Apache-2.0
"""Cubic interpolation in a kernel: what it adds to bilinear interpolation.

The equations are in :mod:`pallas_kernels.sample.cubic`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Int32, Shaped

from pallas_kernels.hopper.primitives import Ref, Scalar
from pallas_kernels.hopper.rows import read_rows
from pallas_kernels.hopper.sample.bilinear import Axis, Neighbours, Pixel, Values, between

__all__ = ["added"]


def added(
    images: Shaped[Ref, "images_x_pixels columns"],
    first_row: Scalar,
    size: tuple[int, int],
    across: Axis,
    down: Axis,
    around: Neighbours,
    *,
    interpret: bool,
) -> Pixel:
    """The weighted second differences at a position.

    Reads 8 more pixels: two beyond the neighbours on each side.

    Args:
        images: a row for each pixel.
        first_row: number of image rows before the image.
        size: height and width of the image.
        across: columns.
        down: rows.
        around: the four neighbours.
        interpret: whether the interpreter runs the kernel.
    """
    height, width = size
    corners = (corner[:3] for corner in around)  # the fourth value only fills the row
    upper_left, upper_right, lower_left, lower_right = corners

    def at(row: Int32[Array, " tile"], column: Int32[Array, " tile"]) -> Pixel:
        return read_rows(images, (first_row + row) * width + column, interpret=interpret)[:3]

    def bend(before: Pixel, first: Pixel, second: Pixel, after: Pixel, share: Values) -> Pixel:
        """Second differences along a line of four pixels, between the two in the middle."""
        return between(
            _differences(before, first, second), _differences(first, second, after), share
        )

    left, right = _beyond(across, width)
    upper = bend(at(down.first, left), upper_left, upper_right, at(down.first, right), across.share)
    lower = bend(
        at(down.second, left), lower_left, lower_right, at(down.second, right), across.share
    )
    above, below = _beyond(down, height)
    first = bend(
        at(above, across.first), upper_left, lower_left, at(below, across.first), down.share
    )
    second = bend(
        at(above, across.second), upper_right, lower_right, at(below, across.second), down.share
    )
    along, athwart = between(upper, lower, down.share), between(first, second, across.share)
    return tuple(_weight(across) * a + _weight(down) * b for a, b in zip(along, athwart))


def _beyond(axis: Axis, size: int) -> tuple[Int32[Array, " tile"], Int32[Array, " tile"]]:
    """The pixels before and after the two neighbours; edges are repeated."""
    return jnp.maximum(axis.first - 1, 0), jnp.minimum(axis.second + 1, size - 1)


def _differences(before: Pixel, pixel: Pixel, after: Pixel) -> Pixel:
    return tuple(a - 2 * b + c for a, b, c in zip(before, pixel, after))


def _weight(axis: Axis) -> Values:
    return -0.5 * axis.share * (1 - axis.share)
