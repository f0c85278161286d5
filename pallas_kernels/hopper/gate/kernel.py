# SPDX-License-Identifier: Apache-2.0
"""The gate of a convolution that has not run yet, in three small kernels on a Hopper GPU.

A gate scales each channel by a function of all channels' global means. The mean is linear in the
convolution's input: each tap of the kernel sums the whole picture except the rows, columns and
frames that it cannot reach. So it follows from each frame's channel totals, which the kernel that
wrote the frame has added up on the way, and from sums over the frame's border. The gate's scale is
then known before the convolution runs, and goes into its epilogue.

XLA would make ten kernels of it, each of them short and waiting for the one before. Here

1. the frames' totals, border rows and columns are added up, in parts that need no loop: a thread
   block asks the copy engine for up to 512 lines of 32 channels at once, and adds what comes;
2. each tap's sums are formed from them and multiplied by the weights, 64 input channels of one
   temporal tap × 32 output channels a thread block;
3. these are added up to the mean; the gate's matrix, the sigmoid and the convolution's bias follow.

Lines beyond the end arrive as zeros. No block waits for another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.core import device
from pallas_kernels.core.jax_versions import as_float32, interpreter, load, store
from pallas_kernels.hopper.gate.problem import LINES, GateProblem, Strips
from pallas_kernels.hopper.geometry import divide
from pallas_kernels.hopper.shared_memory import swizzled, tiled

__all__ = ["gate_ahead"]

_ALONG_LINES = plgpu.Layout.WGMMA.reduce(1)  # one value a line of a tile
_ALONG_COLUMNS = plgpu.Layout.WGMMA.reduce(0)
# Which border row or column a tap leaves out: 0 the first one, 1 the last one, None neither.
_LEFT_OUT: dict[int, tuple[int | None, ...]] = {
    1: (None,),
    3: (1, None, 0),
    4: (1, None, None, 0),
}


def gate_ahead(
    inputs: tuple[Array, ...],
    totals: tuple[Array, ...],
    kernel: Array,
    bias: Array | None,
    gate: tuple[Array, Array],
    *,
    phases: int = 1,
) -> Array:
    """Scale and offset of a gated convolution, from sums over its input.

    Args:
        inputs: ``[batch, time, height, width, channel]`` of one 16-bit type, joined along channels,
            of which each has a multiple of 16.
        totals: of each input: float32 ``[batch, time, spots, channel]``, partial sums over height
            and width, however many.
        kernel: ``[kt, kh, kw, channel, out_channel]`` of the inputs' type at stride 1 with zero
            padding: 1 or 3 taps along each axis; for a transposed convolution (``phases`` = 2) 4 in
            height and width.
        bias: ``[out_channel]`` or None.
        gate: matrix ``[out_channel, out_channel]`` and ``[out_channel]``.
        phases: 1, or 2 for a transposed convolution that doubles height and width.

    Returns:
        float32 ``[batch, 2, out_channel]``: by what the convolution's sums are multiplied, and what
        is then added to them.
    """
    batch, time, height, width, _ = inputs[0].shape
    kt, kh, kw, depth, channels = kernel.shape
    problem = GateProblem(
        batch,
        time,
        height,
        width,
        max(total.shape[2] for total in totals),
        tuple(x.shape[-1] for x in inputs),
        channels,
        (kt, kh, kw),
        phases,
        jnp.dtype(inputs[0].dtype),
        jnp.dtype(kernel.dtype),
        device.interpreting(),
    )
    frames = tuple(x.reshape(-1, *x.shape[2:]) for x in (*inputs, *totals))
    weights = kernel.reshape(kt * kh * kw, depth, channels)
    return _launch(problem, frames, weights, bias, *gate)


@functools.partial(jax.jit, static_argnums=0)  # lowered once for all layers that are alike
def _launch(
    problem: GateProblem,
    frames: tuple[Array, ...],
    weights: Array,
    bias: Array | None,
    matrix: Array,
    shift: Array,
) -> Array:
    sums = _add_up(problem, frames)
    if any(size % LINES for size in problem.in_channels):
        ends = [sum(problem.in_channels[:i]) for i in range(1, len(problem.in_channels))]
        sums = jnp.concatenate([_padded(x) for x in jnp.split(sums, ends, axis=-1)], axis=-1)
    products = _padded(_multiply(problem, sums, weights))
    biases = () if bias is None else (_padded(bias),)
    return _finish(problem, products, matrix, shift, biases)


def _padded(x: Array) -> Array:
    """With zeros up to a multiple of 64 channels."""
    missing = -x.shape[-1] % LINES
    return jnp.pad(x, (*((0, 0),) * (x.ndim - 1), (0, missing))) if missing else x


def _kernel(problem: GateProblem, body: Any, name: str, **options: Any) -> Any:
    """A kernel of one warpgroup a thread block."""
    body.__name__ = name
    return plgpu.kernel(
        body,
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        interpret=interpreter() if problem.interpret else None,
        **options,
    )


def _add_up(problem: GateProblem, frames: tuple[Array, ...]) -> Array:
    """Sums over parts of the totals and borders: float32 ``[frame, part, channel]``."""
    inputs, width, strips = len(problem.in_channels), problem.summed, problem.strips
    count, parts, depth = frames[0].shape[0], problem.parts[-1].stop, sum(problem.in_channels)

    def body(*refs: Any) -> None:
        pictures, totals = refs[:inputs], refs[inputs : 2 * inputs]
        sums, *memory = refs[2 * inputs :]
        frame, piece, part = map(lax.axis_index, names)
        target = sums.at[frame, part, pl.ds(piece * width, width)]
        start = 0
        for picture, total, size in zip(pictures, totals, problem.in_channels):
            channels = pl.ds(piece * width - start, width)
            sources = _sources(problem, picture.at[frame], total.at[frame], channels)
            here = (piece * width >= start) & (piece * width < start + size)
            _add_part(problem, sources, memory, (here, part), target)
            start += size

    names = ("frame", "piece", "part")
    kernel = _kernel(
        problem,
        body,
        f"sums_of_{depth}_at_{problem.height}x{problem.width}",
        out_type=[jax.ShapeDtypeStruct((count, parts, depth), jnp.float32)],
        scratch_types=[
            _tiles(problem, strips[0].tiles, jnp.float32),
            _tiles(problem, max(strip.tiles for strip in strips[1:]), problem.in_dtype),
            *(plgpu.Barrier(num_arrivals=strip.tiles) for strip in strips),
        ],
        grid=(count, depth // width, parts),
        grid_names=names,
    )
    return kernel(*frames)[0]


def _tiles(problem: GateProblem, count: int, dtype: Any) -> Any:
    """Shared memory of tiles: as the copy engine sees them, and as matrices (see ``_boxes.py``)."""
    width = problem.summed
    shape = (count, LINES, width)
    if problem.interpret:  # which would keep the two apart
        return plgpu.SMEM(shape, dtype)
    return plgpu.RefUnion(
        plgpu.SMEM(shape, dtype, transforms=swizzled(width, dtype)),
        plgpu.SMEM(shape, dtype, transforms=tiled(width, dtype)),
    )


def _sources(
    problem: GateProblem, picture: Any, totals: Any, channels: Any
) -> tuple[Callable[[Any, Any], Any], ...]:
    """Lines of totals, of the first and last row, of the first and last column; and corners."""
    bottom, right = problem.height - 1, problem.width - 1
    return (
        lambda _, lines: totals.at[lines, channels],
        lambda edge, lines: picture.at[edge * bottom, lines, channels],
        lambda edge, lines: picture.at[lines, edge * right, channels],
        lambda edge, corner: picture.at[edge * bottom, corner * right, channels],
    )


def _add_part(
    problem: GateProblem,
    sources: tuple[Callable[[Any, Any], Any], ...],
    memory: list[Any],
    place: tuple[Any, Any],
    target: Any,
) -> None:
    """Add up what a thread block has to, if it is ``here``, of this input."""
    here, part = place
    wide, narrow, *barriers = memory
    *of_lines, of_corners = sources
    first = 0
    for i, (strip, source) in enumerate(zip(problem.strips, of_lines)):
        end = first + strip.parts * (1 if i == 0 else 2)

        @pl.when(here & (part >= first) & (part < end))
        def _(i: int = i, strip: Strips = strip, source: Any = source, first: int = first) -> None:
            edge, number = divide(part - first, strip.parts)
            tiles = narrow if i else wide
            boxes, matrices = (tiles, tiles) if problem.interpret else tiles
            for tile in range(strip.tiles):
                lines = pl.ds((number * strip.tiles + tile) * LINES, LINES)
                plgpu.copy_gmem_to_smem(source(edge, lines), boxes.at[tile], barriers[i])
            plgpu.barrier_wait(barriers[i])
            values = [as_float32(matrices[tile]) for tile in range(strip.tiles)]
            store(target, jnp.sum(functools.reduce(jnp.add, values), axis=0))

        first = end

    @pl.when(here & (part >= first))
    def _() -> None:
        corner = of_corners(*divide(part - first, 2))
        store(target, as_float32(load(corner, _ALONG_COLUMNS)))


def _multiply(problem: GateProblem, sums: Array, weights: Array) -> Array:
    """Each tap's sums times its weights, of 64 input channels and a temporal tap each.

    float32 ``[batch, 64 input channels · temporal tap, out_channel]``.
    """
    kt, kh, kw = problem.kernel
    width = problem.taken
    pieces = sum(problem.slices)

    def body(sums: Any, weights: Any, products: Any, memory: Any, barrier: Any) -> None:
        sample, piece, temporal, column = map(lax.axis_index, names)
        columns = pl.ds(column * width, width)
        for tap in range(kh * kw):
            place = temporal * kh * kw + tap, pl.ds(_first_channel(problem, piece), LINES), columns
            plgpu.copy_gmem_to_smem(weights.at[place], memory.at[tap], barrier)
        taps = _tap_sums(problem, sums, sample, piece, temporal)
        plgpu.barrier_wait(barrier)
        product = jnp.float32(0)
        for tap, values in enumerate(taps):
            values = lax.broadcast_in_dim(values, (LINES, width), (0,))
            product += values * memory[tap].astype(jnp.float32)
        store(products.at[sample, piece * kt + temporal, columns], jnp.sum(product, axis=0))

    names = ("sample", "piece", "tap", "column")
    shape = (problem.batch, pieces * kt, problem.channels)
    kernel = _kernel(
        problem,
        body,
        f"means_of_{problem.channels}",
        out_type=[jax.ShapeDtypeStruct(shape, jnp.float32)],
        scratch_types=[
            plgpu.SMEM(
                (kh * kw, LINES, width), problem.dtype, transforms=tiled(width, problem.dtype)
            ),
            plgpu.Barrier(num_arrivals=kh * kw),
        ],
        grid=(problem.batch, pieces, kt, problem.channels // width),
        grid_names=names,
    )
    return kernel(sums, weights)[0]


def _first_channel(problem: GateProblem, piece: Any) -> Any:
    """Of 64 channels: which they are in the weights, where no zeros are between the inputs."""
    start, missing = 0, 0
    channel = piece * LINES
    for slices, size in zip(problem.slices[:-1], problem.in_channels):
        start, missing = start + slices, missing + slices * LINES - size
        channel = jnp.where(piece >= start, piece * LINES - missing, channel)
    return channel


def _tap_sums(
    problem: GateProblem, sums: Any, sample: Any, piece: Any, temporal: Any
) -> list[Array]:
    """What each tap meets in 64 channels of the frames that its temporal tap reaches, added up."""
    lines = pl.ds(piece * LINES, LINES)
    quantities = [jnp.float32(0)] * len(problem.parts)
    for frame in range(problem.time):
        target = frame - temporal + problem.kernel[0] // 2
        reached = jnp.where((target >= 0) & (target < problem.time), 1.0, 0.0)
        for i, parts in enumerate(problem.parts):
            for part in parts:
                values = load(sums.at[sample * problem.time + frame, part, lines], _ALONG_LINES)
                quantities[i] += values * reached
    total, rows, columns, corners = (
        quantities[0],
        quantities[1:3],
        quantities[3:5],
        (quantities[5:7], quantities[7:9]),
    )
    taps = []
    for row in _LEFT_OUT[problem.kernel[1]]:
        for column in _LEFT_OUT[problem.kernel[2]]:
            value = total
            if row is not None:
                value = value - rows[row]
            if column is not None:
                value = value - columns[column]
            if row is not None and column is not None:
                value = value + corners[row][column]
            taps.append(value)
    return taps


def _finish(
    problem: GateProblem, products: Array, matrix: Array, shift: Array, bias: tuple[Array, ...]
) -> Array:
    """From products to scale and offset: float32 ``[batch, 2, out_channel]``."""
    width, tiles = problem.taken, pl.cdiv(problem.channels, LINES)

    def body(products: Any, matrix: Any, shift: Any, *refs: Any) -> None:
        *bias, affine, memory, barrier = refs
        sample, column = map(lax.axis_index, names)
        columns = pl.ds(column * width, width)

        @functools.partial(lax.fori_loop, 0, tiles, init_val=None)
        def _(tile: Any, _: None) -> None:
            source = matrix.at[pl.ds(tile * LINES, LINES), columns]
            plgpu.copy_gmem_to_smem(source, memory.at[tile], barrier)

        means = [_mean(problem, products.at[sample], bias, tile) for tile in range(tiles)]
        plgpu.barrier_wait(barrier)
        product = jnp.float32(0)
        for tile, mean in enumerate(means):
            mean = lax.broadcast_in_dim(mean, (LINES, width), (0,))
            product += mean * memory[tile].astype(jnp.float32)
        shift, *bias = (
            load(ref.at[columns], _ALONG_COLUMNS).astype(jnp.float32) for ref in (shift, *bias)
        )
        scale = 1 / (1 + jnp.exp(-(jnp.sum(product, axis=0) + shift)))
        store(affine.at[sample, 0, columns], scale)
        store(affine.at[sample, 1, columns], scale * (bias[0] if bias else 0.0))

    names = ("sample", "column")
    shape = (problem.batch, 2, problem.channels)
    kernel = _kernel(
        problem,
        body,
        f"gate_of_{problem.channels}",
        out_type=[jax.ShapeDtypeStruct(shape, jnp.float32)],
        scratch_types=[
            plgpu.SMEM((tiles, LINES, width), matrix.dtype, transforms=tiled(width, matrix.dtype)),
            plgpu.Barrier(num_arrivals=tiles),
        ],
        grid=(problem.batch, problem.channels // width),
        grid_names=names,
    )
    return kernel(products, matrix, shift, *bias)[0]


def _mean(problem: GateProblem, products: Any, bias: list[Any], tile: int) -> Array:
    """The means of 64 output channels."""
    lines = pl.ds(tile * LINES, LINES)
    pixels = problem.time * problem.height * problem.width * problem.phases**2
    mean = jnp.float32(0)
    for part in range(products.shape[0]):
        mean += load(products.at[part, lines], _ALONG_LINES)
    mean = mean * (1 / pixels)
    return mean + load(bias[0].at[lines], _ALONG_LINES).astype(jnp.float32) if bias else mean
