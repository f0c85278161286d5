# SPDX-License-Identifier: Apache-2.0
"""Compile-time parameters of a launch, and the choice of tile sizes from estimated costs."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.core.device import SMEM_BYTES
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.hopper.shared_memory import TileRing

__all__ = ["COLUMNS", "CONSUMERS", "ResidentProblem", "plan"]

CONSUMERS = 2
"""Number of warpgroups that multiply, each in tiles of its own; one more copies the inputs.

While one of them finishes a tile, the other can use the tensor cores.
"""

COLUMNS = 64
"""Columns of a tile: the rows of a WGMMA's operand A are the pixels of one row of the image."""

STORES = 2
"""Blocks of output in shared memory, per consumer: one is computed while one is copied."""

_MAX_STAGES = 3
_MAX_SUMS = 256 * COLUMNS  # of a consumer: 128 of a thread's 232 registers
_RESERVED = 2560  # bytes of shared memory for barriers and alignment
_LEAST_FILLED = 0.7  # share of the columns of tiles that must lie inside the image
# Cycles that a tile takes besides its products, and bytes from L2 per cycle: both estimates.
_TILE_CYCLES, _L2_BANDWIDTH = 500, 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidentProblem:
    """Compile-time parameters of a launch.

    Attributes:
        images: number of images.
        height: height of an output image.
        width: width of an output image.
        in_channels: channels of the input; a multiple of 16.
        channels: channels of the output; a multiple of 16, or of 8 in float32 without a residual.
        taps: height and width of the kernel.
        low: rows and columns of zero padding before the input.
        dtype: dtype of input, kernel and residual: bfloat16 or float16.
        out_dtype: dtype of the output.
        activation: applied last.
        sharing: number of images to which each image of the residual is added; 0 without one.
        interpret: whether the interpreter runs the kernel.
        rows: rows of a tile.
        stages: halo tiles in shared memory, per consumer.
    """

    images: int
    height: int
    width: int
    in_channels: int
    channels: int
    taps: tuple[int, int]
    low: tuple[int, int]
    dtype: jnp.dtype
    out_dtype: jnp.dtype
    activation: Activation
    sharing: int
    interpret: bool
    rows: int = 2
    stages: int = 1

    @property
    def name(self) -> str:
        """Name in a profiler's trace."""
        kernel = "x".join(map(str, (1, *self.taps)))
        size = f"{self.height}x{self.width}"
        return f"conv_{kernel}_resident_{self.in_channels}_to_{self.channels}_at_{size}"

    @property
    def chunk(self) -> int:
        """Input channels per step: at most as many as fit a swizzled row of 128 bytes."""
        return min(self.in_channels & -self.in_channels, 64)

    @property
    def chunks(self) -> int:
        """Steps per tile."""
        return self.in_channels // self.chunk

    @property
    def store_n(self) -> int:
        """Output channels per store: at most as many as fit a swizzled row of 128 bytes."""
        return min(self.channels & -self.channels, 128 // self.out_dtype.itemsize, 64)

    @property
    def groups(self) -> int:
        """Stores per row of a tile."""
        return self.channels // self.store_n

    @property
    def halo_size(self) -> tuple[int, int]:
        """Rows and columns of a halo tile: those of the output, and those that taps read beyond."""
        return self.rows + self.taps[0] - 1, COLUMNS + self.taps[1] - 1

    @property
    def grid(self) -> tuple[int, int, int]:
        """Number of tiles along images, rows and columns."""
        return self.images, pl.cdiv(self.height, self.rows), pl.cdiv(self.width, COLUMNS)

    @property
    def tiles(self) -> int:
        """Number of all tiles."""
        return math.prod(self.grid)

    @property
    def padded_size(self) -> tuple[int, int]:
        """Height and width of the stored output; the interpreter stores whole tiles."""
        if not self.interpret:
            return self.height, self.width
        return self.grid[1] * self.rows, self.grid[2] * COLUMNS

    @property
    def store_ring(self) -> TileRing:
        """Rings of output rows on their way to global memory, one ring per consumer."""
        return self._ring((CONSUMERS, STORES), 1, self.out_dtype)

    @property
    def residual_ring(self) -> TileRing:
        """The residual of each consumer's tile, ``store_n`` channels after the other."""
        return self._ring((CONSUMERS, self.groups), self.rows, self.dtype)

    def _ring(self, stages: tuple[int, int], rows: int, dtype: jnp.dtype) -> TileRing:
        return TileRing(
            stages=stages,
            frames=1,
            rows=rows,
            columns=COLUMNS,
            channels=self.store_n,
            dtype=dtype,
            interpret=self.interpret,
        )

    @property
    def halo_bytes(self) -> int:
        """Bytes of a halo tile."""
        return math.prod(self.halo_size) * self.chunk * self.dtype.itemsize

    @property
    def smem_bytes(self) -> int:
        """Shared memory of a thread block."""
        size = self.dtype.itemsize
        weights = math.prod(self.taps) * self.in_channels * self.channels * size
        stored = CONSUMERS * STORES * COLUMNS * self.store_n * self.out_dtype.itemsize
        residual = CONSUMERS * self.rows * COLUMNS * self.channels * size if self.sharing else 0
        halos = CONSUMERS * self.stages * self.halo_bytes
        return weights + halos + stored + residual + _RESERVED

    @property
    def fits(self) -> bool:
        """True if sums fit into registers, and all else into shared memory."""
        sums = self.rows * COLUMNS * self.channels
        return sums <= _MAX_SUMS and self.smem_bytes <= SMEM_BYTES

    def cost(self, sm_count: int) -> float:
        """Estimated cycles of the busiest thread block; only ratios are meaningful."""
        rounds = math.ceil(self.tiles / (CONSUMERS * sm_count))
        # WGMMA 64 × n × 16 takes n / 2 cycles, and reads 2 KB of A and 32·n bytes of B, 128 bytes
        # a cycle.
        product = max(self.channels / 2, 16 + self.channels / 4)
        multiply = self.rows * math.prod(self.taps) * self.in_channels / 16 * product
        copy = self.chunks * self.halo_bytes / _L2_BANDWIDTH
        # With one stage, a consumer waits for each copy while the other multiplies.
        waiting = max(0.0, copy - multiply) if self.stages == 1 else 0.0
        return rounds * (CONSUMERS * max(multiply, copy) + waiting + _TILE_CYCLES)


def plan(problem: ResidentProblem, sm_count: int) -> ResidentProblem | None:
    """The problem with the fastest tile by estimate; None if this kernel is no good choice."""
    if problem.in_channels % 16 or problem.channels % 8 or problem.taps[1] == 1:
        return None
    # The narrowest swizzle is 32 bytes, for rows of the output and of the residual.
    narrowest = min(problem.out_dtype.itemsize, problem.dtype.itemsize if problem.sharing else 4)
    if problem.store_n * narrowest < 32:
        return None
    if problem.width < _LEAST_FILLED * COLUMNS * pl.cdiv(problem.width, COLUMNS):
        return None
    possible = [
        sized
        for rows in (2, 4, 8)
        for stages in range(1, _MAX_STAGES + 1)
        if (sized := dataclasses.replace(problem, rows=rows, stages=stages)).fits
    ]
    return min(possible, key=lambda sized: (sized.cost(sm_count), -sized.stages), default=None)
