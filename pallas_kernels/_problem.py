# SPDX-License-Identifier: Apache-2.0
"""A convolution as the implicit matrix product sees it: what is known before it is compiled."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels._boxes import Boxes
from pallas_kernels._epilogue import Activation
from pallas_kernels._tuning import Config

__all__ = ["MARGIN", "MULTIPLIERS", "Geometry", "Problem"]

MULTIPLIERS = 2
"""Warpgroups of a thread block that multiply; the one after them copies."""

MARGIN = 8
"""Pixels around pictures in the interpreter: more than any kernel reaches."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Which input pixels meet which weights.

    Attributes:
        kernel: taps in time, height and width.
        low: frames of zeros before the clip, rows above the picture and columns left of it.
        stride: 1, or 2 for an output of half the height and width.
        phases: 1, or 2 for a transposed convolution, which doubles height and width: output pixel
            2·y + p of phase p meets every second tap, from p on.
    """

    kernel: tuple[int, int, int]
    low: tuple[int, int, int]
    stride: int = 1
    phases: int = 1

    @property
    def loads(self) -> int:
        """Boxes of the input a channel chunk: one a horizontal tap; at stride 2 one a tap."""
        _, kh, kw = self.kernel
        return kh * kw if self.stride == 2 else kw // self.phases

    @property
    def taps(self) -> int:
        """Vertical taps that read the same box, each a row further down."""
        return 1 if self.stride == 2 else self.kernel[1] // self.phases

    def box(self, load: Any, phase: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
        """Row and column of a load's box from the tile's, and the stride's row and column phase."""
        if self.stride == 1:
            return phase[0] - self.low[1], load + phase[1] - self.low[2], 0, 0
        # Lifted by an even number, so that // and % see no negative numbers.
        row = load // self.kernel[2] - self.low[1] + MARGIN
        column = load % self.kernel[2] - self.low[2] + MARGIN
        half = MARGIN // 2
        return row // 2 - half, column // 2 - half, row % 2, column % 2

    def tap(self, load: Any, tap: Any, phase: tuple[Any, Any]) -> Any:
        """Which of the kernel's height × width taps the weights come from."""
        if self.stride == 2:
            return load
        row, column = self.phases * tap + phase[0], self.phases * load + phase[1]
        return row * self.kernel[2] + column


@dataclasses.dataclass(frozen=True)
class Problem:
    """Everything about a launch that is known when it is compiled.

    Attributes:
        geometry: which pixels meet which weights.
        config: tile and rings.
        batch: samples.
        in_time: frames of the input.
        time: frames of the output.
        height: of the output; for a transposed convolution of one of its phases.
        width: likewise.
        in_channels: of each input.
        channels: of the output.
        dtype: of inputs, weights and residual: bfloat16 or float16.
        out_dtype: of the output.
        activation: applied last.
        residual: whether something is added to the sums.
        totals: whether to add up the output's channels.
        interpret: whether the interpreter runs it.
    """

    geometry: Geometry
    config: Config
    batch: int
    in_time: int
    time: int
    height: int
    width: int
    in_channels: tuple[int, ...]
    channels: int
    dtype: Any
    out_dtype: Any
    activation: Activation
    residual: bool
    totals: bool
    interpret: bool

    def __post_init__(self) -> None:
        config = self.config
        assert config.frames == 1 or config.frames == self.time == self.in_time
        assert config.rows % 2 == config.columns % 8 == 0
        assert self.channels % config.channels == 0
        assert self.chunk >= 16
        assert self.stores % config.store_slots == 0
        assert not self.residual or self.out_dtype == self.dtype

    @property
    def name(self) -> str:
        """What a profiler shows."""
        kernel = "x".join(map(str, self.geometry.kernel))
        kind = "transposed" if self.geometry.phases == 2 else f"stride{self.geometry.stride}"
        depth = sum(self.in_channels)
        return f"conv_{kernel}_{kind}_{depth}_to_{self.channels}_at_{self.height}x{self.width}"

    @property
    def resident(self) -> bool:
        """Whether a tile spans the clip."""
        return self.config.frames == self.time == self.in_time

    @property
    def chunk(self) -> int:
        """Input channels a step: as many as one swizzled row of inputs and of weights holds."""
        sizes = (*self.in_channels, self.config.channels, 64)
        return min(size & -size for size in sizes)

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
    def share(self) -> int:
        """Pixels of a tile, per frame, that one warpgroup multiplies."""
        return self.config.rows * self.config.columns // MULTIPLIERS

    @property
    def box_rows(self) -> int:
        """Rows of an input box."""
        return self.config.rows + self.geometry.taps - 1

    @property
    def grid(self) -> tuple[int, ...]:
        """Tiles: batch, rows, columns, phases, frames, channels."""
        config = self.config
        return (
            self.batch,
            pl.cdiv(self.height, config.rows),
            pl.cdiv(self.width, config.columns),
            self.geometry.phases**2,
            self.time // config.frames,
            self.channels // config.channels,
        )

    @property
    def padded_size(self) -> tuple[int, int]:
        """Height and width that are stored: in the interpreter, tiles are stored whole."""
        if not self.interpret:
            return self.height, self.width
        return self.grid[1] * self.config.rows, self.grid[2] * self.config.columns

    @property
    def spots(self) -> int:
        """Partial sums of each frame's channels."""
        _, rows, columns, phases, _, _ = self.grid
        return rows * columns * phases * MULTIPLIERS

    @property
    def pairs(self) -> tuple[tuple[int, int, int], ...]:
        """Temporal tap, output frame and input frame of the products that a step makes."""
        if not self.resident:
            return ((0, 0, 0),)
        low = self.geometry.low[0]
        return tuple(
            (tap, frame, frame + tap - low)
            for tap in range(self.geometry.kernel[0])
            for frame in range(self.time)
            if 0 <= frame + tap - low < self.time
        )

    @property
    def temporal_taps(self) -> tuple[int, int]:
        """The first temporal tap that a step multiplies, and how many there are."""
        taps = [tap for tap, _, _ in self.pairs]
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
