# SPDX-License-Identifier: Apache-2.0
"""Index arithmetic and sizes of a convolution: which input pixels each tap reads."""

from __future__ import annotations

import dataclasses
import math

from pallas_kernels.hopper.primitives import Scalar, divide

__all__ = ["INTERPRETER_MARGIN", "ConvShape", "Geometry"]

INTERPRETER_MARGIN = 8
"""Zero pixels around frames in the interpreter, which has no out-of-bounds TMA copies.

Larger than the reach of any kernel (3 pixels for 7 taps), and a multiple of every stride.
"""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Kernel, padding, stride and phases of a convolution.

    Attributes:
        kernel: taps in time, height and width.
        low: zero padding before the first frame, above the first row and left of the first column.
        stride: 1, or 2 for an output of half the height and width.
        phases: 1, or 2 for a transposed convolution, which doubles height and width: output pixel
            2·y + p, of phase p, uses every second tap, starting with tap p.
    """

    kernel: tuple[int, int, int]
    low: tuple[int, int, int]
    stride: int = 1
    phases: int = 1

    @property
    def row_taps(self) -> tuple[int, ...]:
        """Number of vertical taps that read the same halo tile, for each row phase.

        A halo tile has the rows of all its vertical taps, each of which starts one row lower, so it
        is copied once for all of them. At stride 2 a halo tile has every second row: taps 0, 2, …
        read one tile, taps 1, 3, … another.
        """
        kh = self.kernel[1]
        if self.stride == 1:
            return (kh // self.phases,)
        # Of 3 taps, two are even and one is odd; a single tap is even, so there is one row phase.
        return tuple(len(range(first, kh, 2)) for first in range(min(2, kh)))

    @property
    def halo_tiles(self) -> int:
        """Halo tiles per chunk of channels: one for each horizontal tap and row phase."""
        return self.kernel[2] // self.phases * len(self.row_taps)

    @property
    def spatial_taps(self) -> int:
        """Weight tiles per chunk of channels: one for each spatial tap."""
        return self.kernel[2] // self.phases * sum(self.row_taps)

    def halo_origin(
        self, halo_tile: Scalar, phase: tuple[Scalar, Scalar]
    ) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        """Origin of a halo tile.

        Args:
            halo_tile: index of the halo tile, below :attr:`halo_tiles`.
            phase: phase of the output pixels in height and width; (0, 0) if not transposed.

        Returns:
            Row and column relative to the output tile, then the row and column phase of the
            strided view; (0, 0) at stride 1.
        """
        if self.stride == 1:
            # A halo tile belongs to one horizontal tap, and starts with the first vertical tap.
            return phase[0] - self.low[1], halo_tile + phase[1] - self.low[2], 0, 0
        # Tap k reads input pixel 2·y + k − low, that is, row (k − low) // 2 of phase (k − low) % 2.
        # `divide` needs numbers ≥ 0: add the even margin first, and subtract half of it after.
        column, row = divide(halo_tile, len(self.row_taps))
        row, row_phase = divide(row - self.low[1] + INTERPRETER_MARGIN, 2)
        column, column_phase = divide(column - self.low[2] + INTERPRETER_MARGIN, 2)
        half = INTERPRETER_MARGIN // 2
        return row - half, column - half, row_phase, column_phase

    def tap_index(self, halo_tile: Scalar, row_tap: Scalar, phase: tuple[Scalar, Scalar]) -> Scalar:
        """Index of a tap in the kernel flattened over height and width."""
        if self.stride == 1:
            # Phase p of a transposed convolution uses taps p, p + 2, …
            row, column = self.phases * row_tap + phase[0], self.phases * halo_tile + phase[1]
        else:
            # Row phases vary fastest, so that successive halo tiles share cache lines in L2.
            column, row = divide(halo_tile, len(self.row_taps))
            row += 2 * row_tap
        return row * self.kernel[2] + column


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvShape:
    """All properties of a convolution on which tile sizes depend.

    Attributes:
        geometry: kernel, padding, stride and phases.
        batch: number of samples.
        in_time: frames of the input.
        time: frames of the output.
        height: height of the output; for a transposed convolution, of one phase.
        width: width of the output, likewise.
        in_channels: channels of each of the concatenated inputs.
        channels: channels of the output.
        out_bytes: bytes per output value.
        in_bytes: bytes per value of inputs and weights.
        residual: whether a residual is added that passes through the input ring in chunks that
            also have to fit the output: one in 8 bits, or to an output of other bits.
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
            # In 16 bits the key is the same for bfloat16 and float16, which are equally fast.
            bits = f"8-{bits}" + " added" * self.residual
        return f"{kernel}{kind} {size} {channels}-{self.channels} {bits}"

    @property
    def depth(self) -> int:
        """Input channels in all."""
        return sum(self.in_channels)

    @property
    def products(self) -> float:
        """Multiplications per output value, including those with zero padding."""
        return self.depth * math.prod(self.geometry.kernel) / self.geometry.phases**2

    def temporal_taps_met(self, frame: int) -> int:
        """Number of temporal taps of an output frame that read frames of the clip, not padding."""
        # Tap k of output frame t reads input frame t + k − low, which must lie in [0, in_time).
        low, taps = self.geometry.low[0], self.geometry.kernel[0]
        return min(taps, self.in_time + low - frame) - max(0, low - frame)

    @property
    def frames_by_cost(self) -> tuple[tuple[int, ...], ...]:
        """Output frames grouped by :meth:`temporal_taps_met`, the most expensive group first."""
        # A tile of one frame makes a pass for each of these taps, so their number is its cost.
        counts = [self.temporal_taps_met(frame) for frame in range(self.time)]
        return tuple(
            tuple(frame for frame, count in enumerate(counts) if count == shared)
            for shared in sorted(set(counts), reverse=True)
        )

    def tile_k(self, tile_n: int) -> int:
        """Input channels per step (a chunk), for tiles of ``tile_n`` output channels.

        A chunk must divide the channels of every input, so that it never straddles two of them. It
        fills at most one swizzled row (128 bytes) of inputs and weights. A residual passes through
        the input ring in the chunks in which the output is stored, so a chunk must then also fit
        the output.
        """
        sizes = [*self.in_channels, 128 // self.in_bytes]
        # 8-bit weights are K-major: their swizzled rows have input channels, not output channels.
        if self.in_bytes == 2 or self.residual:
            sizes.append(tile_n)
        if self.residual:
            sizes.append(128 // self.out_bytes)
        return min(size & -size for size in sizes)  # the largest power of two that divides all
