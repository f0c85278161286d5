# SPDX-License-Identifier: Apache-2.0
"""Compile-time parameters of a launch of the weight gradient's kernel."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.core import device
from pallas_kernels.hopper.shared_memory import TileRing

__all__ = ["CHANNELS", "MAX_FRAMES", "TILE_H", "TILE_W", "WeightProblem"]

CHANNELS = 64
"""Channels of a tile: the widest swizzle of 16-bit values, and the rows of a WGMMA."""

MAX_FRAMES = 4
"""Most frames of a clip. Tiles span the clip; with more frames, fewer than 3 stages would fit."""

TILE_H, TILE_W = 8, 8
_MAX_STAGES = 4
_MAX_CONSUMERS = 3  # with one vertical tap each
_FIXED_STEPS = 3  # fixed cost of a block, in steps: the first copies, and storing the sums
_RESERVED = 4096  # bytes of shared memory for barriers


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightProblem:
    """Compile-time parameters of a launch.

    Attributes:
        kernel: taps in time, height and width.
        low: zero padding before the first frame, above the first row and left of the first column.
        row_stride: stride in height, 1 or 2; in width it is 1.
        batch: number of samples.
        time: frames of the input.
        out_time: frames of the gradient.
        height: height of the gradient.
        width: width of the gradient.
        depth: channels of the input.
        channels: channels of the gradient.
        dtype: dtype of input and gradient.
        sm_count: number of SMs of the GPU.
        interpret: whether the interpreter runs the kernel.
    """

    kernel: tuple[int, int, int]
    low: tuple[int, int, int]
    row_stride: int
    batch: int
    time: int
    out_time: int
    height: int
    width: int
    depth: int
    channels: int
    dtype: jnp.dtype
    sm_count: int
    interpret: bool

    @property
    def name(self) -> str:
        """Name in a profiler's trace."""
        return (
            f"weights_{'x'.join(map(str, self.kernel))}_stride{self.row_stride}"
            f"_{self.depth}_to_{self.channels}_at_{self.height}x{self.width}"
        )

    @property
    def row_taps(self) -> int:
        """Vertical taps of each consumer: one, if not more than three read the same halo tile."""
        taps = self.kernel[1] // self.row_stride
        return 1 if taps <= _MAX_CONSUMERS else pl.cdiv(taps, 2)

    @property
    def consumers(self) -> int:
        """Number of consumers; the last may have vertical taps that do not exist."""
        return pl.cdiv(self.kernel[1] // self.row_stride, self.row_taps)

    @property
    def sums(self) -> int:
        """Sums of 64 × 64 channels of each consumer."""
        return self.row_taps * self.kernel[0]

    @property
    def output_tiles(self) -> tuple[int, int, int]:
        """Number of tiles of the result along input channels, gradient channels and halo tiles."""
        # At a row stride of 2, even and odd vertical taps read different rows.
        halo_tiles = self.kernel[2] * self.row_stride
        return self.depth // CHANNELS, self.channels // CHANNELS, halo_tiles

    @property
    def pixel_tiles(self) -> tuple[int, int, int]:
        """Number of pixel tiles along samples, rows and columns."""
        return self.batch, pl.cdiv(self.height, TILE_H), pl.cdiv(self.width, TILE_W)

    @property
    def split_k(self) -> int:
        """Number of blocks that share the pixels of an output tile, chosen by estimated time."""
        # More splits fill the SMs, but each block pays its first copies and its stores.
        outputs, pixels = math.prod(self.output_tiles), math.prod(self.pixel_tiles)

        def cost(splits: int) -> int:
            rounds = pl.cdiv(outputs * splits, self.sm_count)
            return rounds * (pl.cdiv(pixels, splits) + _FIXED_STEPS)

        # `min` returns the first of equals, the fewest splits, with the fewest partial sums to add.
        return min(range(1, min(pixels, self.sm_count) + 1), key=cost)

    @property
    def products(self) -> tuple[tuple[int, int, int, int], ...]:
        """Vertical and temporal tap, gradient frame and input frame of each product of one step.

        Vertical taps are counted from the consumer's first.
        """
        low = self.low[0]
        return tuple(
            (row_tap, tap, frame, frame + tap - low)
            for row_tap in range(self.row_taps)
            for tap in range(self.kernel[0])
            for frame in range(self.out_time)
            if 0 <= frame + tap - low < self.time
        )

    @property
    def stages(self) -> int:
        """Number of stages of both rings, limited by shared memory."""
        rows = self.time * self._halo_rows + self.out_time * TILE_H
        size = rows * TILE_W * CHANNELS * self.dtype.itemsize
        return min(_MAX_STAGES, (device.SMEM_BYTES - _RESERVED) // size)

    @property
    def input_ring(self) -> TileRing:
        """Ring of tiles of the input, with the rows that the vertical taps read."""
        return self._ring(self.time, self._halo_rows)

    @property
    def gradient_ring(self) -> TileRing:
        """Ring of tiles of the gradient, without a halo."""
        return self._ring(self.out_time, TILE_H)

    @property
    def _halo_rows(self) -> int:
        # One more for each vertical tap but the first.
        return TILE_H + self.consumers * self.row_taps - 1

    def _ring(self, frames: int, rows: int) -> TileRing:
        return TileRing(
            stages=(self.stages,),
            frames=frames,
            rows=rows,
            columns=TILE_W,
            channels=CHANNELS,
            dtype=self.dtype,
            interpret=self.interpret,
        )
