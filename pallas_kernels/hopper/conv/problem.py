# SPDX-License-Identifier: Apache-2.0
"""Compile-time parameters of a launch of the convolution kernel."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.core.epilogue import Activation
from pallas_kernels.hopper.conv.config import CONSUMERS, Config, loads_pixels
from pallas_kernels.hopper.geometry import ConvShape
from pallas_kernels.hopper.shared_memory import TileRing

__all__ = ["Problem"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """Compile-time parameters of a launch.

    Attributes:
        conv: the convolution.
        config: tile sizes and ring depths.
        dtype: dtype of inputs, weights and residual: bfloat16, float16 or float8_e4m3fn.
        out_dtype: dtype of the output.
        activation: applied last.
        residual: whether a residual is added to the sums.
        sharing: number of samples to which each of the residual's samples is added.
        totals: whether to compute channel totals of the output.
        interpret: whether the interpreter runs the kernel.
        factors: number of factors per channel in the epilogue: 2 for scale and offset, 3 with a
            scale of the residual.
    """

    conv: ConvShape
    config: Config
    dtype: jnp.dtype
    out_dtype: jnp.dtype
    activation: Activation
    residual: bool
    totals: bool
    interpret: bool
    factors: int = 2
    sharing: int = 1

    def __post_init__(self) -> None:
        config = self.config
        assert config.tile_t == 1 or config.tile_t == self.conv.time == self.conv.in_time
        # Consumers take half of the rows each; a swizzle atom of shared memory has 8 rows.
        assert config.tile_h % CONSUMERS == config.tile_w % 8 == 0
        assert self.conv.channels % config.tile_n == 0
        # The narrowest swizzle is 32 bytes, and one WGMMA takes 32 bytes of K.
        assert self.tile_k * self.conv.in_bytes >= 32
        # Every tile begins at stage 0 of the store ring.
        assert self.stores % config.store_stages == 0
        assert self.store_n * self.out_dtype.itemsize <= 128
        assert self.factors == 2 or self.residual
        if config.swap_ab:
            # With swap_ab the channels are the rows of WGMMA, which are multiples of 64.
            assert self.store_n % 64 == 0
            # The second consumer mirrors the first in time, so padding must be symmetric.
            low, taps = self.conv.geometry.low[0], self.conv.geometry.kernel[0]
            assert not config.split_frames or 2 * low == taps - 1

    @property
    def name(self) -> str:
        """Name in a profiler's trace."""
        conv, geometry = self.conv, self.conv.geometry
        kernel = "x".join(map(str, geometry.kernel))
        kind = "transposed" if geometry.phases == 2 else f"stride{geometry.stride}"
        return f"conv_{kernel}_{kind}_{conv.depth}_to_{conv.channels}_at_{conv.height}x{conv.width}"

    @property
    def spans_clip(self) -> bool:
        """True if a tile contains all frames of the clip."""
        return self.config.tile_t == self.conv.time == self.conv.in_time

    @property
    def tile_k(self) -> int:
        """Input channels per step of the main loop."""
        return self.conv.tile_k(self.config.tile_n)

    @property
    def weights_k_major(self) -> bool:
        """True if weights are stored ``[out, in]``: WGMMA takes 8-bit operands only K-major."""
        return self.conv.in_bytes == 1

    @property
    def store_n(self) -> int:
        """Output channels per store; with a residual, as many as an input stage holds."""
        # The largest power of two that divides tile_n, since blocks must divide the tile.
        size = self.config.tile_n
        size = min(size & -size, 128 // self.out_dtype.itemsize)  # one swizzled row of 128 bytes
        return self.tile_k if self.residual else size

    @property
    def stores(self) -> int:
        """Number of stores per tile and consumer."""
        return self.config.tile_t * self.config.tile_n // self.store_n

    @property
    def totals_by_products(self) -> bool:
        """True if the tensor cores add up the pixels of stored blocks."""
        # The interpreter has no operands in registers; 8-bit operands cannot be transposed.
        return not (self.interpret or self.config.swap_ab) and self.out_dtype.itemsize == 2

    @property
    def warpgroup_frames(self) -> int:
        """Output frames of a tile that one consumer computes."""
        return self.config.tile_t // (CONSUMERS if self.config.split_frames else 1)

    @property
    def warpgroup_m(self) -> int:
        """Pixels of a tile, per frame, that one consumer computes."""
        return self.config.tile_m // (1 if self.config.split_frames else CONSUMERS)

    @property
    def blocks_per_frame(self) -> int:
        """Blocks of ``tile_h / 2`` rows that one consumer stores per frame."""
        return CONSUMERS if self.config.split_frames else 1

    @property
    def halo_rows(self) -> int:
        """Rows of a halo tile: those of the output, and those that vertical taps read below."""
        return self.config.tile_h + max(self.conv.geometry.row_taps) - 1

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of tiles along batch, rows, columns, phases, frames and channels."""
        config = self.config
        return (
            self.conv.batch,
            pl.cdiv(self.conv.height, config.tile_h),
            pl.cdiv(self.conv.width, config.tile_w),
            self.conv.geometry.phases**2,
            self.conv.time // config.tile_t,
            self.conv.channels // config.tile_n,
        )

    @property
    def frame_order(self) -> tuple[tuple[int, ...], ...]:
        """First frames of tiles in groups of equal cost, the most expensive first.

        Tiles are dealt to the thread blocks round-robin. In plain order, 132 blocks and 4 frames
        would give some blocks only frames in the middle of the clip, which read more temporal taps.
        In this order all blocks end at about the same time.
        """
        return self.conv.frames_by_cost if self.config.tile_t == 1 else ((0,),)

    @property
    def padded_size(self) -> tuple[int, int]:
        """Height and width of the stored output; the interpreter stores whole tiles."""
        if not self.interpret:
            return self.conv.height, self.conv.width
        # The interpreter's copies are not clipped at the end of the output.
        return self.grid[1] * self.config.tile_h, self.grid[2] * self.config.tile_w

    @property
    def partial_sums(self) -> int:
        """Number of partial sums per frame and channel."""
        _, rows, columns, phases, _, _ = self.grid
        return rows * columns * phases * self.partial_sums_per_tile

    @property
    def partial_sums_per_tile(self) -> int:
        """Partial sums per frame and tile: one for each consumer with pixels of the frame."""
        return 1 if self.config.split_frames else CONSUMERS

    @property
    def out_types(self) -> list[jax.ShapeDtypeStruct]:
        """Types of output and totals in global memory, before phases are interleaved."""
        conv, frames = self.conv, self.conv.batch * self.conv.time
        height, width = self.padded_size
        shape = (frames, height, width, conv.channels)
        if conv.geometry.phases == 2:
            # Row phases have an axis of their own; column phases are blocks of channels, because
            # TMA descriptors have at most 5 axes.
            shape = (frames, height, 2, width, 2 * conv.channels)
        types = [jax.ShapeDtypeStruct(shape, self.out_dtype)]
        if self.totals:
            shape = (frames, self.partial_sums, conv.channels)
            types.append(jax.ShapeDtypeStruct(shape, jnp.float32))
        return types

    @property
    def frame_products(self) -> tuple[tuple[int, int, int], ...]:
        """Temporal tap, output frame and input frame of each product of one step.

        If the consumers split the frames, these are the products of the first one. Those of the
        second one are mirrored in time.
        """
        return self._frame_products(self.warpgroup_frames)

    @property
    def loads_pixels(self) -> bool:
        """True if consumers load pixels into registers; see :func:`loads_pixels`."""
        return loads_pixels(self.conv, self.config)

    @property
    def product_groups(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """The products of one step in groups: while one runs, the next one's pixels are loaded."""
        if not self.loads_pixels:
            return (self.frame_products,)
        sources = sorted({source for _, _, source in self.frame_products})
        return tuple(
            tuple(product for product in self.frame_products if product[2] == source)
            for source in sources
        )

    def _frame_products(self, frames: int) -> tuple[tuple[int, int, int], ...]:
        if not self.spans_clip:
            return ((0, 0, 0),)  # the loop over steps counts temporal taps as well
        # Tap k of output frame t reads input frame t + k − low.
        low = self.conv.geometry.low[0]
        return tuple(
            (tap, frame, frame + tap - low)
            for tap in range(self.conv.geometry.kernel[0])
            for frame in range(frames)
            if 0 <= frame + tap - low < self.conv.time  # skip products with zero padding
        )

    @property
    def temporal_taps(self) -> tuple[int, int]:
        """First temporal tap of a tile of the weights, and the number of taps in it."""
        # Taps that read only padding need not be copied; for one frame, only the middle tap counts.
        taps = [tap for tap, _, _ in self._frame_products(self.config.tile_t)]
        return min(taps), max(taps) - min(taps) + 1

    @property
    def input_ring(self) -> TileRing:
        """Ring of halo tiles of the input, and of blocks of the residual."""
        return TileRing(
            stages=(self.config.input_stages,),
            frames=self.config.tile_t,
            rows=self.halo_rows,
            columns=self.config.tile_w,
            channels=self.tile_k,
            dtype=self.dtype,
            interpret=self.interpret,
        )

    @property
    def store_ring(self) -> TileRing:
        """Rings of output blocks on their way to global memory, one ring per consumer."""
        return TileRing(
            stages=(CONSUMERS, self.config.store_stages),
            frames=1,
            rows=self.config.tile_h // CONSUMERS,
            columns=self.config.tile_w,
            channels=self.store_n,
            dtype=self.out_dtype,
            interpret=self.interpret,
        )
