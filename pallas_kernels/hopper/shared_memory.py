# SPDX-License-Identifier: Apache-2.0
"""Tiles of pixels in shared memory, with one view for TMA and one for the tensor cores.

TMA copies a region ``[frames, rows, columns, channels]`` that may extend beyond the frame; outside
it reads zeros and writes nothing. The tensor cores (WGMMA) need a matrix of pixels × channels in
core tiles of 8 rows. If the channels of a pixel are exactly as wide as the swizzle (64 channels of
2 bytes are 128 bytes), both layouts are the same bytes: a swizzle permutes 16-byte units only
within 8 consecutive pixels, and core tiles of 8 × 64 have the order of the pixels.

The two views are a ``plgpu.RefUnion``. Its documentation does not specify how overlapping views are
related; on an H200 (jax 0.11.2) they are the same bytes, and the GPU tests check it. In the
interpreter the views are separate memory, and copies must not leave the frame. There a tile is
copied row by row into the matrix view, from a frame with a margin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike
from jaxtyping import Shaped

from pallas_kernels.hopper.primitives import Barrier, Index, Ref, Scalar, copy_in, copy_out

__all__ = ["TileRing", "Views", "swizzled", "tiled"]

PictureIndex: TypeAlias = Callable[[Index, Index], tuple[Index, ...]]
"""Maps frames and rows to the complete index of an array of frames in global memory."""

Stage: TypeAlias = Scalar | tuple[Scalar, ...]
"""Index of a stage, with one number for each axis of ``TileRing.stages``."""


class Views(NamedTuple):
    """The two views of a ring's memory."""

    tma: Shaped[Ref, "*stages frames rows columns channels"]
    mma: Shaped[Ref, "*stages pixels channels"]


def swizzled(channels: int, dtype: DTypeLike) -> tuple[Any, ...]:
    """Transforms of memory whose innermost rows of ``channels`` are swizzled.

    Without a swizzle, 8 rows of a core tile would start in the same bank of shared memory.
    """
    transform: Any = plgpu.SwizzleTransform
    return (transform(channels * jnp.dtype(dtype).itemsize),)


def tiled(channels: int, dtype: DTypeLike) -> tuple[Any, ...]:
    """Transforms of a WGMMA operand: core tiles of 8 × ``channels``, swizzled."""
    # WGMMA reads core tiles of 8 rows, each as wide as the swizzle.
    transform: Any = plgpu.TilingTransform
    return (transform((8, channels)), *swizzled(channels, dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TileRing:
    """One or several rings of tiles of pixels in shared memory.

    Attributes:
        stages: number of stages, preceded by the number of rings if there are several.
        frames: frames of a tile.
        rows: rows of a tile, including the halo.
        columns: columns of a tile; a multiple of 8, the rows of a core tile.
        channels: channels of a tile; as wide as a swizzle: 32, 64 or 128 bytes.
        dtype: dtype of the values.
        interpret: whether the interpreter runs the kernel.
    """

    stages: tuple[int, ...]
    frames: int
    rows: int
    columns: int
    channels: int
    dtype: jnp.dtype
    interpret: bool

    @property
    def smem(self) -> plgpu.RefUnion:
        """Scratch memory; the kernel gets it as the two references of :class:`Views`."""
        # Two views of the same bytes: with axes of pixels for TMA, and as a matrix for WGMMA.
        box = (self.frames, self.rows, self.columns)
        pixels = self.frames * self.rows * self.columns
        return plgpu.RefUnion(
            plgpu.SMEM(
                (*self.stages, *box, self.channels),
                self.dtype,
                transforms=swizzled(self.channels, self.dtype),
            ),
            plgpu.SMEM(
                (*self.stages, pixels, self.channels),
                self.dtype,
                transforms=tiled(self.channels, self.dtype),
            ),
        )

    @property
    def arrivals(self) -> int:
        """Arrivals at a full barrier per tile: one for each copy."""
        return self.frames * self.rows if self.interpret else 1

    def load(
        self,
        picture: Ref,
        index: PictureIndex,
        origin: tuple[Scalar, Scalar],
        views: Views,
        stage: Stage,
        full: Barrier,
    ) -> None:
        """Start copying the tile at ``origin`` (frame, row) into a stage, and signal ``full``."""
        # One copy, one arrival. Parts outside the frame arrive as zeros, the padding.
        if not self.interpret:
            box = index(pl.ds(origin[0], self.frames), pl.ds(origin[1], self.rows))
            copy_in(picture.at[box], views.tma.at[stage], full)
            return
        for frame, row, pixels in self._rows(stage):
            copy_in(
                picture.at[index(origin[0] + frame, origin[1] + row)], views.mma.at[pixels], full
            )

    def store(
        self,
        views: Views,
        stage: Stage,
        picture: Ref,
        index: PictureIndex,
        origin: tuple[Scalar, Scalar],
    ) -> None:
        """Start copying a stage to the tile at ``origin`` (frame, row) in global memory."""
        # Parts outside the frame are not written.
        if not self.interpret:
            box = index(pl.ds(origin[0], self.frames), pl.ds(origin[1], self.rows))
            copy_out(views.tma.at[stage], picture.at[box])
            return
        for frame, row, pixels in self._rows(stage):
            copy_out(views.mma.at[pixels], picture.at[index(origin[0] + frame, origin[1] + row)])

    def _rows(self, stage: Stage) -> Iterator[tuple[int, int, tuple[Index, ...]]]:
        """Yield each row of a tile: frame, row, and index of its pixels in the matrix view."""
        # With several rings, the stage is an index for each axis of `stages`.
        at = stage if isinstance(stage, tuple) else (stage,)
        for frame in range(self.frames):
            for row in range(self.rows):
                first = (frame * self.rows + row) * self.columns  # pixels are row-major
                yield frame, row, (*at, pl.ds(first, self.columns))
