# SPDX-License-Identifier: Apache-2.0
"""The end of a convolution's tile: scale, offset, residual, activation, store, channel totals.

The sums are in registers, in WGMMA's layout. Stores go through shared memory, because TMA reads
nothing else, ``store_n`` channels of one frame at a time; while one is copied out, the next is
computed.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Bool, Float, Float32

from pallas_kernels.core import jax_versions
from pallas_kernels.core.epilogue import LEAKY_SLOPE, Activation
from pallas_kernels.core.fp8 import LARGEST
from pallas_kernels.hopper.conv.problem import Problem
from pallas_kernels.hopper.conv.tiles import Refs, Tile, mirrored, next_stage
from pallas_kernels.hopper.primitives import (
    Index,
    Scalar,
    arrive,
    divide,
    wait,
    wait_for_stores,
)

__all__ = ["finish_tile"]


class _Block(NamedTuple):
    """What is stored at a time: ``store_n`` channels of ``tile_h / 2`` rows of one frame.

    Attributes:
        tile: that it belongs to.
        warpgroup: that computes it.
        row_block: 0 for the upper rows of the tile, 1 for the lower ones.
        frame: of the tile.
        channel: its first, counted from the tile's.
        stage: of this warpgroup's store ring.
    """

    tile: Tile
    warpgroup: Scalar
    row_block: Scalar
    frame: Scalar
    channel: int
    stage: int


def finish_tile(
    problem: Problem,
    refs: Refs,
    tile: Tile,
    warpgroup: Scalar,
    sums: list[Float32[Array, "rows columns"]],
    input_stage: Scalar,
) -> Scalar:
    """Finish and store a warpgroup's part of a tile; ``sums`` has an array per frame.

    Returns:
        The stage of the input ring that comes next, after those that held the residual.
    """
    config = problem.config
    if refs.affine is not None:
        wait(refs.affine_full.at[warpgroup])
    stored = 0
    # Unrolled over channels and frames: slices of registers need constant bounds.
    for channel in range(0, config.tile_n, problem.store_n):
        # The producer copied it after the tile's last step, into the next stage.
        if refs.residual is not None:
            wait(refs.input_full.at[input_stage])
        for each in range(problem.warpgroup_frames):
            frame = mirrored(warpgroup, each, config.tile_t) if config.split_frames else each
            # Per frame: its blocks add up to one partial sum.
            totals = []
            for part in range(problem.blocks_per_frame):
                # Consumers that split the frames have both blocks of a frame, else one each.
                row_block = part if config.split_frames else warpgroup
                stage = stored % config.store_stages
                block = _Block(tile, warpgroup, row_block, frame, channel, stage)
                values = _block_sums(problem, sums[each], channel, part)
                values = _finish_block(problem, refs, block, values, input_stage)
                stored += 1
                # The stage was last used `store_stages` stores ago: that one must have been read.
                wait_for_stores(config.store_stages - 1, read_only=True)
                _store(problem, refs, block, values)
                if refs.totals is not None:
                    totals.append(_block_totals(problem, refs, block, values))
            if refs.totals is not None:
                # Every warpgroup stores its own partial sum: no atomics, so runs repeat bitwise.
                own = 0 if config.split_frames else warpgroup
                target = refs.totals.at[
                    tile.sample * problem.conv.time + tile.frame + frame,
                    tile.partial_sum + own,
                    pl.ds(tile.channel + channel, problem.store_n),
                ]
                jax_versions.store(target, functools.reduce(jnp.add, totals))
        if refs.residual is not None:
            # It is in registers now, for all frames of these channels.
            arrive(refs.input_empty.at[input_stage])
            input_stage = next_stage(input_stage, config.input_stages)
    return input_stage


def _block_sums(
    problem: Problem, sums: Float32[Array, "rows columns"], channel: int, part: int
) -> Float32[Array, "block_rows block_columns"]:
    """A block's sums, out of those that a warpgroup has of one frame."""
    width, pixels = problem.store_n, problem.warpgroup_m // problem.blocks_per_frame
    channels = slice(channel, channel + width)
    if problem.config.swap_ab:  # sums are [channels, pixels]
        whole = sums.shape == (width, pixels)
        return sums if whole else sums[channels, part * pixels : (part + 1) * pixels]
    return sums if width == problem.config.tile_n else sums[:, channels]


def _finish_block(
    problem: Problem,
    refs: Refs,
    block: _Block,
    values: Float32[Array, "rows columns"],
    input_stage: Scalar,
) -> Float32[Array, "rows columns"]:
    """``activation(values · scale + offset + residual)``, within what the output can hold."""
    factor = functools.partial(_factor, problem, refs, block, values.shape)
    if refs.affine is not None:
        values = values * factor(0) + factor(1)
    if refs.residual is not None:
        residual = _residual(problem, refs, block, input_stage)
        values = values + (residual * factor(2) if problem.factors == 3 else residual)
    values = _activate(values, problem.activation)
    if problem.conv.out_bytes == 1:
        # e4m3 has no infinity: without this, what is too large would become NaN.
        values = jnp.clip(values, -LARGEST, LARGEST)
    return values


def _factor(
    problem: Problem, refs: Refs, block: _Block, shape: tuple[int, ...], row: int
) -> Float32[Array, "rows columns"]:
    """Row 0 (scale), 1 (offset) or 2 (residual scale) of the factors, laid out like the sums."""
    # Channels are the rows of the sums with swap_ab, else their columns.
    axis = 0 if problem.config.swap_ab else 1
    layout = plgpu.Layout.WGMMA.reduce(1 - axis)
    place = block.warpgroup, row, pl.ds(block.channel, problem.store_n)
    factors = jax_versions.load(refs.affine_smem.at[place], layout)
    return lax.broadcast_in_dim(factors, shape, (axis,))


def _residual(
    problem: Problem, refs: Refs, block: _Block, input_stage: Scalar
) -> Float32[Array, "rows columns"]:
    """A block of the residual, out of the input ring."""
    pixels = problem.warpgroup_m // problem.blocks_per_frame
    # A stage has `halo_rows` rows per frame; those of a residual begin with the tile's first.
    start = block.frame * problem.halo_rows * problem.config.tile_w + block.row_block * pixels
    residual = refs.input_smem.mma.at[input_stage, pl.ds(start, pixels)]
    if problem.config.swap_ab:
        residual = residual.transpose((1, 0))
        if problem.conv.in_bytes == 1:
            # 8-bit values can be read transposed in this layout only.
            values = jax_versions.load(residual, plgpu.Layout.WGMMA_TRANSPOSED)
            return plgpu.layout_cast(jax_versions.as_float32(values), plgpu.Layout.WGMMA)
    return jax_versions.as_float32(jax_versions.load(residual, plgpu.Layout.WGMMA))


def _activate(
    values: Float32[Array, "rows columns"], activation: Activation
) -> Float32[Array, "rows columns"]:
    if activation == "relu":
        return jnp.maximum(values, 0.0)
    # For a slope between 0 and 1 the larger one is right on either side, without a comparison.
    return values if activation is None else jnp.maximum(values, LEAKY_SLOPE * values)


def _store(
    problem: Problem, refs: Refs, block: _Block, values: Float32[Array, "rows columns"]
) -> None:
    """Write a block to its stage and start copying it to global memory."""
    tile, stage = block.tile, (block.warpgroup, block.stage)
    smem = refs.store_smem.mma.at[stage]
    if problem.config.swap_ab:
        smem = smem.transpose((1, 0))
        if problem.conv.out_bytes == 1:
            values = plgpu.layout_cast(values, plgpu.Layout.WGMMA_TRANSPOSED)
    smem[...] = values.astype(problem.out_dtype)
    plgpu.commit_smem()  # TMA reads through another proxy, which sees writes only after this
    columns = pl.ds(tile.column, problem.config.tile_w)
    channel = tile.channel + block.channel

    def index(frames: Index, rows: Index) -> tuple[Index, ...]:
        if problem.conv.geometry.phases == 1:
            return frames, rows, columns, pl.ds(channel, problem.store_n)
        # The phases of a transposed convolution interleave: of rows on an axis of their own, of
        # columns as blocks of channels.
        start = tile.phase[1] * problem.conv.channels + channel
        return frames, rows, tile.phase[0], columns, pl.ds(start, problem.store_n)

    origin = (
        tile.sample * problem.conv.time + tile.frame + block.frame,
        tile.row + block.row_block * problem.store_ring.rows,
    )
    problem.store_ring.store(refs.store_smem, stage, refs.output, index, origin)


def _block_totals(
    problem: Problem, refs: Refs, block: _Block, values: Float32[Array, "rows columns"]
) -> Float[Array, " channels"]:
    """Each channel's sum over the block's pixels that lie in the picture."""
    # Pixels are the columns of the sums with swap_ab, else their rows.
    axis = 1 if problem.config.swap_ab else 0
    inside = _inside(problem, block, values.shape, axis)
    if inside is not None:
        values = jnp.where(inside, values, 0.0)
    if problem.interpret:
        return jnp.sum(values, axis=axis)

    # `jnp.sum` would use one scratch for both warpgroups, which do not wait for each other.
    # The reduced vector keeps the layout that the sums have along the channels.
    layout: Any = plgpu.Layout.WGMMA.reduce(axis)
    inline: Any = plgpu.inline_mgpu(
        arg_types=(plgpu.Layout.WGMMA, plgpu.RefType()),
        return_type=plgpu.ShapeDtypeStruct((values.shape[1 - axis],), jnp.dtype("float32"), layout),
    )
    scratch = refs.reduction_smem.at[block.warpgroup]
    return inline(lambda _, values, scratch: values.reduce("add", axis, scratch))(values, scratch)


def _inside(
    problem: Problem, block: _Block, shape: tuple[int, ...], axis: int
) -> Bool[Array, "rows columns"] | None:
    """True for a block's pixels (counted along ``axis``) in the picture; None if all of them are.

    Pixels beyond its end are computed from zeros, but a bias makes them differ from zero.
    """
    config, conv, tile = problem.config, problem.conv, block.tile
    if conv.height % config.tile_h == 0 and conv.width % config.tile_w == 0:
        return None
    pixel = plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=plgpu.Layout.WGMMA)
    # Pixels of a block are row-major.
    row, column = divide(pixel, config.tile_w)
    row += tile.row + block.row_block * problem.store_ring.rows
    return (row < conv.height) & (column + tile.column < conv.width)
