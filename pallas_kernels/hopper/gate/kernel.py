# SPDX-License-Identifier: Apache-2.0
"""The gate of a convolution, computed before the convolution by three small kernels.

A gate scales each channel of the convolution's output by a function of all channels' global means.
These means are linear in the convolution's input: each tap of the kernel sums the whole input
except the rows, columns and frames that it cannot reach. So the means follow from each frame's
channel totals, which the kernel that wrote the frame has already computed, and from sums over the
frame's border. The gate's scale is then known before the convolution runs, and is applied in its
epilogue.

XLA would compile this to ten short kernels, each waiting for the one before. The three kernels are:

1. Sum the frames' totals, border rows and border columns (``sums.py``).
2. Form each tap's sums from them and multiply these by the weights; a thread block handles 64 input
   channels of one temporal tap and 32 output channels.
3. Add up these products to the mean; apply the gate's matrix, the sigmoid and the bias.

Rows beyond the end of an array are read as zeros. No thread block waits for another.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Float, Float32, Shaped

from pallas_kernels.core import device
from pallas_kernels.core.jax_versions import load, store
from pallas_kernels.hopper.gate.problem import TILE_M, GateProblem
from pallas_kernels.hopper.gate.sums import PER_COLUMN, add_up, warpgroup_kernel
from pallas_kernels.hopper.primitives import Barrier, Ref, Scalar, copy_in, wait
from pallas_kernels.hopper.shared_memory import tiled

__all__ = ["gate_ahead"]

# Register layout of a vector with one value per row of a matrix that one warpgroup holds.
_PER_ROW = plgpu.Layout.WGMMA.reduce(1)
# By number of taps, the border row or column that each tap does not read: 0 for the first, 1 for
# the last, None for neither. The first of 3 taps reads the pixel before its output, so it never
# reads the last row.
_LEFT_OUT: dict[int, tuple[int | None, ...]] = {
    1: (None,),
    3: (1, None, 0),
    4: (1, None, None, 0),
}


def gate_ahead(
    inputs: tuple[Float[Array, "batch time height width _"], ...],
    totals: tuple[Float32[Array, "batch time _ _"], ...],
    kernel: Float[Array, "kt kh kw in_channel channel"],
    bias: Float[Array, " channel"] | None,
    gate: tuple[Float[Array, "channel channel"], Float[Array, " channel"]],
    *,
    phases: int = 1,
    units: Float32[Array, "rows channel"] | None = None,
) -> Float32[Array, "batch rows channel"]:
    """Scale and offset of a gated convolution, from sums over its input.

    Args:
        inputs: ``[batch, time, height, width, channel]`` arrays of one dtype, convolved as if
            concatenated along the channels; each has a multiple of 16 channels.
        totals: totals of each input: float32 ``[batch, time, partial, channel]``, any number of
            partial sums over height and width.
        kernel: 16-bit ``[kt, kh, kw, channel, out_channel]`` of a convolution at stride 1 with zero
            padding: 1 or 3 taps along each axis; for a transposed convolution (``phases`` = 2) 4 in
            height and width.
        bias: ``[out_channel]`` or None.
        gate: the gate's matrix ``[out_channel, out_channel]`` and bias ``[out_channel]``.
        phases: 1, or 2 for a transposed convolution that doubles height and width.
        units: factors of the scale and of the offset, and further rows that are passed through:
            what the epilogue of a convolution in 8 bits multiplies by.

    Returns:
        float32 ``[batch, 2, out_channel]``: the scale of the convolution's sums, and the offset
        that is added after scaling. With ``units``, as many rows as these have.
    """
    batch, time, height, width, _ = inputs[0].shape
    kt, kh, kw, depth, channels = kernel.shape
    problem = GateProblem(
        batch=batch,
        time=time,
        height=height,
        width=width,
        partials=max(total.shape[2] for total in totals),
        in_channels=tuple(x.shape[-1] for x in inputs),
        channels=channels,
        kernel=(kt, kh, kw),
        phases=phases,
        in_dtype=jnp.dtype(inputs[0].dtype),
        dtype=jnp.dtype(kernel.dtype),
        interpret=device.interpreting(),
    )
    # Samples and frames become one axis, since a thread block only sums within a frame.
    frames = tuple(x.reshape(-1, *x.shape[2:]) for x in (*inputs, *totals))
    weights = kernel.reshape(kt * kh * kw, depth, channels)
    padded = None if bias is None else _padded(bias)
    return _launch(problem, frames, weights, padded, units, *gate)


@functools.partial(jax.jit, static_argnums=0)  # layers of equal shapes are lowered once
def _launch(
    problem: GateProblem,
    frames: tuple[Float[Array, "frames ..."], ...],
    weights: Float[Array, "taps depth channels"],
    bias: Float[Array, " padded"] | None,
    units: Float32[Array, "rows channels"] | None,
    matrix: Float[Array, "channels channels"],
    shift: Float[Array, " channels"],
) -> Float32[Array, "batch rows channels"]:
    products = _multiply(problem, add_up(problem, frames), weights)
    return _finish(problem, products, matrix, shift, bias, units)


def _padded(x: Float[Array, " channels"]) -> Float[Array, " padded"]:
    """Pad with zeros to a multiple of 64 channels."""
    missing = -x.shape[0] % TILE_M
    return jnp.pad(x, (0, missing)) if missing else x


def _multiply(
    problem: GateProblem,
    sums: Float32[Array, "frames partials padded_depth"],
    weights: Float[Array, "taps depth channels"],
) -> Float32[Array, "batch k_tiles_x_kt padded"]:
    """Second kernel: each tap's sums times its weights, per 64 input channels and temporal tap.

    The third kernel reads 64 channels at a time, so zeros follow the last channel.
    """
    kt, kh, kw = problem.kernel
    tile_n, k_tiles = problem.tile_n, sum(problem.k_tiles)

    def body(
        sums: Shaped[Ref, "frames partials padded_depth"],
        weights: Shaped[Ref, "taps depth channels"],
        products: Shaped[Ref, "batch k_tiles_x_kt padded"],
        smem: Shaped[Ref, "spatial_taps k n"],
        barrier: Barrier,
    ) -> None:
        sample, k_tile, temporal, column = map(lax.axis_index, names)
        # Blocks split the output channels, so that even a small layer fills the GPU.
        columns = pl.ds(column * tile_n, tile_n)
        rows = pl.ds(_first_channel(problem, k_tile), TILE_M)
        # One barrier counts the copies for all taps, whose weights are needed together.
        for tap in range(kh * kw):
            copy_in(weights.at[temporal * kh * kw + tap, rows, columns], smem.at[tap], barrier)
        taps = _tap_sums(problem, sums, sample, k_tile, temporal)  # overlaps the copies
        wait(barrier)
        product = jnp.float32(0)
        for tap, values in enumerate(taps):
            # Multiply elementwise and sum over rows: operand A of a matrix product would have only
            # one row.
            values = lax.broadcast_in_dim(values, (TILE_M, tile_n), (0,))
            product += values * smem[tap].astype(jnp.float32)
        store(products.at[sample, k_tile * kt + temporal, columns], jnp.sum(product, axis=0))

    names = ("sample", "k_tile", "tap", "column")
    padded = pl.cdiv(problem.channels, TILE_M) * TILE_M
    shape = (problem.batch, k_tiles * kt, padded)
    tile = (kh * kw, TILE_M, tile_n)
    kernel = warpgroup_kernel(
        problem,
        body,
        f"means_of_{problem.channels}",
        out_type=[jax.ShapeDtypeStruct(shape, jnp.float32)],
        scratch_types=[
            plgpu.SMEM(tile, problem.dtype, transforms=tiled(tile_n, problem.dtype)),
            plgpu.Barrier(num_arrivals=kh * kw),
        ],
        grid=(problem.batch, k_tiles, kt, padded // tile_n),
        grid_names=names,
    )
    return kernel(sums, weights)[0]


def _first_channel(problem: GateProblem, k_tile: Scalar) -> Scalar:
    """First channel of a k tile in the weights, which have no padding between the inputs.

    The tile may extend beyond its input; the sums for those rows are zero.
    """
    start, missing = 0, 0
    # If no input before it is padded, a tile starts at the same channel as in the padded sums.
    channel = k_tile * TILE_M
    for tiles, size in zip(problem.k_tiles[:-1], problem.in_channels):
        start, missing = start + tiles, missing + tiles * TILE_M - size
        channel = jnp.where(k_tile >= start, k_tile * TILE_M - missing, channel)
    return channel


def _tap_sums(
    problem: GateProblem,
    sums: Shaped[Ref, "frames partials padded_depth"],
    sample: Scalar,
    k_tile: Scalar,
    temporal: Scalar,
) -> list[Float32[Array, " k"]]:
    """For each spatial tap, the sum over all input pixels that it reads, for 64 channels.

    By inclusion and exclusion: the frame's total, minus the row and the column that the tap does
    not read, plus the corner that both contain.
    """
    rows = pl.ds(k_tile * TILE_M, TILE_M)
    quantities = [jnp.float32(0)] * len(problem.sum_ranges)
    for frame in range(problem.time):
        # Temporal tap k of output frame t reads frame f = t + k − kt // 2; `target` is t. Frames
        # that no output frame reads through this tap count zero times.
        target = frame - temporal + problem.kernel[0] // 2
        # A factor, not a Python branch, because the temporal tap is known only at run time.
        reached = jnp.where((target >= 0) & (target < problem.time), 1.0, 0.0)
        for i, partials in enumerate(problem.sum_ranges):
            for partial in partials:
                values = load(sums.at[sample * problem.time + frame, partial, rows], _PER_ROW)
                quantities[i] += values * reached
    # The order of `GateProblem.sum_ranges`.
    total, top, bottom, left, right, *corners = quantities
    border_rows, border_columns, corners = (top, bottom), (left, right), (corners[:2], corners[2:])
    taps = []
    for row in _LEFT_OUT[problem.kernel[1]]:
        for column in _LEFT_OUT[problem.kernel[2]]:
            value = total
            if row is not None:
                value = value - border_rows[row]
            if column is not None:
                value = value - border_columns[column]
            if row is not None and column is not None:
                value = value + corners[row][column]
            taps.append(value)
    return taps


def _finish(
    problem: GateProblem,
    products: Float32[Array, "batch k_tiles_x_kt padded"],
    matrix: Float[Array, "channels channels"],
    shift: Float[Array, " channels"],
    bias: Float[Array, " padded"] | None,
    units: Float32[Array, "rows channels"] | None,
) -> Float32[Array, "batch rows channels"]:
    """Third kernel: means, the gate's matrix and sigmoid; returns scale and offset."""
    tile_n, tiles = problem.tile_n, pl.cdiv(problem.channels, TILE_M)
    rows = 2 if units is None else units.shape[0]

    def body(
        products: Shaped[Ref, "batch k_tiles_x_kt padded"],
        matrix: Shaped[Ref, "channels channels"],
        shift: Shaped[Ref, " channels"],
        *refs: Ref,
    ) -> None:
        *given, affine, smem, barrier = refs
        biases = [given.pop(0)] if bias is not None else []
        sample, column = map(lax.axis_index, names)
        columns = pl.ds(column * tile_n, tile_n)

        @functools.partial(lax.fori_loop, 0, tiles, init_val=None)
        def _(tile: Scalar, _: None) -> None:
            part = pl.ds(tile * TILE_M, TILE_M)
            copy_in(matrix.at[part, columns], smem.at[tile], barrier)

        # Overlaps the copies. Every block computes all means; a fourth kernel would cost more.
        means = [_mean(problem, products.at[sample], biases, tile) for tile in range(tiles)]
        wait(barrier)
        product = jnp.float32(0)
        for tile, mean in enumerate(means):
            mean = lax.broadcast_in_dim(mean, (TILE_M, tile_n), (0,))
            product += mean * smem[tile].astype(jnp.float32)
        shifts, *offsets = (
            load(ref.at[columns], PER_COLUMN).astype(jnp.float32) for ref in (shift, *biases)
        )
        scale = 1 / (1 + jnp.exp(-(jnp.sum(product, axis=0) + shifts)))
        # (sums + bias) · scale = sums · scale + bias · scale
        found = [scale, scale * (offsets[0] if offsets else 0.0)]
        if given:
            factors = [load(given[0].at[row, columns], PER_COLUMN) for row in range(rows)]
            found = [value * factor for value, factor in zip(found, factors)] + factors[2:]
        for row, value in enumerate(found):
            store(affine.at[sample, row, columns], value)

    names = ("sample", "column")
    tile = (tiles, TILE_M, tile_n)
    kernel = warpgroup_kernel(
        problem,
        body,
        f"gate_of_{problem.channels}",
        out_type=[jax.ShapeDtypeStruct((problem.batch, rows, problem.channels), jnp.float32)],
        scratch_types=[
            plgpu.SMEM(tile, matrix.dtype, transforms=tiled(tile_n, matrix.dtype)),
            plgpu.Barrier(num_arrivals=tiles),
        ],
        grid=(problem.batch, problem.channels // tile_n),
        grid_names=names,
    )
    return kernel(products, matrix, shift, *(each for each in (bias, units) if each is not None))[0]


def _mean(
    problem: GateProblem,
    products: Shaped[Ref, "k_tiles_x_kt padded"],
    bias: list[Ref],
    tile: int,
) -> Float32[Array, " m"]:
    """Means of 64 channels of the convolution's output, including the bias."""
    rows = pl.ds(tile * TILE_M, TILE_M)
    # For a transposed convolution, the sums are over the pixels of all four phases.
    pixels = problem.time * problem.height * problem.width * problem.phases**2
    mean = jnp.float32(0)
    for partial in range(products.shape[0]):
        mean += load(products.at[partial, rows], _PER_ROW)
    # The count is a compile-time constant, so multiply by its inverse instead of dividing.
    mean = mean * (1 / pixels)
    return mean + load(bias[0].at[rows], _PER_ROW).astype(jnp.float32) if bias else mean
