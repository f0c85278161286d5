# SPDX-License-Identifier: Apache-2.0
"""Convolutions over time, height and width as one matrix product, on Hopper's tensor cores.

One kernel serves every convolution here: 3×3×3 and 1×1×1, strides of 1 and 2, and the transposed
convolution as four phases. A thread block owns a tile: a patch of output pixels × some output
channels, of all frames of a clip (``frames`` = time: each input frame that is fetched serves up to
three output frames, and products with the temporal zero padding are left out) or of one frame.
It walks over the input in steps, one spatial tap and up to 64 channels each:

- Two warpgroups multiply: pixels × channels of the input times channels × output channels of the
  weights, into float32 accumulators in registers. A third one only copies, ahead of them, through
  two rings of shared memory: boxes of the input, and pieces of the weights.
- The taps above and below a pixel are the same box, read from another row. So a 3×3 kernel takes
  three boxes, one for each horizontal shift, not nine.
- Blocks are persistent: each walks over its share of the tiles, and the copying runs ahead across
  tiles.

The end of a tile scales, shifts, adds the residual, applies the activation and, if asked, adds up
each channel over the tile's pixels, which is what a gate needs to know (see ``_gate_kernel.py``).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import _device, _versions
from pallas_kernels._boxes import tiled
from pallas_kernels._epilogue import LEAKY_SLOPE, Activation
from pallas_kernels._problem import MULTIPLIERS, Problem
from pallas_kernels._tuning import Config, choose
from pallas_kernels._work import MARGIN, Geometry, Work

__all__ = ["implicit_gemm"]

_REDUCTION_FLOATS = 256  # a warpgroup's scratch for adding up channels


class _Refs(NamedTuple):
    """The kernel's memory: global first, then shared."""

    inputs: tuple[Any, ...]
    weights: Any
    affine: Any
    residual: Any
    output: Any
    totals: Any
    input_memory: Any
    weight_memory: Any
    output_memory: Any
    affine_memory: Any
    reduction_memory: Any
    input_full: Any
    input_empty: Any
    weight_full: Any
    weight_empty: Any
    affine_full: Any


class _Tile(NamedTuple):
    """Where a tile begins."""

    sample: Any
    row: Any
    column: Any
    phase: tuple[Any, Any]
    frame: Any
    channel: Any
    spot: Any


def implicit_gemm(
    inputs: tuple[Array, ...],
    weights: Array,
    geometry: Geometry,
    size: tuple[int, int, int],
    *,
    scale: Array | None = None,
    offset: Array | None = None,
    residual: Array | None = None,
    activation: Activation = None,
    totals: bool = False,
    out_dtype: Any = None,
    config: Config | None = None,
) -> tuple[Array, Array | None]:
    """``activation(conv(inputs) · scale + offset + residual)`` and its channel totals.

    Args:
        inputs: ``[batch, time, height, width, channel]`` of one 16-bit type, joined along channels;
            at stride 2 height and width must be even.
        weights: ``[*kernel, channel, out_channel]`` of the same type.
        geometry: kernel, padding, stride and phases.
        size: time, height and width of the output; of one phase for a transposed convolution.
            Input beyond the end counts as zero.
        scale: float32 ``[batch, out_channel]``.
        offset: float32 ``[batch, out_channel]``, or ``[1, out_channel]`` for all samples.
        residual: of the output's shape and the inputs' type.
        activation: applied last.
        totals: whether to return the totals.
        out_dtype: of the output; the inputs' where not given.
        config: tile and rings; chosen by :mod:`pallas_kernels._tuning` where not given.

    Returns:
        The output, and float32 ``[batch, time, spot, out_channel]``, its sums over parts of height
        and width, or None.
    """
    batch, in_time = inputs[0].shape[:2]
    kt, kh, kw, depth, channels = weights.shape
    in_channels = tuple(x.shape[-1] for x in inputs)
    out_dtype = jnp.dtype(out_dtype or inputs[0].dtype)
    work = Work(geometry, batch, in_time, *size, in_channels, channels, out_dtype.itemsize)
    if config is None:
        config = choose(work, _device.processors())
    problem = Problem(
        work,
        config,
        inputs[0].dtype,
        out_dtype,
        activation,
        residual is not None,
        totals,
        _device.interpreting(),
    )
    arguments = (
        tuple(_picture(problem, x, geometry.stride) for x in inputs),
        weights.reshape(kt, kh * kw * depth, channels),
        _affine(scale, offset),
        None if residual is None else _picture(problem, residual, 1),
    )
    output, sums = _launch(problem, arguments)
    time, height, width = (size[0], *(geometry.phases * n for n in size[1:]))
    output = output.reshape(batch, time, -1, geometry.phases * problem.padded_size[1], channels)
    if sums is not None:
        sums = sums.reshape(batch, time, -1, channels)
    return output[:, :, :height, :width], sums


def _affine(scale: Array | None, offset: Array | None) -> Array | None:
    """Scale and offset as one array, which is one copy: float32 ``[batch or 1, 2, channel]``."""
    if scale is None and offset is None:
        return None
    if scale is None:
        scale = jnp.ones_like(jnp.asarray(offset))
    offset = jnp.zeros_like(scale) if offset is None else jnp.broadcast_to(offset, scale.shape)
    return jnp.stack([scale, offset], axis=1)


def _picture(problem: Problem, x: Array, stride: int) -> Array:
    """Frames in a row, with a stride's phases on axes of their own: at most 5 axes, for TMA."""
    batch, time, height, width, channels = x.shape
    if problem.interpret:
        config = problem.config
        rows, columns = (
            (MARGIN, MARGIN + stride * config.rows),
            (MARGIN, MARGIN + stride * config.columns),
        )
        x = jnp.pad(x, ((0, 0), (0, 0), rows, columns, (0, 0)))
        height, width = x.shape[2:4]
    if stride == 1:
        return x.reshape(batch * time, height, width, channels)
    return x.reshape(batch * time, height // 2, 2, width // 2, 2 * channels)


@functools.partial(jax.jit, static_argnums=0)  # lowered once for all layers that are alike
def _launch(problem: Problem, arguments: tuple[Any, ...]) -> tuple[Array, Array | None]:
    """Run the kernel; the output's phases are still on axes of their own."""
    work = problem.work
    geometry, frames = work.geometry, work.batch * work.time
    height, width = problem.padded_size
    phases = geometry.phases
    shape = (frames, height, width, work.channels)
    if phases == 2:
        shape = (frames, height, 2, width, 2 * work.channels)
    out_type = [jax.ShapeDtypeStruct(shape, problem.out_dtype)]
    if problem.totals:
        out_type.append(jax.ShapeDtypeStruct((frames, problem.spots, work.channels), jnp.float32))
    given, tree = jax.tree.flatten(arguments)
    tiles = functools.reduce(lambda a, b: a * b, problem.grid)
    blocks = min(_device.processors(), tiles)

    def body(*refs: Any) -> None:
        refs, outputs = refs[: len(given)], list(refs[len(given) :])
        inputs, weights, affine, residual = jax.tree.unflatten(tree, refs)
        output = outputs.pop(0)
        totals = outputs.pop(0) if problem.totals else None
        memory = _Refs(inputs, weights, affine, residual, output, totals, *outputs)
        block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")
        share = (tiles - block + blocks - 1) // blocks

        def place(turn: Any) -> _Tile:
            return _place(problem, block + turn * blocks)

        @pl.when(warpgroup == MULTIPLIERS)
        def _copy() -> None:
            plgpu.set_max_registers(40, action="decrease")
            _copy_ahead(problem, memory, share, place)

        @pl.when(warpgroup < MULTIPLIERS)
        def _multiply() -> None:
            plgpu.set_max_registers(232, action="increase")
            _multiply_tiles(problem, memory, share, place, warpgroup)

    body.__name__ = problem.name
    kernel = plgpu.kernel(
        body,
        out_type=out_type,
        scratch_types=_scratch(problem),
        grid=(blocks,),
        grid_names=("block",),
        num_threads=MULTIPLIERS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
            # Each warp reads from shared memory only what it wrote itself, or what the copy
            # engine did; barriers and `commit_smem` order that.
            unsafe_no_auto_barriers=True,
        ),
        interpret=_versions.interpreter() if problem.interpret else None,
    )
    outputs = kernel(*given)
    return outputs[0], outputs[1] if problem.totals else None


def _scratch(problem: Problem) -> list[Any]:
    """Rings, staging and barriers, in the order of :class:`_Refs`."""
    config = problem.config
    _, taps = problem.temporal_taps
    weights = (config.weight_slots, taps, problem.chunk, config.channels)
    full, empty = (
        functools.partial(plgpu.Barrier, num_arrivals=1),
        functools.partial(plgpu.Barrier, num_arrivals=MULTIPLIERS),
    )
    return [
        problem.input_boxes.memory,
        plgpu.SMEM(weights, problem.dtype, transforms=tiled(problem.chunk, problem.dtype)),
        problem.output_boxes.memory,
        plgpu.SMEM((MULTIPLIERS, 2, config.channels), jnp.float32),
        plgpu.SMEM((MULTIPLIERS, _REDUCTION_FLOATS), jnp.float32),
        plgpu.Barrier(num_arrivals=problem.input_boxes.arrivals, num_barriers=config.input_slots),
        empty(num_barriers=config.input_slots),
        full(num_barriers=config.weight_slots),
        empty(num_barriers=config.weight_slots),
        full(num_barriers=MULTIPLIERS),
    ]


def _place(problem: Problem, number: Any) -> _Tile:
    """The tile of a number; neighbours in number share inputs, to meet in the L2 cache."""
    batch, rows, columns, phases, _, channels = problem.grid
    config = problem.config
    rest, frame, start = number // channels, 0, 0
    for frames in problem.frame_order:
        inside = number // channels - start
        first, step = frames[0], frames[-1] - frames[0]  # frames alike: neighbours or both ends
        here = first + inside % len(frames) * (step // max(1, len(frames) - 1))
        frame = jnp.where(inside >= 0, here, frame)
        rest = jnp.where(inside >= 0, inside // len(frames), rest)
        start += batch * rows * columns * phases * len(frames)
    rest, phase = rest // phases, rest % phases
    rest, column = rest // columns, rest % columns
    sample, row = rest // rows, rest % rows
    return _Tile(
        sample,
        row * config.rows,
        column * config.columns,
        (phase // 2, phase % 2),
        frame,
        number % channels * config.channels,
        ((row * columns + column) * phases + phase) * problem.spots_a_tile,
    )


def _meeting_taps(problem: Problem, tile: _Tile) -> tuple[Any, Any]:
    """First temporal tap that meets a frame of the clip, and the end; one pass if resident."""
    if problem.resident:
        return 0, 1
    work = problem.work
    low, taps = work.geometry.low[0], work.geometry.kernel[0]
    first = jnp.maximum(0, low - tile.frame)
    return first, jnp.minimum(taps, work.in_time + low - tile.frame)


def _next(slot: Any, slots: int) -> Any:
    return jnp.where(slot == slots - 1, 0, slot + 1)


def _previous(slot: Any, slots: int) -> Any:
    return jnp.where(slot == 0, slots - 1, slot - 1)


def _copy_ahead(problem: Problem, refs: _Refs, share: Any, place: Any) -> None:
    """The copying warpgroup: fill the rings with what all tiles of this block will need."""
    config = problem.config

    def copy_tile(turn: Any, carry: Any) -> Any:
        tile = place(turn)
        first, end = _meeting_taps(problem, tile)
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
    refs: _Refs,
    tile: _Tile,
    first_tap: Any,
    source: tuple[Any, int, int],
    number: Any,
    carry: Any,
) -> Any:
    """One box of the input, then the weights that multiply it, each as its slot becomes free."""
    config, geometry, chunk = problem.config, problem.work.geometry, problem.chunk
    picture, in_channels, depth = source
    box_slot, boxes, piece_slot, pieces = carry
    number, load = number // geometry.loads, number % geometry.loads
    chunks = in_channels // chunk
    frame = tile.sample * problem.work.in_time
    if problem.resident:
        temporal_tap, channel = problem.temporal_taps[0], number * chunk
    else:
        temporal_tap, channel = first_tap + number // chunks, number % chunks * chunk
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
        start = geometry.tap(load, tap, tile.phase) * problem.work.depth + depth + channel
        plgpu.copy_gmem_to_smem(
            refs.weights.at[
                pl.ds(temporal_tap, problem.temporal_taps[1]),
                pl.ds(start, chunk),
                pl.ds(tile.channel, config.channels),
            ],
            refs.weight_memory.at[slot],
            refs.weight_full.at[slot],
        )
        return _next(slot, config.weight_slots), pieces + 1

    piece_slot, pieces = lax.fori_loop(0, geometry.taps, copy_weights, (piece_slot, pieces))
    return _next(box_slot, config.input_slots), boxes + 1, piece_slot, pieces


def _copy_residual(problem: Problem, refs: _Refs, tile: _Tile, channel: int, carry: Any) -> Any:
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
    return _next(slot, config.input_slots), boxes + 1, *pieces


def _wait_if_used(count: Any, slots: int, empty: Any) -> None:
    """Wait until a slot is free, which it is at first."""
    pl.when(count >= slots)(functools.partial(plgpu.barrier_wait, empty))


def _multiply_tiles(problem: Problem, refs: _Refs, share: Any, place: Any, warpgroup: Any) -> None:
    """A multiplying warpgroup: its pixels of every tile of this block."""
    config = problem.config
    shape = (problem.share, config.channels)
    accumulator = plgpu.WGMMAAccumulatorRef(
        shape[::-1] if config.weights_left else shape, jnp.float32
    )

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
            return _finish(problem, refs, tile, warpgroup, sums, box), piece

        return pl.run_scoped(run, *[accumulator] * problem.frames_each)

    lax.fori_loop(0, share, multiply_tile, (jnp.int32(0), jnp.int32(0)))
    plgpu.wait_smem_to_gmem(0)


def _release(problem: Problem, refs: _Refs, box: Any, piece: Any, *, both: Any) -> None:
    """Give back the slots before these: the weights', and the input's if ``both``."""
    config = problem.config
    plgpu.barrier_arrive(refs.weight_empty.at[_previous(piece, config.weight_slots)])

    def release_box() -> None:
        plgpu.barrier_arrive(refs.input_empty.at[_previous(box, config.input_slots)])

    if both is True:
        release_box()
    else:
        pl.when(both)(release_box)


def _multiply(
    problem: Problem,
    refs: _Refs,
    tile: _Tile,
    warpgroup: Any,
    accumulators: tuple[Any, ...],
    slots: tuple[Any, Any],
) -> tuple[Any, Any]:
    """All products of a tile; returns the slots that come next."""
    config, geometry = problem.config, problem.work.geometry
    _, matrices = refs.input_memory
    frame_pixels = problem.box_rows * config.columns
    first, end = _meeting_taps(problem, tile)
    chunks = problem.work.depth // problem.chunk
    steps = (end - first) * chunks * geometry.loads * geometry.taps
    first_tap, _ = problem.temporal_taps

    def step(number: Any, carry: Any) -> Any:
        tap, box, piece = carry
        pl.when(tap == 0)(functools.partial(plgpu.barrier_wait, refs.input_full.at[box]))
        plgpu.barrier_wait(refs.weight_full.at[piece])
        start = tap * config.columns
        if not config.split_frames:
            start += warpgroup * problem.share
        for temporal_tap, frame, source in problem.pairs:
            if config.split_frames:
                temporal_tap = _mirrored(warpgroup, temporal_tap, geometry.kernel[0])
                source = _mirrored(warpgroup, source, problem.work.time)
            pixels = matrices.at[box, pl.ds(start + source * frame_pixels, problem.share)]
            weights = refs.weight_memory.at[piece, temporal_tap - first_tap]
            if config.weights_left:
                operands = _versions.transposed(weights), _versions.transposed(pixels)
            else:
                operands = pixels, weights
            plgpu.wgmma(accumulators[frame], *operands)
        # All but this step's products are done, so the last step's slots are free.
        plgpu.wgmma_wait(len(problem.pairs))
        pl.when(number > 0)(functools.partial(_release, problem, refs, box, piece, both=tap == 0))
        last = tap == geometry.taps - 1
        next_box = jnp.where(last, _next(box, config.input_slots), box)
        return jnp.where(last, 0, tap + 1), next_box, _next(piece, config.weight_slots)

    _, box, piece = lax.fori_loop(0, steps, step, (jnp.int32(0), *slots))
    return box, piece


def _mirrored(warpgroup: Any, number: int, count: int) -> Any:
    """Frames and temporal taps of the second warpgroup count from the end."""
    return jnp.where(warpgroup == 0, number, count - 1 - number)


def _finish(
    problem: Problem, refs: _Refs, tile: _Tile, warpgroup: Any, sums: list[Array], box: Any
) -> Any:
    """Scale, shift, add, activate and store a tile, ``store_chunk`` channels at a time.

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
            frame, total = each, None
            if config.split_frames:
                frame = _mirrored(warpgroup, each, config.frames)
            at = tile.sample * problem.work.time + tile.frame + frame
            for part in range(problem.parts):
                block = part if config.split_frames else warpgroup
                values = _part(problem, sums[each], first, part)
                values = _scaled(problem, refs, warpgroup, pl.ds(first, width), values)
                if refs.residual is not None:
                    values = values + _residual(problem, refs, box, frame, block)
                values = _activate(values, problem.activation)
                slot = (warpgroup, number % config.store_slots)
                number += 1
                plgpu.wait_smem_to_gmem(config.store_slots - 1, wait_read_only=True)
                _store(problem, refs, (tile, at, block, slot), first, values)
                if refs.totals is not None:
                    added = _add_up(problem, refs, tile, (warpgroup, block), values)
                    total = added if total is None else total + added
            if refs.totals is not None:
                spot = tile.spot if config.split_frames else tile.spot + warpgroup
                target = refs.totals.at[at, spot, pl.ds(tile.channel + first, width)]
                _versions.store(target, total)
        if refs.residual is not None:
            plgpu.barrier_arrive(refs.input_empty.at[box])
            box = _next(box, config.input_slots)
    return box


def _part(problem: Problem, sums: Array, first: int, part: int) -> Array:
    """What is stored at a time, of a warpgroup's sums of one frame."""
    width, pixels = problem.store_chunk, problem.share // problem.parts
    channels = slice(first, first + width)
    if problem.config.weights_left:
        whole = sums.shape == (width, pixels)
        return sums if whole else sums[channels, part * pixels : (part + 1) * pixels]
    return sums if width == problem.config.channels else sums[:, channels]


def _scaled(problem: Problem, refs: _Refs, warpgroup: Any, channels: Any, values: Array) -> Array:
    """The values times scale plus offset, each a number a channel."""
    if refs.affine is None:
        return values
    axis = 0 if problem.config.weights_left else 1
    layout = plgpu.Layout.WGMMA.reduce(1 - axis)
    scale, offset = (
        lax.broadcast_in_dim(
            _versions.load(refs.affine_memory.at[warpgroup, row, channels], layout),
            values.shape,
            (axis,),
        )
        for row in (0, 1)
    )
    return values * scale + offset


def _residual(problem: Problem, refs: _Refs, box: Any, frame: Any, block: Any) -> Array:
    """What is added to a frame's sums, out of the ring of inputs."""
    pixels = problem.share // problem.parts
    start = frame * problem.box_rows * problem.config.columns + block * pixels
    residual = refs.input_memory[1].at[box, pl.ds(start, pixels)]
    if problem.config.weights_left:
        residual = _versions.transposed(residual)
    return _versions.load(residual, plgpu.Layout.WGMMA).astype(jnp.float32)


def _activate(values: Array, activation: Activation) -> Array:
    if activation == "relu":
        return jnp.maximum(values, 0.0)
    return values if activation is None else jnp.maximum(values, LEAKY_SLOPE * values)


def _store(
    problem: Problem, refs: _Refs, place: tuple[Any, ...], first: int, values: Array
) -> None:
    """Hand a block of pixels to the copy engine."""
    tile, frame, block, slot = place
    memory = refs.output_memory[1].at[slot]
    if problem.config.weights_left:
        memory = _versions.transposed(memory)
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
    problem: Problem, refs: _Refs, tile: _Tile, place: tuple[Any, Any], values: Array
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
    problem: Problem, tile: _Tile, block: Any, shape: tuple[int, ...], axis: int
) -> Array | None:
    """Which of a block's pixels, counted along ``axis``, lie in the picture; None if all do."""
    config, work = problem.config, problem.work
    if work.height % config.rows == 0 and work.width % config.columns == 0:
        return None
    pixel = plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=plgpu.Layout.WGMMA)
    row = tile.row + block * problem.output_boxes.rows + pixel // config.columns
    column = tile.column + pixel % config.columns
    return (row < work.height) & (column < work.width)
