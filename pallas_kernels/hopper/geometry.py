# SPDX-License-Identifier: Apache-2.0
"""A convolution in numbers: which input pixels meet which weights, and how many there are."""

from __future__ import annotations

import dataclasses
import math

from pallas_kernels.hopper.primitives import Scalar, divide

__all__ = ["INTERPRETER_MARGIN", "ConvShape", "Geometry"]

INTERPRETER_MARGIN = 8
"""Pixels of zeros around pictures in the interpreter, which has no out-of-bounds TMA copies.

More than any kernel reaches (7 taps reach 3), and a multiple of every stride.
"""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Which input pixels meet which weights.

    Attributes:
        kernel: taps in time, height and width.
        low: frames of zeros before the clip, rows above the picture and columns left of it.
        stride: 1, or 2 for an output of half the height and width.
        phases: 1, or 2 for a transposed convolution, which doubles height and width: output pixel
            2·y + p, of phase p, meets every second tap from p on.
    """

    kernel: tuple[int, int, int]
    low: tuple[int, int, int]
    stride: int = 1
    phases: int = 1

    @property
    def row_taps(self) -> tuple[int, ...]:
        """Vertical taps that read one halo tile, each a row lower; a number per row phase.

        A halo tile has the rows that all its vertical taps reach, so it is copied once for all of
        them. At stride 2 it has every second row: taps 0, 2, … read one, taps 1, 3, … another.
        """
        kh = self.kernel[1]
        if self.stride == 1:
            return (kh // self.phases,)
        # Of 3 taps, two have even numbers and one an odd one; of a single tap there is no odd one.
        return tuple(len(range(first, kh, 2)) for first in range(min(2, kh)))

    @property
    def halo_tiles(self) -> int:
        """Halo tiles per chunk of channels: for each horizontal tap one per row phase."""
        return self.kernel[2] // self.phases * len(self.row_taps)

    @property
    def spatial_taps(self) -> int:
        """Weight tiles per chunk of channels: one a tap in height and width."""
        return self.kernel[2] // self.phases * sum(self.row_taps)

    def halo_origin(
        self, halo_tile: Scalar, phase: tuple[Scalar, Scalar]
    ) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        """Origin of a halo tile.

        Args:
            halo_tile: its number, below :attr:`halo_tiles`.
            phase: of the output pixels, in height and width; (0, 0) if not transposed.

        Returns:
            Row and column relative to the output tile, then the row and column phase of the
            strided view; (0, 0) at stride 1.
        """
        if self.stride == 1:
            # A halo tile belongs to one horizontal tap, and starts at the first vertical one.
            return phase[0] - self.low[1], halo_tile + phase[1] - self.low[2], 0, 0
        # Tap k reads input pixel 2·y + k − low, that is, row (k − low) // 2 of phase (k − low) % 2.
        # `divide` needs numbers ≥ 0: the even margin is added first and half of it taken off after.
        column, row = divide(halo_tile, len(self.row_taps))
        row, row_phase = divide(row - self.low[1] + INTERPRETER_MARGIN, 2)
        column, column_phase = divide(column - self.low[2] + INTERPRETER_MARGIN, 2)
        half = INTERPRETER_MARGIN // 2
        return row - half, column - half, row_phase, column_phase

    def tap_index(self, halo_tile: Scalar, row_tap: Scalar, phase: tuple[Scalar, Scalar]) -> Scalar:
        """Index of a tap in the kernel's flattened height × width."""
        if self.stride == 1:
            # Phase p of a transposed convolution meets taps p, p + 2, …
            row, column = self.phases * row_tap + phase[0], self.phases * halo_tile + phase[1]
        else:
            # Halo tiles count row phases fastest, so that neighbours share L2 lines.
            column, row = divide(halo_tile, len(self.row_taps))
            row += 2 * row_tap
        return row * self.kernel[2] + column


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvShape:
    """Everything about one convolution that tile sizes depend on.

    Attributes:
        geometry: which pixels meet which weights.
        batch: samples.
        in_time: frames of the input.
        time: frames of the output.
        height: of the output; for a transposed convolution, of one of its phases.
        width: likewise.
        in_channels: of each input; they count as joined.
        channels: of the output.
        out_bytes: of an output value.
        in_bytes: of a value of inputs and weights.
        residual: whether an 8-bit residual is added; it comes through the ring of inputs.
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
        """Name of this convolution in the tables of measured tile sizes."""
        geometry = self.geometry
        kernel = "x".join(map(str, geometry.kernel))
        size = f"{self.batch}x{self.in_time}-{self.time}x{self.height}x{self.width}"
        channels = "+".join(map(str, self.in_channels))
        kind = "t" if geometry.phases == 2 else f"s{geometry.stride}"
        bits = f"{8 * self.out_bytes}"
        if self.in_bytes == 1:
            # The tables hold bfloat16 and float16 under one key: both run alike.
            bits = f"8-{bits}" + " added" * self.residual
        return f"{kernel}{kind} {size} {channels}-{self.channels} {bits}"

    @property
    def depth(self) -> int:
        """Input channels."""
        return sum(self.in_channels)

    @property
    def products(self) -> float:
        """Multiplications per output value, those with zero padding included."""
        return self.depth * math.prod(self.geometry.kernel) / self.geometry.phases**2

    def temporal_taps_met(self, frame: int) -> int:
        """Temporal taps of an output frame that meet frames of the clip, not zero padding."""
        # Tap k of output frame t reads input frame t + k − low, which must lie in [0, in_time).
        low, taps = self.geometry.low[0], self.geometry.kernel[0]
        return min(taps, self.in_time + low - frame) - max(0, low - frame)

    @property
    def frames_by_cost(self) -> tuple[tuple[int, ...], ...]:
        """Output frames grouped by how many temporal taps they meet, the most first."""
        # A tile of one frame takes a pass per temporal tap that it meets, so this is its cost.
        counts = [self.temporal_taps_met(frame) for frame in range(self.time)]
        return tuple(
            tuple(frame for frame, count in enumerate(counts) if count == shared)
            for shared in sorted(set(counts), reverse=True)
        )

    def tile_k(self, tile_n: int) -> int:
        """Input channels of one step, for tiles of ``tile_n`` output channels.

        A chunk must divide every input, so that none straddles two of them. It fills at most one
        swizzled row (128 bytes) of inputs and weights. A residual is read and added in the same
        chunks in which the output is stored, so with one it must suit both.
        """
        sizes = [*self.in_channels, 128 // self.in_bytes]
        # 8-bit weights are K-major, so their swizzled rows are input channels alone.
        if self.in_bytes == 2 or self.residual:
            sizes.append(tile_n)
        if self.residual:
            sizes.append(128 // self.out_bytes)
        return min(size & -size for size in sizes)  # the largest power of two that divides it
