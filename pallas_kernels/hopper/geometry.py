# SPDX-License-Identifier: Apache-2.0
"""A convolution in numbers: which pixels meet which weights, and how many of them there are."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jax import lax

__all__ = ["MARGIN", "Geometry", "Work", "divide"]

MARGIN = 8
"""Pixels around pictures in the interpreter: more than any kernel reaches."""


def divide(number: Any, by: int) -> tuple[Any, Any]:
    """Quotient and remainder of numbers that are not negative, in a kernel or outside.

    There, // and % would also look at signs, which takes long to lower and some time to run.
    """
    if isinstance(number, int):
        return divmod(number, by)
    divisor = lax.full_like(number, by)
    return lax.div(number, divisor), lax.rem(number, divisor)


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
    def taps(self) -> tuple[int, ...]:
        """Vertical taps that read the same box, each a row further down, of loads in turn.

        At stride 2 a box has every second row: taps 0, 2, … read one, taps 1, 3, … another one.
        """
        kh = self.kernel[1]
        if self.stride == 1:
            return (kh // self.phases,)
        return tuple(len(range(first, kh, 2)) for first in range(min(2, kh)))

    @property
    def loads(self) -> int:
        """Boxes of the input a channel chunk: for each horizontal tap as many as :attr:`taps`."""
        return self.kernel[2] // self.phases * len(self.taps)

    @property
    def steps(self) -> int:
        """Pieces of the weights a channel chunk: one a tap."""
        return self.kernel[2] // self.phases * sum(self.taps)

    def box(self, load: Any, phase: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
        """Row and column of a load's box from the tile's, and the stride's row and column phase."""
        if self.stride == 1:
            return phase[0] - self.low[1], load + phase[1] - self.low[2], 0, 0
        # Lifted by an even number, so that no number is negative.
        column, row = divide(load, len(self.taps))
        row, row_phase = divide(row - self.low[1] + MARGIN, 2)
        column, column_phase = divide(column - self.low[2] + MARGIN, 2)
        half = MARGIN // 2
        return row - half, column - half, row_phase, column_phase

    def tap(self, load: Any, tap: Any, phase: tuple[Any, Any]) -> Any:
        """Which of the kernel's height × width taps the weights come from."""
        if self.stride == 1:
            row, column = self.phases * tap + phase[0], self.phases * load + phase[1]
        else:
            column, row = divide(load, len(self.taps))
            row += 2 * tap
        return row * self.kernel[2] + column


@dataclasses.dataclass(frozen=True)
class Work:
    """One convolution: what tile sizes depend on.

    Attributes:
        geometry: which pixels meet which weights.
        batch: samples.
        in_time: frames of the input.
        time: frames of the output.
        height: of the output; for a transposed convolution of one of its phases.
        width: likewise.
        in_channels: of each input.
        channels: of the output.
        out_bytes: of an output value.
        in_bytes: of a value of inputs and weights.
        residual: whether something of 8 bits is added; it comes in boxes as the inputs do.
    """

    geometry: Geometry
    batch: int
    in_time: int
    time: int
    height: int
    width: int
    in_channels: tuple[int, ...]
    channels: int
    out_bytes: int = 2
    in_bytes: int = 2
    residual: bool = False

    @property
    def key(self) -> str:
        """The name of this work in the tables of measured sizes."""
        geometry = self.geometry
        kernel = "x".join(map(str, geometry.kernel))
        size = f"{self.batch}x{self.in_time}-{self.time}x{self.height}x{self.width}"
        channels = "+".join(map(str, self.in_channels))
        kind = "t" if geometry.phases == 2 else f"s{geometry.stride}"
        bits = f"{8 * self.out_bytes}"
        if self.in_bytes == 1:
            bits = f"8-{bits}" + " added" * self.residual
        return f"{kernel}{kind} {size} {channels}-{self.channels} {bits}"

    @property
    def depth(self) -> int:
        """Input channels."""
        return sum(self.in_channels)

    @property
    def products(self) -> float:
        """Products a pixel and output channel, those with zeros included."""
        return self.depth * math.prod(self.geometry.kernel) / self.geometry.phases**2

    def meeting_taps(self, frame: int) -> int:
        """Temporal taps of an output frame that meet frames of the clip, not zeros."""
        low, taps = self.geometry.low[0], self.geometry.kernel[0]
        return min(taps, self.in_time + low - frame) - max(0, low - frame)

    @property
    def alike(self) -> tuple[tuple[int, ...], ...]:
        """Output frames that take equally long together, the longest first."""
        lengths = sorted({self.meeting_taps(frame) for frame in range(self.time)}, reverse=True)
        return tuple(
            tuple(frame for frame in range(self.time) if self.meeting_taps(frame) == length)
            for length in lengths
        )

    def chunk(self, channels: int) -> int:
        """Input channels a step, for tiles of so many output channels.

        As many as one swizzled row of inputs and of weights holds; and of what is added and of
        the output, which is stored as it is added.
        """
        sizes = [*self.in_channels, 128 // self.in_bytes]
        if self.in_bytes == 2 or self.residual:
            sizes.append(channels)
        if self.residual:
            sizes.append(128 // self.out_bytes)
        return min(size & -size for size in sizes)
