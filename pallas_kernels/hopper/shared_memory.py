# SPDX-License-Identifier: Apache-2.0
"""Tiles of pixels in shared memory: one place, seen by the copy engine and by the tensor cores.

The copy engine (TMA) copies a box ``[frames, rows, columns, channels]`` that may start or end
outside the picture, where it reads zeros and writes nothing. The tensor cores (WGMMA) want a matrix
of pixels × channels in core tiles of 8 rows. When one pixel's channels are exactly as wide as the
swizzle (64 of 2 bytes: 128 bytes), both are the same bytes: a swizzle permutes 16-byte pieces
within 8 consecutive pixels only, and core tiles of 8 × 64 follow each other as the pixels do.

The two views are a ``plgpu.RefUnion``. Its documentation promises nothing about how views that
overlap relate; on an H200 (jax 0.11.2) they are the same bytes, and the GPU tests check it. The
interpreter keeps them apart and has no copies that leave the picture, so there a tile is copied
row by row into the matrix view, from a picture with a margin.
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
"""From frames and rows to the whole index of a picture in global memory."""

Stage: TypeAlias = Scalar | tuple[Scalar, ...]
"""Index of a stage, with one number per axis of the rings."""


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
    # WGMMA reads core matrices of 8 rows, each as wide as the swizzle.
    transform: Any = plgpu.TilingTransform
    return (transform((8, channels)), *swizzled(channels, dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TileRing:
    """A ring (or several) of tiles of pixels in shared memory.

    Attributes:
        stages: how many tiles there are, along one or more axes.
        frames: of a tile.
        rows: of a tile, the halo included.
        columns: of a tile; a multiple of 8, the rows of a core tile.
        channels: of a tile; as wide as a swizzle: 32, 64 or 128 bytes.
        dtype: of the values.
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
        """Scratch memory, which a kernel receives as the two references of :class:`Views`."""
        # The same bytes twice: with axes of pixels for TMA, and as rows of a matrix for WGMMA.
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
        """Arrivals at a full barrier per tile: one a copy."""
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
        """Start copying the tile at ``origin`` (frame, row) into a stage; ``full`` counts it."""
        # One copy, one arrival. Parts outside of the picture arrive as zeros: that is the padding.
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
        """Start copying a stage to the tile at ``origin`` (frame, row) of the picture."""
        # Parts outside of the picture are not written.
        if not self.interpret:
            box = index(pl.ds(origin[0], self.frames), pl.ds(origin[1], self.rows))
            copy_out(views.tma.at[stage], picture.at[box])
            return
        for frame, row, pixels in self._rows(stage):
            copy_out(views.mma.at[pixels], picture.at[index(origin[0] + frame, origin[1] + row)])

    def _rows(self, stage: Stage) -> Iterator[tuple[int, int, tuple[Index, ...]]]:
        """Every row of a tile: frame, row, and its pixels' index in the matrix view."""
        # A ring of rings has an index for each of its axes.
        at = stage if isinstance(stage, tuple) else (stage,)
        for frame in range(self.frames):
            for row in range(self.rows):
                first = (frame * self.rows + row) * self.columns  # pixels are row-major
                yield frame, row, (*at, pl.ds(first, self.columns))
