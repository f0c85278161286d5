# SPDX-License-Identifier: Apache-2.0
"""A launch of the convolution kernel: everything that is known when it is compiled."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.core.epilogue import Activation
from pallas_kernels.hopper.conv.config import Config
from pallas_kernels.hopper.geometry import Work
from pallas_kernels.hopper.shared_memory import Boxes

__all__ = ["MULTIPLIERS", "Problem"]

MULTIPLIERS = 2
"""Warpgroups of a thread block that multiply; the one after them copies."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """Everything about a launch that is known when it is compiled.

    Attributes:
        work: the convolution.
        config: tile and rings.
        dtype: of inputs, weights and residual: bfloat16, float16 or float8_e4m3fn.
        out_dtype: of the output.
        activation: applied last.
        residual: whether something is added to the sums.
        totals: whether to add up the output's channels.
        interpret: whether the interpreter runs it.
        factors: rows of the epilogue's factors: scale, offset and, for a residual, its scale.
    """

    work: Work
    config: Config
    dtype: Any
    out_dtype: Any
    activation: Activation
    residual: bool
    totals: bool
    interpret: bool
    factors: int = 2

    def __post_init__(self) -> None:
        config = self.config
        assert config.frames == 1 or config.frames == self.work.time == self.work.in_time
        assert config.rows % 2 == config.columns % 8 == 0
        assert self.work.channels % config.channels == 0
        assert self.chunk * self.work.in_bytes >= 32
        assert self.stores % config.store_slots == 0
        assert self.store_chunk * jnp.dtype(self.out_dtype).itemsize <= 128
        assert self.factors == 2 or self.residual
        if config.weights_left:
            assert self.store_chunk % 64 == 0
            low, taps = self.work.geometry.low[0], self.work.geometry.kernel[0]
            assert not config.split_frames or 2 * low == taps - 1

    @property
    def name(self) -> str:
        """What a profiler shows."""
        work, geometry = self.work, self.work.geometry
        kernel = "x".join(map(str, geometry.kernel))
        kind = "transposed" if geometry.phases == 2 else f"stride{geometry.stride}"
        return f"conv_{kernel}_{kind}_{work.depth}_to_{work.channels}_at_{work.height}x{work.width}"

    @property
    def resident(self) -> bool:
        """Whether a tile spans the clip."""
        return self.config.frames == self.work.time == self.work.in_time

    @property
    def chunk(self) -> int:
        """Input channels a step."""
        return self.work.chunk(self.config.channels)

    @property
    def rows_are_channels(self) -> bool:
        """Whether weights lie as output × input channels, as 8-bit products want them."""
        return self.work.in_bytes == 1

    @property
    def store_chunk(self) -> int:
        """Output channels that are stored at a time; of a residual, as many as a box holds."""
        size = self.config.channels
        size = min(size & -size, 128 // jnp.dtype(self.out_dtype).itemsize)
        return self.chunk if self.residual else size

    @property
    def stores(self) -> int:
        """Stores a tile and warpgroup."""
        return self.config.frames * self.config.channels // self.store_chunk

    @property
    def frames_each(self) -> int:
        """Output frames of a tile that one warpgroup multiplies."""
        return self.config.frames // (MULTIPLIERS if self.config.split_frames else 1)

    @property
    def share(self) -> int:
        """Pixels of a tile, per frame, that one warpgroup multiplies."""
        pixels = self.config.rows * self.config.columns
        return pixels if self.config.split_frames else pixels // MULTIPLIERS

    @property
    def parts(self) -> int:
        """Boxes of a frame that one warpgroup stores."""
        return MULTIPLIERS if self.config.split_frames else 1

    @property
    def box_rows(self) -> int:
        """Rows of an input box."""
        return self.config.rows + max(self.work.geometry.taps) - 1

    @property
    def grid(self) -> tuple[int, ...]:
        """Tiles: batch, rows, columns, phases, frames, channels."""
        config = self.config
        return (
            self.work.batch,
            pl.cdiv(self.work.height, config.rows),
            pl.cdiv(self.work.width, config.columns),
            self.work.geometry.phases**2,
            self.work.time // config.frames,
            self.work.channels // config.channels,
        )

    @property
    def frame_order(self) -> tuple[tuple[int, ...], ...]:
        """Frames that tiles begin with: first those that take long, so that all blocks end alike.

        Tiles go round the blocks. Were frames simply counted, 132 blocks and 4 frames would give
        some blocks only frames in the middle of the clip, which meet more frames.
        """
        return self.work.alike if self.config.frames == 1 else ((0,),)

    @property
    def padded_size(self) -> tuple[int, int]:
        """Height and width that are stored: in the interpreter, tiles are stored whole."""
        if not self.interpret:
            return self.work.height, self.work.width
        return self.grid[1] * self.config.rows, self.grid[2] * self.config.columns

    @property
    def spots(self) -> int:
        """Partial sums of each frame's channels."""
        _, rows, columns, phases, _, _ = self.grid
        return rows * columns * phases * self.spots_a_tile

    @property
    def spots_a_tile(self) -> int:
        """Partial sums of a frame and tile."""
        return 1 if self.config.split_frames else MULTIPLIERS

    @property
    def pairs(self) -> tuple[tuple[int, int, int], ...]:
        """Temporal tap, output frame and input frame of the products that a step makes.

        Where the warpgroups share out the frames, of the first warpgroup; the second one's are the
        same ones backwards in time.
        """
        return self._pairs(self.frames_each)

    def _pairs(self, frames: int) -> tuple[tuple[int, int, int], ...]:
        if not self.resident:
            return ((0, 0, 0),)
        low = self.work.geometry.low[0]
        return tuple(
            (tap, frame, frame + tap - low)
            for tap in range(self.work.geometry.kernel[0])
            for frame in range(frames)
            if 0 <= frame + tap - low < self.work.time
        )

    @property
    def temporal_taps(self) -> tuple[int, int]:
        """The first temporal tap that a step multiplies, and how many there are."""
        taps = [tap for tap, _, _ in self._pairs(self.config.frames)]
        return min(taps), max(taps) - min(taps) + 1

    @property
    def input_boxes(self) -> Boxes:
        """The ring of inputs."""
        return Boxes(
            (self.config.input_slots,),
            self.config.frames,
            self.box_rows,
            self.config.columns,
            self.chunk,
            self.dtype,
            self.interpret,
        )

    @property
    def output_boxes(self) -> Boxes:
        """Where each multiplying warpgroup puts what it stores."""
        return Boxes(
            (MULTIPLIERS, self.config.store_slots),
            1,
            self.config.rows // MULTIPLIERS,
            self.config.columns,
            self.store_chunk,
            self.out_dtype,
            self.interpret,
        )
