# SPDX-License-Identifier: Apache-2.0
"""A convolution's gradient with respect to its kernel, on Hopper's tensor cores.

For every tap it is a matrix product over all pixels: channels of the input × pixels times pixels ×
channels of the output's gradient. A thread block owns 64 channels of either and one column of the
kernel's taps. It walks over its share of the tiles, which span the clip:

- One warpgroup copies two boxes a tile, of the input and of the gradient, ahead of the others.
- The others multiply, one a tap in height, which reads the same box from another row. The sums of
  all its taps in time stay in registers until the last tile.

Blocks that share the tiles of the same channels store their sums apart, and XLA adds them up.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.core import device, jax_versions
from pallas_kernels.hopper.conv.tiles import next_slot, previous_slot
from pallas_kernels.hopper.geometry import MARGIN, divide
from pallas_kernels.hopper.shared_memory import Boxes

__all__ = ["CHANNELS", "MOST_FRAMES", "weight_sums"]

CHANNELS = 64
"""Of an operand, or a multiple: the widest swizzle, and the rows of the tensor cores' products."""

MOST_FRAMES = 4
"""Of a clip: a tile spans it."""

_ROWS, _COLUMNS = 8, 8
_MOST_SLOTS = 4
_BEGINNING_AND_END = 3  # of a block, in tiles: until the first is there, and storing the sums


@dataclasses.dataclass(frozen=True)
class WeightProblem:
    """A launch: everything that is known when it is compiled.

    Attributes:
        kernel: taps in time, height and width.
        low: frames before the clip, rows above and columns left of the picture.
        row_stride: 1 or 2; in width it is 1.
        batch: samples.
        time: frames of both.
        height: of the gradient.
        width: likewise.
        depth: channels of the input.
        channels: of the gradient.
        dtype: of both.
        processors: of the GPU.
        interpret: whether the interpreter runs it.
    """

    kernel: tuple[int, int, int]
    low: tuple[int, int, int]
    row_stride: int
    batch: int
    time: int
    height: int
    width: int
    depth: int
    channels: int
    dtype: Any
    processors: int
    interpret: bool

    @property
    def multipliers(self) -> int:
        """Warpgroups that multiply: one a tap in height that reads the same box."""
        return self.kernel[1] // self.row_stride

    @property
    def units(self) -> tuple[int, int, int]:
        """Blocks of channels of the input, of the gradient, and boxes."""
        boxes = self.kernel[2] * self.row_stride
        return self.depth // CHANNELS, self.channels // CHANNELS, boxes

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Samples, rows and columns of tiles."""
        return self.batch, pl.cdiv(self.height, _ROWS), pl.cdiv(self.width, _COLUMNS)

    @property
    def splits(self) -> int:
        """Blocks that share the tiles of a unit: so many that all processors end alike."""
        units, tiles = math.prod(self.units), math.prod(self.tiles)

        def cost(splits: int) -> int:
            turns = pl.cdiv(units * splits, self.processors)
            return turns * (pl.cdiv(tiles, splits) + _BEGINNING_AND_END)

        return min(range(1, min(tiles, self.processors) + 1), key=cost)

    @property
    def pairs(self) -> tuple[tuple[int, int, int], ...]:
        """Tap in time, frame of the gradient and frame of the input that meet."""
        low = self.low[0]
        return tuple(
            (tap, frame, frame + tap - low)
            for tap in range(self.kernel[0])
            for frame in range(self.time)
            if 0 <= frame + tap - low < self.time
        )

    @property
    def slots(self) -> int:
        """Of the ring: as many as fit."""
        rows = 2 * _ROWS + self.multipliers - 1
        size = self.time * rows * _COLUMNS * CHANNELS * self.dtype.itemsize
        return min(_MOST_SLOTS, (device.SHARED_MEMORY - 4096) // size)

    @property
    def boxes(self) -> tuple[Boxes, Boxes]:
        """Of the input, with the rows that its taps reach, and of the gradient."""
        rows = _ROWS + self.multipliers - 1, _ROWS
        near, far = (
            Boxes((self.slots,), self.time, count, _COLUMNS, CHANNELS, self.dtype, self.interpret)
            for count in rows
        )
        return near, far


def weight_sums(
    x: Array,
    gradient: Array,
    kernel: tuple[int, int, int],
    low: tuple[int, int, int],
    row_stride: int,
) -> Array:
    """The gradient of a convolution's kernel.

    Args:
        x: ``[batch, time, height, width, channel]``, 16-bit, of up to 4 frames and a multiple of 64
            channels; its height even where every second row is met.
        gradient: likewise, of as many frames.
        kernel: taps in time, height and width; for each phase of rows 2 or 3 in height.
        low: frames of zeros before the clip, rows above the picture and columns left of it.
        row_stride: of the convolution in height; in width it is 1.

    Returns:
        float32 ``[*kernel, channel, out_channel]``.
    """
    batch, time, height, width, channels = gradient.shape
    problem = WeightProblem(
        kernel, low, row_stride, batch, time, height, width, x.shape[-1], channels,
        jnp.dtype(x.dtype), device.processors(), device.interpreting(),
    )  # fmt: skip
    return _launch(problem, _picture(problem, x, row_stride), _picture(problem, gradient, 1))


def _picture(problem: WeightProblem, x: Array, stride: int) -> Array:
    """Frames in a row, with the phases of rows on an axis of their own."""
    batch, time, height, width, channels = x.shape
    if problem.interpret:
        edge = (MARGIN, MARGIN + stride * _ROWS), (MARGIN, MARGIN + _COLUMNS)
        x = jnp.pad(x, ((0, 0), (0, 0), *edge, (0, 0)))
        height, width = x.shape[2:4]
    if stride == 1:
        return x.reshape(batch * time, height, width, channels)
    return x.reshape(batch * time, height // 2, 2, width, channels)


@functools.partial(jax.jit, static_argnums=0)
def _launch(problem: WeightProblem, x: Array, gradient: Array) -> Array:
    multipliers, splits, units = problem.multipliers, problem.splits, problem.units
    taps = problem.kernel[0]
    count, tiles = math.prod(units), math.prod(problem.tiles)
    near, far = problem.boxes
    shape = (splits, count, multipliers, taps, CHANNELS, CHANNELS)

    def body(x: Any, gradient: Any, sums: Any, *memory: Any) -> None:
        block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")
        split, unit = divide(block, count)
        share, _ = divide(tiles - split + splits - 1, splits)

        @pl.when(warpgroup == multipliers)
        def _copy() -> None:
            plgpu.set_max_registers(40, action="decrease")
            _copy_ahead(problem, (x, gradient), memory, unit, split, share)

        @pl.when(warpgroup < multipliers)
        def _multiply() -> None:
            plgpu.set_max_registers(152 if multipliers == 3 else 232, action="increase")
            accumulator = plgpu.WGMMAAccumulatorRef((CHANNELS, CHANNELS), jnp.float32)

            def run(*accumulators: Any) -> None:
                _multiply_all(problem, memory, warpgroup, accumulators, share)
                for tap, each in enumerate(accumulators):
                    jax_versions.store(sums.at[split, unit, warpgroup, tap], each[...])

            pl.run_scoped(run, *[accumulator] * taps)

    body.__name__ = (
        f"weights_{'x'.join(map(str, problem.kernel))}_stride{problem.row_stride}"
        f"_{problem.depth}_to_{problem.channels}_at_{problem.height}x{problem.width}"
    )
    kernel = plgpu.kernel(
        body,
        out_type=[jax.ShapeDtypeStruct(shape, jnp.float32)],
        scratch_types=[
            near.memory,
            far.memory,
            plgpu.Barrier(num_arrivals=near.arrivals + far.arrivals, num_barriers=problem.slots),
            plgpu.Barrier(num_arrivals=multipliers, num_barriers=problem.slots),
        ],
        grid=(splits * count,),
        grid_names=("block",),
        num_threads=multipliers + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        interpret=jax_versions.interpreter() if problem.interpret else None,
    )
    (sums,) = kernel(x, gradient)
    # [block of channels, block of channels, column, phase of rows, row, time, channel, channel]
    sums = sums.sum(axis=0).reshape(
        *units[:2], problem.kernel[2], problem.row_stride, multipliers, taps, CHANNELS, CHANNELS
    )
    sums = sums.transpose(5, 4, 3, 2, 0, 6, 1, 7)
    return sums.reshape(*problem.kernel, problem.depth, problem.channels)


def _copy_ahead(
    problem: WeightProblem,
    pictures: tuple[Any, Any],
    memory: Any,
    unit: Any,
    split: Any,
    share: Any,
) -> None:
    """The copying warpgroup: both boxes of every tile."""
    near, far = problem.boxes
    near_memory, far_memory, full, empty = memory
    _, outer, loads = problem.units
    unit, load = divide(unit, loads)
    of_input, of_gradient = divide(unit, outer)
    column_by, phase = divide(load, problem.row_stride)
    # Lifted by an even number, so that no number is negative.
    row_by, phase = divide(phase - problem.low[1] + MARGIN, problem.row_stride)
    row_by -= MARGIN // problem.row_stride
    column_by -= problem.low[2]
    near_channels = pl.ds(of_input * CHANNELS, CHANNELS)
    far_channels = pl.ds(of_gradient * CHANNELS, CHANNELS)
    margin = MARGIN if problem.interpret else 0
    row_by += margin // problem.row_stride

    def copy(turn: Any, slot: Any) -> Any:
        number, column = divide(split + turn * problem.splits, problem.tiles[2])
        sample, row = divide(number, problem.tiles[1])
        row, column, frame = row * _ROWS, column * _COLUMNS, sample * problem.time
        pl.when(turn >= problem.slots)(functools.partial(plgpu.barrier_wait, empty.at[slot]))
        near_columns = pl.ds(column + column_by + margin, _COLUMNS)
        far_columns = pl.ds(column + margin, _COLUMNS)

        def near_index(frames: Any, rows: Any) -> tuple[Any, ...]:
            if problem.row_stride == 1:
                return frames, rows, near_columns, near_channels
            return frames, rows, phase, near_columns, near_channels

        def far_index(frames: Any, rows: Any) -> tuple[Any, ...]:
            return frames, rows, far_columns, far_channels

        barrier = full.at[slot]
        x, gradient = pictures
        near.load(x, near_index, frame, row + row_by, near_memory, slot, barrier)
        far.load(gradient, far_index, frame, row + margin, far_memory, slot, barrier)
        return next_slot(slot, problem.slots)

    lax.fori_loop(0, share, copy, jnp.int32(0))
    for slot in range(problem.slots):  # every phase of a barrier has to be seen
        pl.when(share > slot)(functools.partial(plgpu.barrier_wait, empty.at[slot]))


def _multiply_all(
    problem: WeightProblem, memory: Any, warpgroup: Any, accumulators: tuple[Any, ...], share: Any
) -> None:
    """A multiplying warpgroup: its tap's products of every tile."""
    (_, near), (_, far), full, empty = memory
    pixels = _ROWS * _COLUMNS
    box = (_ROWS + problem.multipliers - 1) * _COLUMNS

    def release(slot: Any) -> None:
        plgpu.barrier_arrive(empty.at[previous_slot(slot, problem.slots)])

    def multiply(turn: Any, slot: Any) -> Any:
        plgpu.barrier_wait(full.at[slot])
        for tap, frame, source in problem.pairs:
            start = source * box + warpgroup * _COLUMNS
            shifted = near.at[slot, pl.ds(start, pixels)]
            plain = far.at[slot, pl.ds(frame * pixels, pixels)]
            plgpu.wgmma(accumulators[tap], shifted.transpose((1, 0)), plain)
        plgpu.wgmma_wait(len(problem.pairs))
        pl.when(turn > 0)(functools.partial(release, slot))
        return next_slot(slot, problem.slots)

    slot = lax.fori_loop(0, share, multiply, jnp.int32(0))
    plgpu.wgmma_wait(0)
    release(slot)
