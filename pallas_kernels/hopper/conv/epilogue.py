# SPDX-License-Identifier: Apache-2.0
"""The end of a convolution's tile: scale, shift, add, activate, store, and add up channels."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.core import jax_versions
from pallas_kernels.core.epilogue import LEAKY_SLOPE, Activation
from pallas_kernels.core.fp8 import LARGEST
from pallas_kernels.hopper.conv.problem import Problem
from pallas_kernels.hopper.conv.tiles import Refs, Tile, mirrored, next_slot
from pallas_kernels.hopper.geometry import divide

__all__ = ["finish_tile"]


def finish_tile(
    problem: Problem, refs: Refs, tile: Tile, warpgroup: Any, sums: list[Array], box: Any
) -> Any:
    """Finish and store a warpgroup's share of a tile, ``store_chunk`` channels at a time.

    Returns the slot of the ring of inputs that comes next.
    """
    config, width = problem.config, problem.store_chunk
    if refs.affine is not None:
        plgpu.barrier_wait(refs.affine_full.at[warpgroup])
    number = 0
    for first in range(0, config.channels, width):
        if refs.residual is not None:
            plgpu.barrier_wait(refs.input_full.at[box])
        for each in range(problem.frames_each):
            frame = mirrored(warpgroup, each, config.frames) if config.split_frames else each
            at = tile.sample * problem.work.time + tile.frame + frame
            totals = []
            for part in range(problem.parts):
                block = part if config.split_frames else warpgroup
                values = _part(problem, sums[each], first, part)
                values = _scaled(problem, refs, warpgroup, pl.ds(first, width), values)
                if refs.residual is not None:
                    residual = _residual(problem, refs, box, frame, block)
                    if problem.factors == 3:
                        place = (warpgroup, 2, pl.ds(first, width))
                        residual = residual * _factor(problem, refs, place, values.shape)
                    values = values + residual
                values = _activate(values, problem.activation)
                if problem.work.out_bytes == 1:
                    values = jnp.clip(values, -LARGEST, LARGEST)
                slot = (warpgroup, number % config.store_slots)
                number += 1
                plgpu.wait_smem_to_gmem(config.store_slots - 1, wait_read_only=True)
                _store(problem, refs, (tile, at, block, slot), first, values)
                if refs.totals is not None:
                    totals.append(_add_up(problem, refs, tile, (warpgroup, block), values))
            if refs.totals is not None:
                spot = tile.spot if config.split_frames else tile.spot + warpgroup
                target = refs.totals.at[at, spot, pl.ds(tile.channel + first, width)]
                jax_versions.store(target, functools.reduce(jnp.add, totals))
        if refs.residual is not None:
            plgpu.barrier_arrive(refs.input_empty.at[box])
            box = next_slot(box, config.input_slots)
    return box


def _part(problem: Problem, sums: Array, first: int, part: int) -> Array:
    """What is stored at a time, of a warpgroup's sums of one frame."""
    width, pixels = problem.store_chunk, problem.share // problem.parts
    channels = slice(first, first + width)
    if problem.config.weights_left:
        whole = sums.shape == (width, pixels)
        return sums if whole else sums[channels, part * pixels : (part + 1) * pixels]
    return sums if width == problem.config.channels else sums[:, channels]


def _scaled(problem: Problem, refs: Refs, warpgroup: Any, channels: Any, values: Array) -> Array:
    """The values times scale plus offset, each a number a channel."""
    if refs.affine is None:
        return values
    scale, offset = (
        _factor(problem, refs, (warpgroup, row, channels), values.shape) for row in (0, 1)
    )
    return values * scale + offset


def _factor(problem: Problem, refs: Refs, place: Any, shape: tuple[int, ...]) -> Array:
    """A number a channel, laid out like the accumulators."""
    axis = 0 if problem.config.weights_left else 1
    layout = plgpu.Layout.WGMMA.reduce(1 - axis)
    numbers = jax_versions.load(refs.affine_memory.at[place], layout)
    return lax.broadcast_in_dim(numbers, shape, (axis,))


def _residual(problem: Problem, refs: Refs, box: Any, frame: Any, block: Any) -> Array:
    """What is added to a frame's sums, out of the ring of inputs."""
    pixels = problem.share // problem.parts
    start = frame * problem.box_rows * problem.config.columns + block * pixels
    residual = refs.input_memory[1].at[box, pl.ds(start, pixels)]
    if problem.config.weights_left:
        residual = residual.transpose((1, 0))
        if problem.work.in_bytes == 1:
            values = jax_versions.load(residual, plgpu.Layout.WGMMA_TRANSPOSED)
            return plgpu.layout_cast(jax_versions.as_float32(values), plgpu.Layout.WGMMA)
    return jax_versions.as_float32(jax_versions.load(residual, plgpu.Layout.WGMMA))


def _activate(values: Array, activation: Activation) -> Array:
    if activation == "relu":
        return jnp.maximum(values, 0.0)
    return values if activation is None else jnp.maximum(values, LEAKY_SLOPE * values)


def _store(problem: Problem, refs: Refs, place: tuple[Any, ...], first: int, values: Array) -> None:
    """Hand a block of pixels to the copy engine."""
    tile, frame, block, slot = place
    memory = refs.output_memory[1].at[slot]
    if problem.config.weights_left:
        memory = memory.transpose((1, 0))
        if problem.work.out_bytes == 1:
            values = plgpu.layout_cast(values, plgpu.Layout.WGMMA_TRANSPOSED)
    memory[...] = values.astype(problem.out_dtype)
    plgpu.commit_smem()
    columns = pl.ds(tile.column, problem.config.columns)
    channel = tile.channel + first

    def index(frames: Any, rows: Any) -> tuple[Any, ...]:
        if problem.work.geometry.phases == 1:
            return frames, rows, columns, pl.ds(channel, problem.store_chunk)
        start = tile.phase[1] * problem.work.channels + channel
        return frames, rows, tile.phase[0], columns, pl.ds(start, problem.store_chunk)

    row = tile.row + block * problem.output_boxes.rows
    problem.output_boxes.store(refs.output_memory, slot, refs.output, index, frame, row)


def _add_up(
    problem: Problem, refs: Refs, tile: Tile, place: tuple[Any, Any], values: Array
) -> Array:
    """Each channel's sum over the block's pixels that lie in the picture.

    Each warpgroup has its own scratch; ``jnp.sum`` would share one.
    """
    warpgroup, block = place
    axis = 1 if problem.config.weights_left else 0
    inside = _inside(problem, tile, block, values.shape, axis)
    if inside is not None:
        values = jnp.where(inside, values, 0.0)
    if problem.interpret:
        return jnp.sum(values, axis=axis)

    layout: Any = plgpu.Layout.WGMMA.reduce(axis)
    inline: Any = plgpu.inline_mgpu(
        arg_types=(plgpu.Layout.WGMMA, plgpu.RefType()),
        return_type=plgpu.ShapeDtypeStruct((values.shape[1 - axis],), jnp.dtype("float32"), layout),
    )
    scratch = refs.reduction_memory.at[warpgroup]
    return inline(lambda _, values, scratch: values.reduce("add", axis, scratch))(values, scratch)


def _inside(
    problem: Problem, tile: Tile, block: Any, shape: tuple[int, ...], axis: int
) -> Array | None:
    """Which of a block's pixels, counted along ``axis``, lie in the picture; None if all do."""
    config, work = problem.config, problem.work
    if work.height % config.rows == 0 and work.width % config.columns == 0:
        return None
    pixel = plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=plgpu.Layout.WGMMA)
    row, column = divide(pixel, config.columns)
    row += tile.row + block * problem.output_boxes.rows
    return (row < work.height) & (column + tile.column < work.width)
