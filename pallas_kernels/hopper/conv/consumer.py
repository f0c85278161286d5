# SPDX-License-Identifier: Apache-2.0
"""A consumer: a warpgroup that computes the products and the epilogue of its part of each tile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Bool

from pallas_kernels.core import jax_versions
from pallas_kernels.hopper.conv.epilogue import finish_tile
from pallas_kernels.hopper.conv.problem import Problem
from pallas_kernels.hopper.conv.tiles import (
    Refs,
    Tile,
    mirrored,
    next_stage,
    previous_stage,
    row_taps_of,
    temporal_taps_of,
)
from pallas_kernels.hopper.primitives import (
    Accumulator,
    Scalar,
    arrive,
    copy_in,
    wait,
    wait_for_stores,
    wgmma,
    wgmma_wait,
)

__all__ = ["consume"]


class _Stages(NamedTuple):
    """The next stage of each ring."""

    inputs: Scalar
    weights: Scalar


class _Step(NamedTuple):
    """Loop state: vertical tap and row phase of the next step, and the stages that it reads."""

    row_tap: Scalar
    row_phase: Scalar
    stages: _Stages


def consume(
    problem: Problem,
    refs: Refs,
    tile_count: Scalar,
    tile_of: Callable[[Scalar], Tile],
    warpgroup: Scalar,
) -> None:
    """Compute this warpgroup's part of the ``tile_count`` tiles of this thread block."""
    config = problem.config
    # Sums are in registers; the tensor cores read both operands from shared memory.
    m, n = problem.warpgroup_m, config.tile_n
    accumulator = plgpu.WGMMAAccumulatorRef((n, m) if config.swap_ab else (m, n), jnp.float32)

    def consume_tile(number: Scalar, stages: _Stages) -> _Stages:
        tile = tile_of(number)
        if refs.affine is not None:
            # This copy overlaps the main loop; the epilogue waits for it.
            row = 0 if refs.affine.shape[0] == 1 else tile.sample
            copy_in(
                refs.affine.at[row, :, pl.ds(tile.channel, config.tile_n)],
                refs.affine_smem.at[warpgroup],
                refs.affine_full.at[warpgroup],
            )

        def run(*accumulators: Accumulator) -> _Stages:
            after = _multiply(problem, refs, tile, warpgroup, accumulators, stages)
            sums = [accumulator[...] for accumulator in accumulators]  # waits for the last products
            _release(problem, refs, after, input_too=True)
            inputs = finish_tile(problem, refs, tile, warpgroup, sums, after.inputs)
            return after._replace(inputs=inputs)

        # One accumulator per frame, which starts at zero for each tile.
        return pl.run_scoped(run, *[accumulator] * problem.warpgroup_frames)

    lax.fori_loop(0, tile_count, consume_tile, _Stages(jnp.int32(0), jnp.int32(0)))
    wait_for_stores(0)  # stores read shared memory, which is freed when the block ends


def _release(
    problem: Problem, refs: Refs, after: _Stages, *, input_too: bool | Bool[Array, ""]
) -> None:
    """Release the weight stage before ``after``, and the input stage if ``input_too``."""
    config = problem.config
    # Each consumer arrives once; the second arrival tells the producer that the stage is empty.
    arrive(refs.weight_empty.at[previous_stage(after.weights, config.weight_stages)])

    def release_input() -> None:
        arrive(refs.input_empty.at[previous_stage(after.inputs, config.input_stages)])

    if input_too is True:
        release_input()
    else:
        pl.when(input_too)(release_input)


def _multiply(
    problem: Problem,
    refs: Refs,
    tile: Tile,
    warpgroup: Scalar,
    accumulators: tuple[Accumulator, ...],
    stages: _Stages,
) -> _Stages:
    """Accumulate all products of a tile, and return the stages that come next."""
    config, geometry = problem.config, problem.conv.geometry
    # The producer iterates over the same steps, so both agree on the stages without messages.
    first, end = temporal_taps_of(problem, tile)
    steps = (end - first) * (problem.conv.depth // problem.tile_k) * geometry.spatial_taps

    def multiply_step(number: Scalar, step: _Step) -> _Step:
        row_tap, row_phase, stages = step
        # Vertical taps share a halo tile, so only the first of them waits for it.
        pl.when(row_tap == 0)(functools.partial(wait, refs.input_full.at[stages.inputs]))
        wait(refs.weight_full.at[stages.weights])
        # Unrolled, because accumulators are registers and cannot be indexed at run time.
        for index, group in enumerate(problem.product_groups):
            pixels = {
                source: _pixels(problem, refs, warpgroup, step, source)
                for source in dict.fromkeys(source for _, _, source in group)
            }
            for temporal_tap, frame, source in group:
                operands = (
                    pixels[source],
                    _weights(problem, refs, warpgroup, step, temporal_tap),
                )
                wgmma(accumulators[frame], *(operands[::-1] if config.swap_ab else operands))
            # Keep these products in flight, so that the tensor cores never idle.
            wgmma_wait(len(group))
            if index == 0:
                # Those of the previous step are complete: release its weights, and its halo tile
                # if this step has begun a new one.
                release = functools.partial(_release, problem, refs, stages, input_too=row_tap == 0)
                pl.when(number > 0)(release)
        # The halo tile changes after the last vertical tap; the weights change every step.
        last = row_tap == row_taps_of(geometry, row_phase) - 1
        return _Step(
            jnp.where(last, 0, row_tap + 1),
            jnp.where(last, next_stage(row_phase, len(geometry.row_taps)), row_phase),
            _Stages(
                jnp.where(last, next_stage(stages.inputs, config.input_stages), stages.inputs),
                next_stage(stages.weights, config.weight_stages),
            ),
        )

    zero = jnp.int32(0)
    return lax.fori_loop(0, steps, multiply_step, _Step(zero, zero, stages)).stages


def _pixels(problem: Problem, refs: Refs, warpgroup: Scalar, step: _Step, source: int) -> Any:
    """Pixels of the input frame ``source`` that a step multiplies: an operand of its products.

    They are in shared memory, or loaded into registers.
    """
    config = problem.config
    # Vertical tap r reads the halo tile from its r-th row on.
    start = step.row_tap * config.tile_w
    frame: Scalar = source
    if config.split_frames:
        frame = mirrored(warpgroup, source, problem.conv.time)
    else:
        # The second consumer computes the lower half of the rows.
        start += warpgroup * problem.warpgroup_m
    # The frames of a halo tile lie one after the other, each with its halo rows.
    start += frame * problem.halo_rows * config.tile_w
    pixels = refs.input_smem.mma.at[step.stages.inputs, pl.ds(start, problem.warpgroup_m)]
    if config.swap_ab:
        # WGMMA wants A as [m, k] and B as [k, n]; a transposed view only changes the descriptor.
        return pixels.transpose((1, 0))
    if problem.loads_pixels and not problem.interpret:  # the interpreter reads them in place
        layouts: Any = plgpu.Layout
        layout = layouts.WGMMA if problem.conv.in_bytes == 2 else layouts.WGMMA_8BIT
        return jax_versions.load(pixels, layout)
    return pixels


def _weights(
    problem: Problem, refs: Refs, warpgroup: Scalar, step: _Step, temporal_tap: int
) -> Any:
    """Weights of a temporal tap that a step multiplies: the other operand."""
    tap: Scalar = temporal_tap
    if problem.config.split_frames:
        tap = mirrored(warpgroup, temporal_tap, problem.conv.geometry.kernel[0])
    weights = refs.weight_smem.at[step.stages.weights, tap - problem.temporal_taps[0]]
    if problem.weights_k_major != problem.config.swap_ab:
        weights = weights.transpose((1, 0))
    return weights
