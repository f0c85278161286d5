# SPDX-License-Identifier: Apache-2.0
"""A convolution's gradient with respect to its weights, on Hopper's tensor cores.

For every tap it is a matrix product over all pixels: the input, channels × pixels, times the
output's gradient, pixels × channels. A thread block computes 64 × 64 channels for one column of the
kernel's taps, over a part of the pixels (split-K):

- In each step the producer copies two tiles, one of the input with its halo and one of the
  gradient. They span the clip, so that they contain the frames of every temporal tap.
- Each consumer multiplies for one vertical tap, or for a half of more than three; all read the same
  halo tile, from different rows on. The sums of all its taps stay in registers until the last step.

Blocks that split the pixels of the same channels store partial sums, which XLA adds up. Without
atomics, results are bitwise reproducible.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Float32, Shaped

from pallas_kernels.core import device, jax_versions
from pallas_kernels.hopper.conv.tiles import next_stage, previous_stage
from pallas_kernels.hopper.geometry import INTERPRETER_MARGIN
from pallas_kernels.hopper.primitives import (
    Accumulator,
    Barrier,
    Index,
    Ref,
    Scalar,
    arrive,
    divide,
    wait,
    wgmma,
    wgmma_wait,
)
from pallas_kernels.hopper.shared_memory import Views
from pallas_kernels.hopper.weight_gradient.problem import CHANNELS, TILE_H, TILE_W, WeightProblem

__all__ = ["weight_sums"]

_PRODUCER_REGISTERS = 40
# By number of consumers. 64 × 64 sums take 32 registers per thread and temporal tap; three or four
# warpgroups share 65,536 registers, and two have as many as they can use from the start.
_CONSUMER_REGISTERS = {2: 232, 3: 152}


class _Memory(NamedTuple):
    """Both rings; each stage has one full and one empty barrier for both of them."""

    inputs: Views
    gradients: Views
    full: Shaped[Barrier, " stages"]
    empty: Shaped[Barrier, " stages"]


class _Part(NamedTuple):
    """Work of a thread block: every ``split_k``-th tile of pixels from ``first`` on."""

    output_tile: Scalar
    first: Scalar
    steps: Scalar


def weight_sums(
    x: Shaped[Array, "batch in_time _ _ depth"],
    gradient: Shaped[Array, "batch time height width channels"],
    kernel: tuple[int, int, int],
    low: tuple[int, int, int],
    row_stride: int,
) -> Float32[Array, "kt kh kw depth channels"]:
    """The gradient of a convolution's weights.

    Args:
        x: 16-bit input ``[batch, time, height, width, channel]`` of up to 4 frames and a multiple
            of 64 channels; at a row stride of 2 its height must be even.
        gradient: gradient of the output, with the same restrictions.
        kernel: taps in time, height and width; in height up to 3 for each row phase and in time up
            to 3, or in time up to 4 with 1 in height, or in height up to 8 with 1 in time.
        low: zero padding before the first frame, above the first row and left of the first column.
        row_stride: stride of the convolution in height; in width it is 1.

    Returns:
        float32 ``[*kernel, channel, out_channel]``.
    """
    batch, out_time, height, width, channels = gradient.shape
    problem = WeightProblem(
        kernel=kernel,
        low=low,
        row_stride=row_stride,
        batch=batch,
        time=x.shape[1],
        out_time=out_time,
        height=height,
        width=width,
        depth=x.shape[-1],
        channels=channels,
        dtype=jnp.dtype(x.dtype),
        sm_count=device.sm_count(),
        interpret=device.interpreting(),
    )
    return _launch(problem, _picture(problem, x, row_stride), _picture(problem, gradient, 1))


def _picture(
    problem: WeightProblem, x: Shaped[Array, "batch time height width channels"], stride: int
) -> Shaped[Array, "frames *view channels"]:
    """Merge samples and frames into one axis; at stride 2, give even and odd rows an axis."""
    batch, time, height, width, channels = x.shape
    if problem.interpret:
        margin = INTERPRETER_MARGIN
        edges = (margin, margin + stride * TILE_H), (margin, margin + TILE_W)
        x = jnp.pad(x, ((0, 0), (0, 0), *edges, (0, 0)))
        height, width = x.shape[2:4]
    if stride == 1:
        return x.reshape(batch * time, height, width, channels)
    return x.reshape(batch * time, height // 2, 2, width, channels)


@functools.partial(jax.jit, static_argnums=0)  # layers of equal shapes are lowered once
def _launch(
    problem: WeightProblem,
    x: Shaped[Array, "frames *view depth"],
    gradient: Shaped[Array, "out_frames height width channels"],
) -> Float32[Array, "kt kh kw depth channels"]:
    consumers, splits = problem.consumers, problem.split_k
    outputs, pixel_tiles = math.prod(problem.output_tiles), math.prod(problem.pixel_tiles)
    shape = (splits, outputs, consumers, problem.sums, CHANNELS, CHANNELS)

    def body(
        x: Shaped[Ref, "frames *view depth"],
        gradient: Shaped[Ref, "out_frames height width channels"],
        sums: Shaped[Ref, "splits outputs consumers taps 64 64"],
        inputs: Ref,
        gradients: Ref,
        full: Shaped[Barrier, " stages"],
        empty: Shaped[Barrier, " stages"],
    ) -> None:
        memory = _Memory(Views(*inputs), Views(*gradients), full, empty)
        block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")
        # Blocks of one split run at the same time and read the same pixels, so these are in L2.
        split, output_tile = divide(block, outputs)
        steps, _ = divide(pixel_tiles - split + splits - 1, splits)
        part = _Part(output_tile, split, steps)

        @pl.when(warpgroup == consumers)
        def _produce_all() -> None:
            if consumers > 1:
                plgpu.set_max_registers(_PRODUCER_REGISTERS, action="decrease")
            _produce(problem, (x, gradient), memory, part)

        @pl.when(warpgroup < consumers)
        def _consume_all() -> None:
            if consumers > 1:
                plgpu.set_max_registers(_CONSUMER_REGISTERS[consumers], action="increase")
            accumulator = plgpu.WGMMAAccumulatorRef((CHANNELS, CHANNELS), jnp.float32)

            def run(*accumulators: Accumulator) -> None:
                _consume(problem, memory, warpgroup, accumulators, steps)
                for tap, each in enumerate(accumulators):
                    target = sums.at[split, output_tile, warpgroup, tap]
                    jax_versions.store(target, each[...])

            pl.run_scoped(run, *[accumulator] * problem.sums)

    body.__name__ = problem.name
    kernel = plgpu.kernel(
        body,
        out_type=[jax.ShapeDtypeStruct(shape, jnp.float32)],
        scratch_types=_scratch(problem),
        grid=(splits * outputs,),
        grid_names=("block",),
        num_threads=consumers + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        interpret=jax_versions.interpreter() if problem.interpret else None,
    )
    (sums,) = kernel(x, gradient)
    return _as_kernel(problem, sums.sum(axis=0))


def _scratch(problem: WeightProblem) -> list[Any]:
    """Both rings, then the full and the empty barrier of each stage."""
    inputs, gradients = problem.input_ring, problem.gradient_ring
    return [
        inputs.smem,
        gradients.smem,
        # A stage is full when the tiles of both rings have arrived.
        plgpu.Barrier(
            num_arrivals=inputs.arrivals + gradients.arrivals, num_barriers=problem.stages
        ),
        plgpu.Barrier(num_arrivals=problem.consumers, num_barriers=problem.stages),
    ]


def _as_kernel(
    problem: WeightProblem, sums: Float32[Array, "outputs consumers taps 64 64"]
) -> Float32[Array, "kt kh kw depth channels"]:
    """Rearrange the tiles of the result into the weights' shape."""
    # [depth tile, channel tile, column tap, row phase, row tap, temporal tap, depth, channel];
    # vertical tap = 2 · row tap + row phase at a stride of 2.
    row_taps = problem.consumers * problem.row_taps
    sums = sums.reshape(
        *problem.output_tiles[:2], problem.kernel[2], problem.row_stride, row_taps,
        problem.kernel[0], CHANNELS, CHANNELS,
    )  # fmt: skip
    # To [kt, kh = row tap · stride + phase, kw, depth, channels].
    sums = sums.transpose(5, 4, 3, 2, 0, 6, 1, 7)
    kt, kh, kw = problem.kernel
    rows = row_taps * problem.row_stride
    return sums.reshape(kt, rows, kw, problem.depth, problem.channels)[:, :kh]


def _produce(
    problem: WeightProblem,
    pictures: tuple[
        Shaped[Ref, "frames *view depth"], Shaped[Ref, "out_frames height width channels"]
    ],
    memory: _Memory,
    part: _Part,
) -> None:
    """Run the producer: copy both tiles of every step."""
    x, gradient = pictures
    _, channel_tiles, halo_tiles = problem.output_tiles
    output_tile, halo_tile = divide(part.output_tile, halo_tiles)
    depth_tile, channel_tile = divide(output_tile, channel_tiles)
    column_by, phase = divide(halo_tile, problem.row_stride)
    # Horizontal tap k reads column x + k − low.
    column_by -= problem.low[2]
    # As in `Geometry.halo_origin`, the even margin keeps the dividend from being negative.
    row_by, phase = divide(phase - problem.low[1] + INTERPRETER_MARGIN, problem.row_stride)
    margin = INTERPRETER_MARGIN if problem.interpret else 0
    row_by += (margin - INTERPRETER_MARGIN) // problem.row_stride
    # Every block reads its own 64 channels of both arrays.
    near_channels = pl.ds(depth_tile * CHANNELS, CHANNELS)
    far_channels = pl.ds(channel_tile * CHANNELS, CHANNELS)

    def produce_step(step: Scalar, stage: Scalar) -> Scalar:
        # Interleaved, so that the numbers of steps of the splits differ by at most one.
        number = part.first + step * problem.split_k
        number, column = divide(number, problem.pixel_tiles[2])
        sample, row = divide(number, problem.pixel_tiles[1])
        row, column = row * TILE_H, column * TILE_W
        near_columns = pl.ds(column + column_by + margin, TILE_W)
        far_columns = pl.ds(column + margin, TILE_W)

        def near_index(frames: Index, rows: Index) -> tuple[Index, ...]:
            if problem.row_stride == 1:
                return frames, rows, near_columns, near_channels
            return frames, rows, phase, near_columns, near_channels

        def far_index(frames: Index, rows: Index) -> tuple[Index, ...]:
            return frames, rows, far_columns, far_channels

        # In the first round the stage is still unused.
        pl.when(step >= problem.stages)(functools.partial(wait, memory.empty.at[stage]))
        full, origin = memory.full.at[stage], (sample * problem.time, row + row_by)
        problem.input_ring.load(x, near_index, origin, memory.inputs, stage, full)
        origin = sample * problem.out_time, row + margin
        problem.gradient_ring.load(gradient, far_index, origin, memory.gradients, stage, full)
        return next_stage(stage, problem.stages)

    lax.fori_loop(0, part.steps, produce_step, jnp.int32(0))
    # A kernel must not end before someone has waited for every completed phase of a barrier.
    for stage in range(problem.stages):
        pl.when(part.steps > stage)(functools.partial(wait, memory.empty.at[stage]))


def _consume(
    problem: WeightProblem,
    memory: _Memory,
    warpgroup: Scalar,
    accumulators: tuple[Accumulator, ...],
    steps: Scalar,
) -> None:
    """Run a consumer: in every step, accumulate the products of its vertical taps."""
    pixels = TILE_H * TILE_W
    halo_pixels = problem.input_ring.rows * TILE_W

    # Releases the stage before the current one, whose products are complete.
    def release(stage: Scalar) -> None:
        arrive(memory.empty.at[previous_stage(stage, problem.stages)])

    def consume_step(step: Scalar, stage: Scalar) -> Scalar:
        wait(memory.full.at[stage])
        for row_tap, tap, frame, source in problem.products:
            # Vertical tap r reads the halo tile from its r-th row on.
            row = warpgroup * problem.row_taps + row_tap
            start = source * halo_pixels + row * TILE_W
            shifted = memory.inputs.mma.at[stage, pl.ds(start, pixels)]
            plain = memory.gradients.mma.at[stage, pl.ds(frame * pixels, pixels)]
            # Operand A is [channels, pixels]; a transposed view only changes the descriptor.
            total = accumulators[row_tap * problem.kernel[0] + tap]
            wgmma(total, shifted.transpose((1, 0)), plain)
        # Keep this step's products in flight; those of the previous step are complete.
        wgmma_wait(len(problem.products))
        pl.when(step > 0)(functools.partial(release, stage))
        return next_stage(stage, problem.stages)

    stage = lax.fori_loop(0, steps, consume_step, jnp.int32(0))
    wgmma_wait(0)
    release(stage)
