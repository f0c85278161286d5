# SPDX-License-Identifier: Apache-2.0
"""The copying warpgroup of a convolution: it fills the rings, ahead of those that multiply."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.hopper.conv.problem import Problem
from pallas_kernels.hopper.conv.tiles import Refs, Tile, meeting_taps, next_slot, taps_in_turn
from pallas_kernels.hopper.geometry import MARGIN, divide

__all__ = ["copy_ahead"]


def copy_ahead(problem: Problem, refs: Refs, share: Any, place: Any) -> None:
    """The copying warpgroup: fill the rings with what all tiles of this block will need."""
    config = problem.config

    def copy_tile(turn: Any, carry: Any) -> Any:
        tile = place(turn)
        first, end = meeting_taps(problem, tile)
        depth = 0
        for source, channels in zip(refs.inputs, problem.work.in_channels):
            load = functools.partial(
                _copy_box, problem, refs, tile, first, (source, channels, depth)
            )
            count = (end - first) * (channels // problem.chunk) * problem.work.geometry.loads
            carry = lax.fori_loop(0, count, load, carry)
            depth += channels
        if refs.residual is not None:
            for channel in range(0, config.channels, problem.store_chunk):
                carry = _copy_residual(problem, refs, tile, channel, carry)
        return carry

    zero = jnp.int32(0)
    _, boxes, _, pieces = lax.fori_loop(0, share, copy_tile, (zero, zero, zero, zero))
    # Every phase of a barrier has to be seen before the kernel ends; a slot that was never filled
    # has none.
    for count, slots, empty in (
        (boxes, config.input_slots, refs.input_empty),
        (pieces, config.weight_slots, refs.weight_empty),
    ):
        for slot in range(slots):
            pl.when(count > slot)(functools.partial(plgpu.barrier_wait, empty.at[slot]))


def _copy_box(
    problem: Problem,
    refs: Refs,
    tile: Tile,
    first_tap: Any,
    source: tuple[Any, int, int],
    number: Any,
    carry: Any,
) -> Any:
    """One box of the input, then the weights that multiply it, each as its slot becomes free."""
    config, geometry, chunk = problem.config, problem.work.geometry, problem.chunk
    picture, in_channels, depth = source
    box_slot, boxes, piece_slot, pieces = carry
    number, load = divide(number, geometry.loads)
    chunks = in_channels // chunk
    frame = tile.sample * problem.work.in_time
    if problem.resident:
        temporal_tap, channel = problem.temporal_taps[0], number * chunk
    else:
        temporal_tap, channel = divide(number, chunks)
        temporal_tap, channel = first_tap + temporal_tap, channel * chunk
        frame += tile.frame + temporal_tap - geometry.low[0]
    row, column, row_phase, column_phase = geometry.box(load, tile.phase)
    margin = MARGIN // geometry.stride if problem.interpret else 0
    columns = pl.ds(tile.column + column + margin, config.columns)
    channels = pl.ds(column_phase * in_channels + channel, chunk)

    def index(frames: Any, rows: Any) -> tuple[Any, ...]:
        if geometry.stride == 1:
            return frames, rows, columns, channels
        return frames, rows, row_phase, columns, channels

    _wait_if_used(boxes, config.input_slots, refs.input_empty.at[box_slot])
    problem.input_boxes.load(
        picture,
        index,
        frame,
        tile.row + row + margin,
        refs.input_memory,
        box_slot,
        refs.input_full.at[box_slot],
    )

    def copy_weights(tap: Any, carry: Any) -> Any:
        slot, pieces = carry
        _wait_if_used(pieces, config.weight_slots, refs.weight_empty.at[slot])
        place = geometry.tap(load, tap, tile.phase)
        inputs = pl.ds(place * problem.work.depth + depth + channel, chunk)
        outputs = pl.ds(tile.channel, config.channels)
        if problem.rows_are_channels:
            inputs = pl.ds(depth + channel, chunk)
            outputs = pl.ds(place * problem.work.channels + tile.channel, config.channels)
        plgpu.copy_gmem_to_smem(
            refs.weights.at[
                pl.ds(temporal_tap, problem.temporal_taps[1]),
                *((outputs, inputs) if problem.rows_are_channels else (inputs, outputs)),
            ],
            refs.weight_memory.at[slot],
            refs.weight_full.at[slot],
        )
        return next_slot(slot, config.weight_slots), pieces + 1

    taps = taps_in_turn(geometry, divide(load, len(geometry.taps))[1])
    piece_slot, pieces = lax.fori_loop(0, taps, copy_weights, (piece_slot, pieces))
    return next_slot(box_slot, config.input_slots), boxes + 1, piece_slot, pieces


def _copy_residual(problem: Problem, refs: Refs, tile: Tile, channel: int, carry: Any) -> Any:
    """What is added to a tile's sums, through the ring of inputs: it is there in time."""
    config = problem.config
    slot, boxes, *pieces = carry
    margin = MARGIN if problem.interpret else 0
    columns = pl.ds(tile.column + margin, config.columns)
    channels = pl.ds(tile.channel + channel, problem.store_chunk)
    _wait_if_used(boxes, config.input_slots, refs.input_empty.at[slot])
    problem.input_boxes.load(
        refs.residual,
        lambda frames, rows: (frames, rows, columns, channels),
        tile.sample * problem.work.time + tile.frame,
        tile.row + margin,
        refs.input_memory,
        slot,
        refs.input_full.at[slot],
    )
    return next_slot(slot, config.input_slots), boxes + 1, *pieces


def _wait_if_used(count: Any, slots: int, empty: Any) -> None:
    """Wait until a slot is free, which it is at first."""
    pl.when(count >= slots)(functools.partial(plgpu.barrier_wait, empty))
