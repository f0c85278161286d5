# SPDX-License-Identifier: Apache-2.0
"""The epilogue of a tile: scale, offset, residual, activation, store and channel totals.

The sums are in registers, in WGMMA's layout. Output goes to global memory through shared memory,
the only source that TMA can store from, in blocks of ``store_n`` channels of one frame. While one
block is copied out, the next is computed.

Channel totals of 16-bit outputs are products of rows of ones and the stored block, which the tensor
cores compute meanwhile. With pixels as rows, adding them up in registers would take shuffles and
barriers for each block.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, TypeAlias

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
    Accumulator,
    Index,
    Scalar,
    arrive,
    divide,
    wait,
    wait_for_stores,
    wgmma,
)

__all__ = ["activate", "finish_tile"]

_Totals: TypeAlias = tuple[Float32[Array, " channels"], ...]
"""Channel totals of consecutive blocks."""

_ONES = 64  # rows of ones, and pixels that one product adds up


class _Block(NamedTuple):
    """Part of a tile that one store writes: ``store_n`` channels of ``tile_h / 2`` rows of a frame.

    Attributes:
        tile: the tile that it belongs to.
        warpgroup: the consumer that computes it.
        row_block: 0 for the upper rows of the tile, 1 for the lower ones.
        frame: index of the frame within the tile.
        part: index of the block among those that the consumer computes of the frame.
        channel: index of its first channel within the tile.
        stage: stage of this consumer's store ring.
    """

    tile: Tile
    warpgroup: Scalar
    row_block: Scalar
    frame: Scalar
    part: int
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
    """Finish and store a consumer's part of a tile; ``sums`` has one array per frame.

    Returns:
        The next stage of the input ring, after those that held the residual.
    """
    if refs.affine is not None:
        wait(refs.affine_full.at[warpgroup])
    blocks = _blocks(problem, tile, warpgroup)
    chunks = problem.config.tile_n // problem.store_n
    per_chunk = len(blocks) // chunks

    def stage_of(chunk: int) -> Scalar:
        """Stage of a chunk of the residual's channels: one after the tile's last halo tile."""
        stage = input_stage
        for _ in range(chunk):
            stage = next_stage(stage, problem.config.input_stages)
        return stage

    def finish(number: int) -> Float32[Array, "rows columns"]:
        """The finished values of a block."""
        block, (chunk, place) = blocks[number], divmod(number, per_chunk)
        if refs.residual is not None and place == 0:
            wait(refs.input_full.at[stage_of(chunk)])
        values = _block_sums(problem, sums[place // problem.blocks_per_frame], block)
        values = _finish_block(problem, refs, block, values, stage_of(chunk))
        if refs.residual is not None and place == per_chunk - 1:
            # All frames of these channels have been read into registers.
            arrive(refs.input_empty.at[stage_of(chunk)])
        return values if refs.totals is None else _within_frame(problem, block, values)

    def store(number: int, values: Float32[Array, "rows columns"]) -> None:
        # The store that used this stage before, `store_stages` ago, must have been read.
        wait_for_stores(problem.config.store_stages - 1, read_only=True)
        _store(problem, refs, blocks[number], values)

    def from_block(number: int, before: Accumulator | None) -> _Totals:
        """Finish and store the blocks from ``number`` on; totals of these and the one before."""
        values = finish(number) if number < len(blocks) else None
        # Those of the block before were computed meanwhile.
        totals = () if before is None else (_first_row(before),)
        if values is None:
            return totals
        store(number, values)

        def multiply(accumulator: Accumulator) -> _Totals:
            _multiply_by_ones(problem, refs, blocks[number], accumulator)
            return from_block(number + 1, accumulator)

        # An accumulator takes registers from where it is created on, so each block creates its own:
        # with all of them at the start, ptxas would run out and serialise every product.
        own = plgpu.WGMMAAccumulatorRef((_ONES, problem.store_n), jnp.float32)
        following: _Totals = pl.run_scoped(multiply, own)
        return totals + following

    totals: _Totals = ()
    if refs.totals is not None and problem.totals_by_products:
        totals = from_block(0, None)
    else:
        for number, block in enumerate(blocks):
            values = finish(number)
            store(number, values)
            if refs.totals is not None:
                totals += (_block_totals(problem, refs, block, values),)
    if refs.totals is not None:
        _store_totals(problem, refs, blocks, totals)
    return input_stage if refs.residual is None else stage_of(chunks)


def _blocks(problem: Problem, tile: Tile, warpgroup: Scalar) -> list[_Block]:
    """The blocks of a consumer's part of a tile, in the order of their stores."""
    config = problem.config
    blocks: list[_Block] = []
    # Unrolled over channels and frames: slices of registers need constant bounds.
    for channel in range(0, config.tile_n, problem.store_n):
        for each in range(problem.warpgroup_frames):
            frame = mirrored(warpgroup, each, config.tile_t) if config.split_frames else each
            for part in range(problem.blocks_per_frame):
                # If the consumers split the frames, each computes both row blocks, else one.
                row_block = part if config.split_frames else warpgroup
                stage = len(blocks) % config.store_stages
                blocks.append(_Block(tile, warpgroup, row_block, frame, part, channel, stage))
    return blocks


def _block_sums(
    problem: Problem, sums: Float32[Array, "rows columns"], block: _Block
) -> Float32[Array, "block_rows block_columns"]:
    """Select the sums of one block from a consumer's sums of one frame."""
    width, pixels = problem.store_n, problem.warpgroup_m // problem.blocks_per_frame
    channels, part = slice(block.channel, block.channel + width), block.part
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
    """``activation(values · scale + offset + residual)``, clipped to the output type's range."""
    factor = functools.partial(_factor, problem, refs, block, values.shape)
    if refs.affine is not None:
        values = values * factor(0) + factor(1)
    if refs.residual is not None:
        residual = _residual(problem, refs, block, input_stage)
        values = values + (residual * factor(2) if problem.factors == 3 else residual)
    values = activate(values, problem.activation)
    if problem.conv.out_bytes == 1:
        # e4m3 has no infinity: a value beyond its range would become NaN.
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
    """Read a block of the residual from the input ring."""
    pixels = problem.warpgroup_m // problem.blocks_per_frame
    # A stage has room for `halo_rows` rows per frame; a residual starts at the first of them.
    start = block.frame * problem.halo_rows * problem.config.tile_w + block.row_block * pixels
    residual = refs.input_smem.mma.at[input_stage, pl.ds(start, pixels)]
    if problem.config.swap_ab:
        residual = residual.transpose((1, 0))
        if problem.conv.in_bytes == 1:
            # This is the only layout in which 8-bit values can be read transposed.
            values = jax_versions.load(residual, plgpu.Layout.WGMMA_TRANSPOSED)
            return plgpu.layout_cast(jax_versions.as_float32(values), plgpu.Layout.WGMMA)
    return jax_versions.as_float32(jax_versions.load(residual, plgpu.Layout.WGMMA))


def activate(
    values: Float32[Array, "rows columns"], activation: Activation
) -> Float32[Array, "rows columns"]:
    """The activation of values in registers."""
    if activation == "relu":
        return jnp.maximum(values, 0.0)
    # Leaky ReLU with a slope between 0 and 1 is max(x, slope · x), which needs no select.
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
    # Makes the writes visible to TMA and to the tensor cores, which use another memory proxy.
    plgpu.commit_smem()
    columns = pl.ds(tile.column, problem.config.tile_w)
    channel = tile.channel + block.channel

    def index(frames: Index, rows: Index) -> tuple[Index, ...]:
        if problem.conv.geometry.phases == 1:
            return frames, rows, columns, pl.ds(channel, problem.store_n)
        # The phases of a transposed convolution are interleaved: those of rows have an axis, those
        # of columns are blocks of channels.
        start = tile.phase[1] * problem.conv.channels + channel
        return frames, rows, tile.phase[0], columns, pl.ds(start, problem.store_n)

    origin = (
        tile.sample * problem.conv.time + tile.frame + block.frame,
        tile.row + block.row_block * problem.store_ring.rows,
    )
    problem.store_ring.store(refs.store_smem, stage, refs.output, index, origin)


def _store_totals(problem: Problem, refs: Refs, blocks: list[_Block], totals: _Totals) -> None:
    """Store the totals of a consumer's part of a tile.

    They are stored last, because making a block visible to TMA waits for all writes before it.
    """
    assert refs.totals is not None
    parts = problem.blocks_per_frame
    # All blocks of a frame go into one partial sum. Each consumer stores its own: without atomics,
    # results are bitwise reproducible.
    for first in range(0, len(blocks), parts):
        block = blocks[first]
        tile, own = block.tile, 0 if problem.config.split_frames else block.warpgroup
        target = refs.totals.at[
            tile.sample * problem.conv.time + tile.frame + block.frame,
            tile.partial_sum + own,
            pl.ds(tile.channel + block.channel, problem.store_n),
        ]
        jax_versions.store(target, functools.reduce(jnp.add, totals[first : first + parts]))


def _multiply_by_ones(
    problem: Problem, refs: Refs, block: _Block, accumulator: Accumulator
) -> None:
    """Add up the pixels of a block that is in shared memory: each row becomes the totals."""
    ones = jnp.ones((_ONES, _ONES), problem.out_dtype)
    ones = plgpu.layout_cast(ones, plgpu.Layout.WGMMA)
    for first in range(0, problem.warpgroup_m, _ONES):
        pixels = refs.store_smem.mma.at[block.warpgroup, block.stage, pl.ds(first, _ONES)]
        wgmma(accumulator, ones, pixels)


def _first_row(accumulator: Accumulator) -> Float32[Array, " channels"]:
    """Wait for products of equal rows, and return the first row."""
    x = accumulator[...]
    layout: Any = plgpu.Layout.WGMMA.reduce(0)
    inline: Any = plgpu.inline_mgpu(
        arg_types=(plgpu.Layout.WGMMA,),
        return_type=plgpu.ShapeDtypeStruct(x.shape[1:], jnp.dtype("float32"), layout),
    )

    def pick(_: Any, x: Any) -> Any:
        # A thread holds two rows of each 8 columns.
        registers = x.registers.reshape(-1, 2)[:, 0]
        reduced = x.layout.reduce((0,))
        shape = reduced.registers_shape(x.shape[1:])
        return type(x)(_registers=registers.reshape(shape), _layout=reduced, _is_signed=None)

    return inline(pick)(x)


def _within_frame(
    problem: Problem, block: _Block, values: Float32[Array, "rows columns"]
) -> Float32[Array, "rows columns"]:
    """Zero for pixels beyond the end of the frame, which are not stored and must not count."""
    # Pixels are the columns of the sums with swap_ab, else their rows.
    inside = _inside(problem, block, values.shape, 1 if problem.config.swap_ab else 0)
    return values if inside is None else jnp.where(inside, values, 0.0)


def _block_totals(
    problem: Problem, refs: Refs, block: _Block, values: Float32[Array, "rows columns"]
) -> Float[Array, " channels"]:
    """Sum each channel over the pixels of the block."""
    axis = 1 if problem.config.swap_ab else 0
    if problem.interpret:
        return jnp.sum(values, axis=axis)

    # `jnp.sum` would use the same scratch memory for both consumers, which are not synchronised.
    # The result keeps the layout that the sums have along the channels.
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
    """Mask of a block's pixels (along ``axis``) that lie inside the frame; None if all do.

    Inputs beyond the end of the frame are zero, but a bias makes their outputs nonzero.
    """
    config, conv, tile = problem.config, problem.conv, block.tile
    if conv.height % config.tile_h == 0 and conv.width % config.tile_w == 0:
        return None
    pixel = plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=plgpu.Layout.WGMMA)
    # Pixels of a block are row-major.
    row, column = divide(pixel, config.tile_w)
    row += tile.row + block.row_block * problem.store_ring.rows
    return (row < conv.height) & (column + tile.column < conv.width)
