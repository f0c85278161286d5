# SPDX-License-Identifier: Apache-2.0
"""Compile-time parameters of the three launches that compute a gate."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax.experimental import pallas as pl

__all__ = ["TILE_M", "GateProblem", "RowSum"]

TILE_M = 64
"""Rows of a tile: those of a matrix in the register layout of one warpgroup."""

_MAX_TILES = 8
"""Most tiles that one thread block sums: all are in shared memory at the same time."""


@dataclasses.dataclass(frozen=True)
class RowSum:
    """A sum over ``rows`` rows of channels, split among thread blocks."""

    rows: int

    @property
    def blocks(self) -> int:
        """Number of thread blocks that share the rows; each computes one partial sum."""
        return pl.cdiv(pl.cdiv(self.rows, TILE_M), _MAX_TILES)

    @property
    def tiles(self) -> int:
        """Number of tiles of rows per block."""
        return pl.cdiv(pl.cdiv(self.rows, TILE_M), self.blocks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateProblem:
    """Compile-time parameters of the three kernels.

    Attributes:
        batch: number of samples.
        time: frames per sample.
        height: height of the input.
        width: width of the input.
        partials: number of partial sums in a frame's totals, the maximum over the inputs.
        in_channels: channels of each input.
        channels: channels of the output.
        kernel: taps in time, height and width.
        phases: 1, or 2 for a transposed convolution.
        in_dtype: dtype of the inputs.
        dtype: dtype of the weights.
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
        """The sums of a frame: over its totals, over a border row, over a border column."""
        return RowSum(self.partials), RowSum(self.width), RowSum(self.height)

    @property
    def sum_ranges(self) -> tuple[range, ...]:
        """Indices of the partial sums of the total, two rows, two columns and four corners."""
        # This order is shared with `sums.py` and with `_tap_sums` of the second kernel.
        total, row, column = (row_sum.blocks for row_sum in self.row_sums)
        sizes = (total, row, row, column, column, 1, 1, 1, 1)
        # Opposite borders have the same number of partial sums.
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return tuple(range(end - size, end) for end, size in zip(ends, sizes))

    @property
    def sum_n(self) -> int:
        """Channels per block: at most 32, the floats of a swizzled row of 128 bytes."""
        return min(32, *(size & -size for size in self.in_channels))

    @property
    def k_tiles(self) -> tuple[int, ...]:
        """Number of tiles of 64 channels in each input; the last one is padded."""
        return tuple(pl.cdiv(size, TILE_M) for size in self.in_channels)

    @property
    def tile_n(self) -> int:
        """Output channels per block; few, so that there are enough blocks for all SMs."""
        return min(32, self.channels & -self.channels)
