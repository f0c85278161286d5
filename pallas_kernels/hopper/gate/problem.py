# SPDX-License-Identifier: Apache-2.0
"""The launches that compute a gate: everything that is known when they are compiled."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax.experimental import pallas as pl

__all__ = ["TILE_M", "GateProblem", "RowSum"]

TILE_M = 64
"""Rows of a tile: those of the register layout that one warpgroup holds a matrix in."""

_MAX_TILES = 8
"""Tiles that a thread block adds up: what fits shared memory, and can be in flight at once."""


@dataclasses.dataclass(frozen=True)
class RowSum:
    """A sum over ``rows`` rows of channels, split over thread blocks."""

    rows: int

    @property
    def blocks(self) -> int:
        """Thread blocks that the rows are split over, each with a partial sum of its own."""
        return pl.cdiv(pl.cdiv(self.rows, TILE_M), _MAX_TILES)

    @property
    def tiles(self) -> int:
        """Tiles of rows in each block."""
        return pl.cdiv(pl.cdiv(self.rows, TILE_M), self.blocks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateProblem:
    """Everything that is known when the kernels are compiled.

    Attributes:
        batch: samples.
        time: frames of a sample.
        height: of the input.
        width: of the input.
        partials: partial sums in a frame's totals, the most of any input.
        in_channels: of each input.
        channels: of the output.
        kernel: taps in time, height and width.
        phases: 1, or 2 for a transposed convolution.
        in_dtype: of the inputs.
        dtype: of the weights.
        interpret: whether the interpreter runs the kernels.
    """

    batch: int
    time: int
    height: int
    width: int
    partials: int
    in_channels: tuple[int, ...]
    channels: int
    kernel: tuple[int, int, int]
    phases: int
    in_dtype: jnp.dtype
    dtype: jnp.dtype
    interpret: bool

    @property
    def row_sums(self) -> tuple[RowSum, RowSum, RowSum]:
        """The sums of a frame: of its totals, of a border row, of a border column."""
        return RowSum(self.partials), RowSum(self.width), RowSum(self.height)

    @property
    def sum_ranges(self) -> tuple[range, ...]:
        """Indices of the partial sums of the total, two rows, two columns and four corners."""
        # In the order in which `sums.py` and the second kernel go through them.
        total, row, column = (row_sum.blocks for row_sum in self.row_sums)
        sizes = (total, row, row, column, column, 1, 1, 1, 1)
        # A border row or column and its opposite have as many partial sums.
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return tuple(range(end - size, end) for end, size in zip(ends, sizes))

    @property
    def sum_n(self) -> int:
        """Channels that a block adds up: as many float32 as a swizzle of 128 bytes holds."""
        return min(32, *(size & -size for size in self.in_channels))

    @property
    def k_tiles(self) -> tuple[int, ...]:
        """Tiles of 64 channels that each input takes, the last one padded."""
        return tuple(pl.cdiv(size, TILE_M) for size in self.in_channels)

    @property
    def tile_n(self) -> int:
        """Output channels of a block; few, so that there are blocks for all SMs."""
        return min(32, self.channels & -self.channels)
