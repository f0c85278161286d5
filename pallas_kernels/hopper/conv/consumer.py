# SPDX-License-Identifier: Apache-2.0
"""A multiplying warpgroup of a convolution: all products of its share of a tile."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.hopper.conv.epilogue import finish_tile
from pallas_kernels.hopper.conv.problem import Problem
from pallas_kernels.hopper.conv.tiles import (
    Refs,
    Tile,
    meeting_taps,
    mirrored,
    next_slot,
    previous_slot,
    taps_in_turn,
)

__all__ = ["multiply_tiles"]


def multiply_tiles(problem: Problem, refs: Refs, share: Any, place: Any, warpgroup: Any) -> None:
    """A multiplying warpgroup: its pixels of every tile of this block."""
    config = problem.config
    rows, columns = problem.share, config.channels
    if config.weights_left:
        rows, columns = columns, rows
    accumulator = plgpu.WGMMAAccumulatorRef((rows, columns), jnp.float32)

    def multiply_tile(turn: Any, slots: Any) -> Any:
        tile = place(turn)
        if refs.affine is not None:
            row = 0 if refs.affine.shape[0] == 1 else tile.sample
            plgpu.copy_gmem_to_smem(
                refs.affine.at[row, :, pl.ds(tile.channel, config.channels)],
                refs.affine_memory.at[warpgroup],
                refs.affine_full.at[warpgroup],
            )

        def run(*accumulators: Any) -> Any:
            box, piece = _multiply(problem, refs, tile, warpgroup, accumulators, slots)
            sums = [accumulator[...] for accumulator in accumulators]
            _release(problem, refs, box, piece, both=True)
            return finish_tile(problem, refs, tile, warpgroup, sums, box), piece

        return pl.run_scoped(run, *[accumulator] * problem.frames_each)

    lax.fori_loop(0, share, multiply_tile, (jnp.int32(0), jnp.int32(0)))
    plgpu.wait_smem_to_gmem(0)


def _release(problem: Problem, refs: Refs, box: Any, piece: Any, *, both: Any) -> None:
    """Give back the slots before these: the weights', and the input's if ``both``."""
    config = problem.config
    plgpu.barrier_arrive(refs.weight_empty.at[previous_slot(piece, config.weight_slots)])

    def release_box() -> None:
        plgpu.barrier_arrive(refs.input_empty.at[previous_slot(box, config.input_slots)])

    if both is True:
        release_box()
    else:
        pl.when(both)(release_box)


def _multiply(
    problem: Problem,
    refs: Refs,
    tile: Tile,
    warpgroup: Any,
    accumulators: tuple[Any, ...],
    slots: tuple[Any, Any],
) -> tuple[Any, Any]:
    """All products of a tile; returns the slots that come next."""
    config, geometry = problem.config, problem.work.geometry
    _, matrices = refs.input_memory
    frame_pixels = problem.box_rows * config.columns
    first, end = meeting_taps(problem, tile)
    chunks = problem.work.depth // problem.chunk
    steps = (end - first) * chunks * geometry.steps
    first_tap, _ = problem.temporal_taps

    def step(number: Any, carry: Any) -> Any:
        tap, turn, box, piece = carry
        pl.when(tap == 0)(functools.partial(plgpu.barrier_wait, refs.input_full.at[box]))
        plgpu.barrier_wait(refs.weight_full.at[piece])
        start = tap * config.columns
        if not config.split_frames:
            start += warpgroup * problem.share
        for temporal_tap, frame, source in problem.pairs:
            if config.split_frames:
                temporal_tap = mirrored(warpgroup, temporal_tap, geometry.kernel[0])
                source = mirrored(warpgroup, source, problem.work.time)
            pixels = matrices.at[box, pl.ds(start + source * frame_pixels, problem.share)]
            weights = refs.weight_memory.at[piece, temporal_tap - first_tap]
            if problem.rows_are_channels != config.weights_left:
                weights = weights.transpose((1, 0))
            if config.weights_left:
                operands = weights, pixels.transpose((1, 0))
            else:
                operands = pixels, weights
            plgpu.wgmma(accumulators[frame], *operands)
        # All but this step's products are done, so the last step's slots are free.
        plgpu.wgmma_wait(len(problem.pairs))
        pl.when(number > 0)(functools.partial(_release, problem, refs, box, piece, both=tap == 0))
        last = tap == taps_in_turn(geometry, turn) - 1
        box = jnp.where(last, next_slot(box, config.input_slots), box)
        turn = jnp.where(last, next_slot(turn, len(geometry.taps)), turn)
        return jnp.where(last, 0, tap + 1), turn, box, next_slot(piece, config.weight_slots)

    zero = jnp.int32(0)
    _, _, box, piece = lax.fori_loop(0, steps, step, (zero, zero, *slots))
    return box, piece
