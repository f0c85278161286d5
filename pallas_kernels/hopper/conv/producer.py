# SPDX-License-Identifier: Apache-2.0
"""The producer of a convolution: one warpgroup that keeps the rings full, ahead of the consumers.

One thread starts a TMA copy and needs few registers, so the producer gives its own to the consumers
and runs ahead of them as far as the rings are deep, across tiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Shaped

from pallas_kernels.hopper.conv.problem import Problem
from pallas_kernels.hopper.conv.tiles import (
    Refs,
    Tile,
    next_stage,
    row_taps_of,
    temporal_taps_of,
)
from pallas_kernels.hopper.geometry import INTERPRETER_MARGIN
from pallas_kernels.hopper.primitives import Barrier, Index, Ref, Scalar, copy_in, divide, wait

__all__ = ["produce"]


class _Position(NamedTuple):
    """How far the producer is: the next stage of each ring, and how many it has filled."""

    input_stage: Scalar
    inputs: Scalar
    weight_stage: Scalar
    weights: Scalar


class _Source(NamedTuple):
    """One of the inputs that count as joined, and the channels that lie before it."""

    picture: Shaped[Ref, "frames height width channels"]
    channels: int
    before: int


class _Step(NamedTuple):
    """What one halo tile is for: temporal tap, first input channel, its number among the taps."""

    temporal_tap: Scalar
    channel: Scalar
    halo_tile: Scalar


def produce(
    problem: Problem, refs: Refs, tile_count: Scalar, tile_of: Callable[[Scalar], Tile]
) -> None:
    """Fill the rings with what the ``tile_count`` tiles of this thread block need."""
    config = problem.config

    def produce_tile(number: Scalar, position: _Position) -> _Position:
        # The order of copies is the order in which consumers read: they share no other signal.
        tile = tile_of(number)
        first, end = temporal_taps_of(problem, tile)
        before = 0
        for picture, channels in zip(refs.inputs, problem.conv.in_channels):
            source = _Source(picture, channels, before)
            load = functools.partial(_produce_step, problem, refs, tile, first, source)
            # Chunks never straddle two inputs, so each input is walked over by itself.
            chunks = channels // problem.tile_k
            steps = (end - first) * chunks * problem.conv.geometry.halo_tiles
            position = lax.fori_loop(0, steps, load, position)
            before += channels
        if refs.residual is not None:
            # The epilogue reads it last, so it is copied last, through the same ring.
            for channel in range(0, config.tile_n, problem.store_n):
                position = _produce_residual(problem, refs, tile, channel, position)
        return position

    zero = jnp.int32(0)
    # All stages start empty. Positions live in registers: only barriers are shared.
    start = _Position(zero, zero, zero, zero)
    position = lax.fori_loop(0, tile_count, produce_tile, start)
    # A kernel must not end while a barrier has a phase that no one waited for. Stages that were
    # never filled have none.
    for count, stages, empty in (
        (position.inputs, config.input_stages, refs.input_empty),
        (position.weights, config.weight_stages, refs.weight_empty),
    ):
        for stage in range(stages):
            pl.when(count > stage)(functools.partial(wait, empty.at[stage]))


def _produce_step(
    problem: Problem,
    refs: Refs,
    tile: Tile,
    first_tap: Scalar,
    source: _Source,
    number: Scalar,
    position: _Position,
) -> _Position:
    """Copy one halo tile, then the tiles of the weights that multiply it."""
    geometry = problem.conv.geometry
    # Halo tiles of one chunk of channels follow each other: they overlap, and meet in L2.
    number, halo_tile = divide(number, geometry.halo_tiles)
    if problem.spans_clip:
        # One copy has the weights of every temporal tap, as they share the halo tile.
        step = _Step(problem.temporal_taps[0], number * problem.tile_k, halo_tile)
    else:
        # Chunks fastest, then temporal taps, each of which reads another input frame.
        temporal_tap, chunk = divide(number, source.channels // problem.tile_k)
        step = _Step(first_tap + temporal_tap, chunk * problem.tile_k, halo_tile)
    position = _produce_halo_tile(problem, refs, tile, source, step, position)
    load = functools.partial(_produce_weights, problem, refs, tile, source.before, step)
    # A tile of the weights a vertical tap; all of them multiply this halo tile.
    row_taps = row_taps_of(geometry, divide(halo_tile, len(geometry.row_taps))[1])
    return lax.fori_loop(0, row_taps, load, position)


def _produce_halo_tile(
    problem: Problem, refs: Refs, tile: Tile, source: _Source, step: _Step, position: _Position
) -> _Position:
    """Copy a halo tile as soon as its stage is free."""
    geometry = problem.conv.geometry
    # Frames of all samples lie in a row; a tile that spans the clip takes all of a sample.
    frame = tile.sample * problem.conv.in_time
    if not problem.spans_clip:
        # Output frame t and temporal tap k read input frame t + k − low.
        frame += tile.frame + step.temporal_tap - geometry.low[0]
    row, column, row_phase, column_phase = geometry.halo_origin(step.halo_tile, tile.phase)
    # The interpreter's pictures have a margin in front, in units of the strided view.
    margin = INTERPRETER_MARGIN // geometry.stride if problem.interpret else 0
    columns = pl.ds(tile.column + column + margin, problem.config.tile_w)
    # At stride 2 a row has pairs of pixels, whose channels lie one after the other.
    channels = pl.ds(column_phase * source.channels + step.channel, problem.tile_k)

    def index(frames: Index, rows: Index) -> tuple[Index, ...]:
        if geometry.stride == 1:
            return frames, rows, columns, channels
        return frames, rows, row_phase, columns, channels

    stage, stages = position.input_stage, problem.config.input_stages
    _wait_until_empty(position.inputs, stages, refs.input_empty.at[stage])
    problem.input_ring.load(
        source.picture,
        index,
        (frame, tile.row + row + margin),
        refs.input_smem,
        stage,
        refs.input_full.at[stage],
    )
    return position._replace(input_stage=next_stage(stage, stages), inputs=position.inputs + 1)


def _produce_weights(
    problem: Problem,
    refs: Refs,
    tile: Tile,
    before: int,
    step: _Step,
    row_tap: Scalar,
    position: _Position,
) -> _Position:
    """Copy the weights of one tap as soon as their stage is free."""
    stage, stages = position.weight_stage, problem.config.weight_stages
    tap = problem.conv.geometry.tap_index(step.halo_tile, row_tap, tile.phase)
    # Weights are [kt, tap · in, out] or, K-major, [kt, tap · out, in].
    channel = before + step.channel
    if problem.weights_k_major:
        # The swizzled, innermost axis is K.
        tile_of_tap = (
            pl.ds(tap * problem.conv.channels + tile.channel, problem.config.tile_n),
            pl.ds(channel, problem.tile_k),
        )
    else:
        # The swizzled, innermost axis is N.
        tile_of_tap = (
            pl.ds(tap * problem.conv.depth + channel, problem.tile_k),
            pl.ds(tile.channel, problem.config.tile_n),
        )
    # The wait comes last: everything above is computed while the stage is still in use.
    _wait_until_empty(position.weights, stages, refs.weight_empty.at[stage])
    copy_in(
        refs.weights.at[pl.ds(step.temporal_tap, problem.temporal_taps[1]), *tile_of_tap],
        refs.weight_smem.at[stage],
        refs.weight_full.at[stage],
    )
    return position._replace(weight_stage=next_stage(stage, stages), weights=position.weights + 1)


def _produce_residual(
    problem: Problem, refs: Refs, tile: Tile, channel: int, position: _Position
) -> _Position:
    """Copy ``store_n`` channels of the residual into the next stage of the input ring."""
    assert refs.residual is not None
    margin = INTERPRETER_MARGIN if problem.interpret else 0
    columns = pl.ds(tile.column + margin, problem.config.tile_w)
    # The same channels that the epilogue stores at a time, in its order.
    channels = pl.ds(tile.channel + channel, problem.store_n)
    stage, stages = position.input_stage, problem.config.input_stages
    _wait_until_empty(position.inputs, stages, refs.input_empty.at[stage])
    problem.input_ring.load(
        refs.residual,
        lambda frames, rows: (frames, rows, columns, channels),
        (tile.sample * problem.conv.time + tile.frame, tile.row + margin),
        refs.input_smem,
        stage,
        refs.input_full.at[stage],
    )
    return position._replace(input_stage=next_stage(stage, stages), inputs=position.inputs + 1)


def _wait_until_empty(filled: Scalar, stages: int, empty: Barrier) -> None:
    """Wait until the consumers have released a stage; on the first round nobody has used it."""
    pl.when(filled >= stages)(functools.partial(wait, empty))
