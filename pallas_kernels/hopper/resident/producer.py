# SPDX-License-Identifier: Apache-2.0
"""The producer: the warpgroup that copies weights and halo tiles into shared memory."""

from __future__ import annotations

import functools

from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.hopper.geometry import INTERPRETER_MARGIN
from pallas_kernels.hopper.primitives import Scalar, copy_in, divide, wait
from pallas_kernels.hopper.resident.memory import Refs, Tiles, tile_at
from pallas_kernels.hopper.resident.problem import CONSUMERS, ResidentProblem

__all__ = ["produce"]


def produce(
    problem: ResidentProblem,
    refs: Refs,
    tiles: Tiles,
) -> None:
    """Copy the weights, then the halo tiles of both consumers in turn."""
    copy_in(refs.weights, refs.weight_smem, refs.weights_full)
    stages = problem.stages

    def produce_turn(turn: Scalar, _: None) -> None:
        for consumer in range(CONSUMERS):
            number = tiles.number(turn, consumer)

            copy = functools.partial(_produce_halos, problem, refs, number, consumer, turn)
            # The last pair may have only one tile.
            pl.when(number < problem.tiles)(copy)

    lax.fori_loop(0, tiles.turns(0), produce_turn, None)
    # A kernel must not end before someone has waited for every completed phase of a barrier.
    for consumer in range(CONSUMERS):
        filled = tiles.turns(consumer) * problem.chunks
        for stage in range(stages):
            empty = refs.halo_empty.at[consumer * stages + stage]
            pl.when(filled > stage)(functools.partial(wait, empty))


def _produce_halos(
    problem: ResidentProblem, refs: Refs, number: Scalar, consumer: int, turn: Scalar
) -> None:
    """Copy each chunk of channels of a tile's input as soon as its stage is free."""
    tile = tile_at(problem, number)
    margin = INTERPRETER_MARGIN if problem.interpret else 0
    rows, columns = problem.halo_size
    for chunk in range(problem.chunks):
        filled = turn * problem.chunks + chunk
        stage = consumer * problem.stages + divide(filled, problem.stages)[1]
        pl.when(filled >= problem.stages)(functools.partial(wait, refs.halo_empty.at[stage]))
        source = refs.images.at[
            tile.image,
            pl.ds(tile.row - problem.low[0] + margin, rows),
            pl.ds(tile.column - problem.low[1] + margin, columns),
            pl.ds(chunk * problem.chunk, problem.chunk),
        ]
        # TMA fills what lies outside the image with zeros, the padding.
        copy_in(source, refs.halo_smem.at[stage], refs.halo_full.at[stage])
