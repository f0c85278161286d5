# SPDX-License-Identifier: Apache-2.0
"""The launches that make a gate: everything that is known when they are compiled."""

from __future__ import annotations

import dataclasses
from typing import Any

from jax.experimental import pallas as pl

__all__ = ["LINES", "GateProblem", "Strips"]

LINES = 64
"""Of a tile: what a warpgroup holds of a matrix."""

_TILES = 8  # a thread block adds up at most


@dataclasses.dataclass(frozen=True)
class Strips:
    """Lines that are added up, in so many parts of so many tiles."""

    lines: int

    @property
    def parts(self) -> int:
        """Blocks that a frame's lines are split over."""
        return pl.cdiv(pl.cdiv(self.lines, LINES), _TILES)

    @property
    def tiles(self) -> int:
        """Tiles of lines in each block."""
        return pl.cdiv(pl.cdiv(self.lines, LINES), self.parts)


@dataclasses.dataclass(frozen=True)
class GateProblem:
    """Everything that is known when the kernels are compiled.

    Attributes:
        batch: samples.
        time: frames of a sample.
        height: of the input.
        width: of the input.
        spots: partial sums of a frame's totals, the most of any input.
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
    spots: int
    in_channels: tuple[int, ...]
    channels: int
    kernel: tuple[int, int, int]
    phases: int
    in_dtype: Any
    dtype: Any
    interpret: bool

    @property
    def strips(self) -> tuple[Strips, Strips, Strips]:
        """The lines of totals, of a border row, and of a border column."""
        return Strips(self.spots), Strips(self.width), Strips(self.height)

    @property
    def parts(self) -> tuple[range, ...]:
        """Which parts belong to the total, two rows, two columns and four corners."""
        total, row, column = (strip.parts for strip in self.strips)
        sizes = (total, row, row, column, column, 1, 1, 1, 1)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return tuple(range(end - size, end) for end, size in zip(ends, sizes))

    @property
    def summed(self) -> int:
        """Input channels that a block adds up: as many float32 as a swizzle holds."""
        return min(32, *(size & -size for size in self.in_channels))

    @property
    def slices(self) -> tuple[int, ...]:
        """Of each input: how many times 64 channels there are, rounded up."""
        return tuple(pl.cdiv(size, LINES) for size in self.in_channels)

    @property
    def taken(self) -> int:
        """Output channels that a block takes on; few, for many blocks."""
        return min(32, self.channels & -self.channels)
