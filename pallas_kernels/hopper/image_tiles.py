# SPDX-License-Identifier: Apache-2.0
"""Tiles of an image, of which each thread of a warpgroup computes one pixel."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Int32

from pallas_kernels.hopper.primitives import Scalar, divide
from pallas_kernels.hopper.rows import per_thread

__all__ = ["TILE", "ImageTiles", "Place"]

_plgpu: Any = plgpu

TILE = 128
"""Pixels of a tile, one for each thread of a warpgroup."""

_ROWS, _COLUMNS = 4, 32


class Place(NamedTuple):
    """Number of each pixel of a tile in its image, counted row by row, and its row and column."""

    pixel: Int32[Array, " tile"]
    row: Int32[Array, " tile"]
    column: Int32[Array, " tile"]


@dataclasses.dataclass(frozen=True)
class ImageTiles:
    """Division of an image into tiles of 4 × 32 pixels; a warp has consecutive pixels of a row.

    The pixels of such a tile look up pixels of fewer rows than as many pixels of one row would,
    where displacements change along the row. More of the look-ups are then in the L1 cache.

    Tiles at the right and lower border are moved back into the image. They compute some pixels a
    second time, with the same result, and need no bounds checks.

    Attributes:
        height: height of the image.
        width: width of the image.
    """

    height: int
    width: int

    @property
    def in_order(self) -> bool:
        """True if tiles are consecutive pixels, because the image has no room for others."""
        return self.height < _ROWS or self.width < _COLUMNS

    @property
    def pixels(self) -> int:
        """Pixels of the image; at least those of a tile, so that an array may need padding."""
        return max(self.height * self.width, TILE)

    @property
    def count(self) -> int:
        """Number of tiles."""
        if self.in_order:
            return pl.cdiv(self.pixels, TILE)
        return pl.cdiv(self.height, _ROWS) * pl.cdiv(self.width, _COLUMNS)

    def at(self, number: Scalar) -> Place:
        """The pixels of a tile, in the layout of :func:`rows.per_thread`."""
        numbers = _thread_numbers()
        if self.in_order:
            pixel = jnp.minimum(number * TILE, self.pixels - TILE) + numbers
            return Place(pixel, *divide(pixel, self.width))
        tile_row, tile_column = divide(number, pl.cdiv(self.width, _COLUMNS))
        row, column = divide(numbers, _COLUMNS)
        row += jnp.minimum(tile_row * _ROWS, self.height - _ROWS)
        column += jnp.minimum(tile_column * _COLUMNS, self.width - _COLUMNS)
        return Place(row * self.width + column, row, column)


def _thread_numbers() -> Int32[Array, " tile"]:
    return _plgpu.broadcasted_iota(jnp.int32, (TILE,), 0, layout=per_thread(TILE))
