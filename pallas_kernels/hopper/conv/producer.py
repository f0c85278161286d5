# SPDX-License-Identifier: Apache-2.0
"""The producer: the warpgroup that copies inputs and weights into the rings.

Starting TMA copies takes few registers, so the producer gives most of its registers to the
consumers. It runs ahead of them, also from one tile to the next, until the rings are full.
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
    """Progress of the producer: for each ring, the next stage and the number of stages filled."""

    input_stage: Scalar
    inputs: Scalar
    weight_stage: Scalar
    weights: Scalar


class _Source(NamedTuple):
    """One of the concatenated inputs, its channels, and the number of channels before it."""

    picture: Shaped[Ref, "frames height width channels"]
    channels: int
    before: int


class _Step(NamedTuple):
    """Position of a halo tile: temporal tap, first input channel, index among the halo tiles."""

    temporal_tap: Scalar
    channel: Scalar
    halo_tile: Scalar


def produce(
    problem: Problem, refs: Refs, tile_count: Scalar, tile_of: Callable[[Scalar], Tile]
) -> None:
    """Copy inputs and weights of the ``tile_count`` tiles of this thread block into the rings."""
    config = problem.config

    def produce_tile(number: Scalar, position: _Position) -> _Position:
        # Copies must have the order in which the consumers read: nothing else identifies them.
        tile = tile_of(number)
        first, end = temporal_taps_of(problem, tile)
        before = 0
        for picture, channels in zip(refs.inputs, problem.conv.in_channels):
            source = _Source(picture, channels, before)
            load = functools.partial(_produce_step, problem, refs, tile, first, source)
            # A chunk of channels never straddles two inputs, so each input has its own loop.
            chunks = channels // problem.tile_k
            steps = (end - first) * chunks * problem.conv.geometry.halo_tiles
            position = lax.fori_loop(0, steps, load, position)
            before += channels
        if refs.residual is not None:
            # The epilogue reads the residual last, so it is copied last, through the same ring.
            for channel in range(0, config.tile_n, problem.store_n):
                position = _produce_residual(problem, refs, tile, channel, position)
        return position

    zero = jnp.int32(0)
    # All stages start empty. The position is in registers; only barriers are shared.
    start = _Position(zero, zero, zero, zero)
    position = lax.fori_loop(0, tile_count, produce_tile, start)
    # A kernel must not end before someone has waited for every completed phase of a barrier. Stages
    # that were never filled have completed none.
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
    """Copy one halo tile, then the tiles of weights for its vertical taps."""
    geometry = problem.conv.geometry
    # The halo tiles of one chunk of channels come one after another: they overlap, so that later
    # ones are in the L2 cache.
    number, halo_tile = divide(number, geometry.halo_tiles)
    if problem.spans_clip:
        # One copy fetches the weights of all temporal taps, because they share the halo tile.
        step = _Step(problem.temporal_taps[0], number * problem.tile_k, halo_tile)
    else:
        # Chunks vary fastest, then temporal taps, each of which reads another input frame.
        temporal_tap, chunk = divide(number, source.channels // problem.tile_k)
        step = _Step(first_tap + temporal_tap, chunk * problem.tile_k, halo_tile)
    position = _produce_halo_tile(problem, refs, tile, source, step, position)
    load = functools.partial(_produce_weights, problem, refs, tile, source.before, step)
    # One tile of weights per vertical tap; all of them multiply this halo tile.
    row_taps = row_taps_of(geometry, divide(halo_tile, len(geometry.row_taps))[1])
    return lax.fori_loop(0, row_taps, load, position)


def _produce_halo_tile(
    problem: Problem, refs: Refs, tile: Tile, source: _Source, step: _Step, position: _Position
) -> _Position:
    """Copy a halo tile as soon as its stage is free."""
    geometry = problem.conv.geometry
    # Samples and frames share an axis; a tile that spans the clip starts at its sample's first.
    frame = tile.sample * problem.conv.in_time
    if not problem.spans_clip:
        # Output frame t and temporal tap k read input frame t + k − low.
        frame += tile.frame + step.temporal_tap - geometry.low[0]
    row, column, row_phase, column_phase = geometry.halo_origin(step.halo_tile, tile.phase)
    # For the interpreter, frames have a margin; it is in units of the strided view here.
    margin = INTERPRETER_MARGIN // geometry.stride if problem.interpret else 0
    columns = pl.ds(tile.column + column + margin, problem.config.tile_w)
    # At stride 2 a column is a pair of pixels, whose channels lie one after the other.
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
    # Wait last, so that everything above is computed while the stage is still in use.
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
    sample = tile.sample if problem.sharing == 1 else divide(tile.sample, problem.sharing)[0]
    margin = INTERPRETER_MARGIN if problem.interpret else 0
    columns = pl.ds(tile.column + margin, problem.config.tile_w)
    # Chunks and order are those of the epilogue's stores.
    channels = pl.ds(tile.channel + channel, problem.store_n)
    stage, stages = position.input_stage, problem.config.input_stages
    _wait_until_empty(position.inputs, stages, refs.input_empty.at[stage])
    problem.input_ring.load(
        refs.residual,
        lambda frames, rows: (frames, rows, columns, channels),
        (sample * problem.conv.time + tile.frame, tile.row + margin),
        refs.input_smem,
        stage,
        refs.input_full.at[stage],
    )
    return position._replace(input_stage=next_stage(stage, stages), inputs=position.inputs + 1)


def _wait_until_empty(filled: Scalar, stages: int, empty: Barrier) -> None:
    """Wait until the consumers have released a stage; in the first round it is still unused."""
    pl.when(filled >= stages)(functools.partial(wait, empty))
