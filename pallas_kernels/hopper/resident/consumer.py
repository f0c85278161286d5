# SPDX-License-Identifier: Apache-2.0
"""A consumer: a warpgroup that multiplies, and finishes and stores its tiles."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Float32

from pallas_kernels.core import jax_versions
from pallas_kernels.hopper.conv.epilogue import activate
from pallas_kernels.hopper.geometry import INTERPRETER_MARGIN
from pallas_kernels.hopper.primitives import Index, Scalar, arrive, divide, wait, wait_for_stores
from pallas_kernels.hopper.resident.memory import Refs, Tile, Tiles, tile_at
from pallas_kernels.hopper.resident.problem import COLUMNS, STORES, ResidentProblem
from pallas_kernels.hopper.resident.products import finish_products, multiply_row

__all__ = ["consume"]


def consume(
    problem: ResidentProblem,
    refs: Refs,
    tiles: Tiles,
    consumer: Scalar,
) -> None:
    """Compute all tiles of one consumer."""
    wait(refs.weights_full)

    def consume_turn(turn: Scalar, _: None) -> None:
        tile = tile_at(problem, tiles.number(turn, consumer))
        if problem.sharing:
            _copy_residual(problem, refs, tile, consumer)
        sums = (_offsets(problem, refs),) * problem.rows  # one array per row of the tile
        for chunk in range(problem.chunks):
            filled = turn * problem.chunks + chunk
            stage = consumer * problem.stages + divide(filled, problem.stages)[1]
            wait(refs.halo_full.at[stage])
            if chunk == 0:
                # The consumers multiply in turn, so that one stores meanwhile. Without order, both
                # would multiply at half the speed, and then store at the same time.
                first = turn + consumer == 0
                pl.when(~first)(functools.partial(wait, refs.may_multiply.at[consumer]))
            # A loop, because products that are all unrolled take more registers than there are.
            add = functools.partial(multiply_row, problem, refs, stage, chunk)
            sums = lax.fori_loop(0, problem.taps[0], add, sums)
            if chunk == problem.chunks - 1:
                # The other consumer's products queue behind those in flight. After its last tile
                # it has none, and waits for no turn.
                follows = tiles.number(turn + consumer, 1 - consumer) < problem.tiles
                pl.when(follows)(functools.partial(arrive, refs.may_multiply.at[1 - consumer]))
            sums = finish_products(problem, sums)
            arrive(refs.halo_empty.at[stage])
        _finish(problem, refs, tile, consumer, sums)

    lax.fori_loop(0, tiles.turns(consumer), consume_turn, None)
    wait_for_stores(0)  # stores read shared memory, which is freed when the block ends


def _offsets(problem: ResidentProblem, refs: Refs) -> Float32[Array, "columns channels"]:
    """Initial sums of one row: the offset of each channel."""
    shape, layout = (COLUMNS, problem.channels), plgpu.Layout.WGMMA
    if refs.offset is None:
        return plgpu.layout_cast(jnp.zeros(shape), layout)
    offset: Any = jax_versions.load(refs.offset, layout.reduce(0))
    return lax.broadcast_in_dim(offset.astype(jnp.float32), shape, (1,))


def _copy_residual(problem: ResidentProblem, refs: Refs, tile: Tile, consumer: Scalar) -> None:
    """Start copying the residual of a tile, which the epilogue waits for."""
    assert refs.residual is not None
    assert refs.residual_smem is not None
    image, _ = divide(tile.image, problem.sharing)
    margin = INTERPRETER_MARGIN if problem.interpret else 0
    columns = pl.ds(tile.column + margin, COLUMNS)
    for group in range(problem.groups):
        channels = pl.ds(group * problem.store_n, problem.store_n)

        def index(frames: Index, rows: Index, channels: Index = channels) -> tuple[Index, ...]:
            return frames, rows, columns, channels

        problem.residual_ring.load(
            refs.residual,
            index,
            (image, tile.row + margin),
            refs.residual_smem,
            (consumer, group),
            refs.residual_full.at[consumer],
        )


def _finish(
    problem: ResidentProblem,
    refs: Refs,
    tile: Tile,
    consumer: Scalar,
    sums: tuple[Float32[Array, "columns channels"], ...],
) -> None:
    """Add the residual, apply the activation, and store a tile row by row."""
    if problem.sharing:
        wait(refs.residual_full.at[consumer])
    columns = pl.ds(tile.column, COLUMNS)
    stored = 0
    for row, whole in enumerate(sums):
        for group in range(problem.groups):
            start = group * problem.store_n
            values = whole if problem.groups == 1 else whole[:, start : start + problem.store_n]
            if refs.residual_smem is not None:
                place = refs.residual_smem.mma.at[consumer, group, pl.ds(row * COLUMNS, COLUMNS)]
                added = jax_versions.load(place, plgpu.Layout.WGMMA)
                values = values + jax_versions.as_float32(added)
            values = activate(values, problem.activation)
            # `rows` is even, so every tile begins at stage 0.
            stage = consumer, stored % STORES
            stored += 1
            wait_for_stores(STORES - 1, read_only=True)
            refs.store_smem.mma.at[stage][...] = values.astype(problem.out_dtype)
            plgpu.commit_smem()  # makes the writes visible to TMA
            channels = pl.ds(start, problem.store_n)

            def index(images: Index, rows: Index, channels: Index = channels) -> tuple[Index, ...]:
                return images, rows, columns, channels

            origin = tile.image, tile.row + row
            problem.store_ring.store(refs.store_smem, stage, refs.output, index, origin)
