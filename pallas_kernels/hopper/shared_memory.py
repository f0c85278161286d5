# SPDX-License-Identifier: Apache-2.0
"""Boxes of pixels in shared memory: the copy engine's view and the tensor cores' view of one place.

The copy engine (TMA) fetches a box ``[frames, rows, columns, channels]`` that may start and end
outside the picture, where it reads zeros and writes nothing. The tensor cores want a matrix of
pixels × channels in tiles of 8 rows. When one pixel's channels are exactly as wide as the swizzle
(64 of 2 bytes: 128 bytes), both are the same bytes: a swizzle moves 16-byte pieces within 8
consecutive pixels only, and tiles of 8 × 64 follow each other as the pixels do.

The two views are a ``plgpu.RefUnion``. Its documentation promises nothing about how views that
overlap relate; on an H200 (jax 0.11.2) they are the same bytes, and the GPU tests check it. The
interpreter keeps them apart and knows no copies that leave the picture, so there a box is copied
row by row into the matrix view, from a picture with a margin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

__all__ = ["Boxes", "swizzled", "tiled"]

Index = Callable[[Any, Any], tuple[Any, ...]]
"""From frames and rows (slices or numbers) to an index of the picture in global memory."""


def swizzled(channels: int, dtype: DTypeLike) -> tuple[Any, ...]:
    """The transforms of memory whose innermost rows of ``channels`` are swizzled."""
    transform: Any = plgpu.SwizzleTransform
    return (transform(channels * jnp.dtype(dtype).itemsize),)


def tiled(channels: int, dtype: DTypeLike) -> tuple[Any, ...]:
    """The transforms of a matrix operand: tiles of 8 × ``channels``, swizzled."""
    transform: Any = plgpu.TilingTransform
    return (transform((8, channels)), *swizzled(channels, dtype))


@dataclasses.dataclass(frozen=True)
class Boxes:
    """A ring (or several) of boxes in shared memory.

    Attributes:
        slots: how many boxes there are, along one or more axes.
        frames: of a box.
        rows: of a box.
        columns: of a box; a multiple of 8.
        channels: of a box; as wide as a swizzle: 32, 64 or 128 bytes.
        dtype: of the values.
        interpret: whether the interpreter runs the kernel.
    """

    slots: tuple[int, ...]
    frames: int
    rows: int
    columns: int
    channels: int
    dtype: Any
    interpret: bool

    @property
    def memory(self) -> plgpu.RefUnion:
        """Scratch memory: a pair of references, to the boxes and to the matrices."""
        box = (self.frames, self.rows, self.columns)
        pixels = self.frames * self.rows * self.columns
        return plgpu.RefUnion(
            plgpu.SMEM(
                (*self.slots, *box, self.channels),
                self.dtype,
                transforms=swizzled(self.channels, self.dtype),
            ),
            plgpu.SMEM(
                (*self.slots, pixels, self.channels),
                self.dtype,
                transforms=tiled(self.channels, self.dtype),
            ),
        )

    @property
    def arrivals(self) -> int:
        """How often a barrier hears of one box."""
        return self.frames * self.rows if self.interpret else 1

    def load(
        self, picture: Any, index: Index, frame: Any, row: Any, memory: Any, slot: Any, barrier: Any
    ) -> None:
        """Start copying the box at ``frame`` and ``row`` into slot; ``barrier`` hears of it."""
        boxes, matrices = memory
        if not self.interpret:
            box = index(self._frames_at(frame), pl.ds(row, self.rows))
            plgpu.copy_gmem_to_smem(picture.at[box], boxes.at[slot], barrier)
            return
        for f in range(self.frames):
            for r in range(self.rows):
                line = self._line(f, r)
                source = picture.at[index(frame + f, row + r)]
                plgpu.copy_gmem_to_smem(source, matrices.at[(*_tuple(slot), line)], barrier)

    def store(
        self, memory: Any, slot: Any, picture: Any, index: Index, frame: Any, row: Any
    ) -> None:
        """Start copying slot to the box at ``frame`` and ``row`` of the picture."""
        boxes, matrices = memory
        if not self.interpret:
            box = index(self._frames_at(frame), pl.ds(row, self.rows))
            plgpu.copy_smem_to_gmem(boxes.at[slot], picture.at[box])
            return
        for f in range(self.frames):
            for r in range(self.rows):
                line = self._line(f, r)
                target = picture.at[index(frame + f, row + r)]
                plgpu.copy_smem_to_gmem(matrices.at[(*_tuple(slot), line)], target)

    def _frames_at(self, frame: Any) -> Any:
        return pl.ds(frame, self.frames)

    def _line(self, frame: int, row: int) -> Any:
        return pl.ds((frame * self.rows + row) * self.columns, self.columns)


def _tuple(slot: Any) -> tuple[Any, ...]:
    return slot if isinstance(slot, tuple) else (slot,)
