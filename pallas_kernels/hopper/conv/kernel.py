# SPDX-License-Identifier: Apache-2.0
"""Convolutions over time, height and width as one matrix product, on Hopper's tensor cores.

One kernel serves every convolution here: 3×3×3 and 1×1×1, strides of 1 and 2, and the transposed
convolution as four phases. A thread block owns a tile: a patch of output pixels × some output
channels, of all frames of a clip (``frames`` = time: each input frame that is fetched serves up to
three output frames, and products with the temporal zero padding are left out) or of one frame.
It walks over the input in steps, one spatial tap and up to 64 channels each:

- Two warpgroups multiply (``_multiplying.py``): pixels × channels of the input times channels ×
  output channels of the weights, or the same transposed where there are few output channels, into
  float32 accumulators in registers. A third one only copies (``_copying.py``), ahead of them,
  through two rings of shared memory: boxes of the input, and pieces of the weights.
- The taps above and below a pixel are the same box, read from another row. So a 3×3 kernel takes
  three boxes, one for each horizontal shift, not nine.
- Blocks are persistent: each walks over its share of the tiles (``_tiles.py``), and the copying
  runs ahead across tiles.

The end of a tile (``_finishing.py``) scales, shifts, adds the residual, applies the activation and,
if asked, adds up each channel over the tile's pixels, which is what a gate needs to know (see
``_gate_kernel.py``).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.core import device, jax_versions
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.hopper.conv.config import Config, choose
from pallas_kernels.hopper.conv.consumer import multiply_tiles
from pallas_kernels.hopper.conv.problem import MULTIPLIERS, Problem
from pallas_kernels.hopper.conv.producer import copy_ahead
from pallas_kernels.hopper.conv.tiles import Refs, Tile, place_of, scratch
from pallas_kernels.hopper.geometry import MARGIN, Geometry, Work, divide

__all__ = ["implicit_gemm"]


def implicit_gemm(
    inputs: tuple[Array, ...],
    weights: Array,
    geometry: Geometry,
    size: tuple[int, int, int],
    *,
    scale: Array | None = None,
    offset: Array | None = None,
    residual: Array | None = None,
    residual_scale: Array | None = None,
    activation: Activation = None,
    totals: bool = False,
    out_dtype: Any = None,
    config: Config | None = None,
) -> tuple[Array, Array | None]:
    """``activation(conv(inputs) · scale + offset + residual)`` and its channel totals.

    Args:
        inputs: ``[batch, time, height, width, channel]`` of one type, joined along channels:
            bfloat16, float16 or float8_e4m3fn; at stride 2 height and width must be even.
        weights: ``[*kernel, channel, out_channel]`` of the same type; of 8 bits
            ``[*kernel, out_channel, channel]``.
        geometry: kernel, padding, stride and phases.
        size: time, height and width of the output; of one phase for a transposed convolution.
            Input beyond the end counts as zero.
        scale: float32 ``[batch, out_channel]``.
        offset: float32 ``[batch, out_channel]``, or ``[1, out_channel]`` for all samples.
        residual: of the output's shape and the inputs' type.
        residual_scale: a number, by which the residual is multiplied; where scale or offset is
            given.
        activation: applied last.
        totals: whether to return the totals.
        out_dtype: of the output; the inputs' where not given.
        config: tile and rings; chosen by :mod:`pallas_kernels.hopper.conv.config` where not given.

    Returns:
        The output, and float32 ``[batch, time, spot, out_channel]``, its sums over parts of height
        and width, or None.
    """
    batch, in_time = inputs[0].shape[:2]
    channels = weights.shape[-1]
    in_channels = tuple(x.shape[-1] for x in inputs)
    out_dtype = jnp.dtype(out_dtype or inputs[0].dtype)
    in_bytes = jnp.dtype(inputs[0].dtype).itemsize
    if in_bytes == 1:
        channels = weights.shape[-2]
    sizes = in_channels, channels, out_dtype.itemsize, in_bytes
    work = Work(geometry, batch, in_time, *size, *sizes, residual is not None and in_bytes == 1)
    if config is None:
        config = choose(work, device.processors())
    problem = Problem(
        work,
        config,
        inputs[0].dtype,
        out_dtype,
        activation,
        residual is not None,
        totals,
        device.interpreting(),
        2 if residual_scale is None else 3,
    )
    arguments = (
        tuple(_picture(problem, x, geometry.stride) for x in inputs),
        weights.reshape(weights.shape[0], -1, weights.shape[-1]),
        _affine(scale, offset, residual_scale),
        None if residual is None else _picture(problem, residual, 1),
    )
    output, sums = _launch(problem, arguments)
    time, height, width = (size[0], *(geometry.phases * n for n in size[1:]))
    output = output.reshape(batch, time, -1, geometry.phases * problem.padded_size[1], channels)
    if sums is not None:
        sums = sums.reshape(batch, time, -1, channels)
    return output[:, :, :height, :width], sums


def _affine(
    scale: Array | None, offset: Array | None, residual_scale: Array | None
) -> Array | None:
    """All factors as one array, which is one copy: float32 ``[batch or 1, 2 or 3, channel]``."""
    if scale is None and offset is None:
        assert residual_scale is None
        return None
    if scale is None:
        scale = jnp.ones_like(jnp.asarray(offset))
    offset = jnp.zeros_like(scale) if offset is None else jnp.broadcast_to(offset, scale.shape)
    rows = [scale, offset]
    if residual_scale is not None:
        rows.append(jnp.broadcast_to(residual_scale, scale.shape))
    return jnp.stack(rows, axis=1)


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
    blocks = min(device.processors(), tiles)

    def body(*refs: Any) -> None:
        refs, outputs = refs[: len(given)], list(refs[len(given) :])
        inputs, weights, affine, residual = jax.tree.unflatten(tree, refs)
        output = outputs.pop(0)
        totals = outputs.pop(0) if problem.totals else None
        memory = Refs(inputs, weights, affine, residual, output, totals, *outputs)
        block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")
        share, _ = divide(tiles - block + blocks - 1, blocks)

        def place(turn: Any) -> Tile:
            return place_of(problem, block + turn * blocks)

        @pl.when(warpgroup == MULTIPLIERS)
        def _copy() -> None:
            plgpu.set_max_registers(40, action="decrease")
            copy_ahead(problem, memory, share, place)

        @pl.when(warpgroup < MULTIPLIERS)
        def _multiply() -> None:
            plgpu.set_max_registers(232, action="increase")
            multiply_tiles(problem, memory, share, place, warpgroup)

    body.__name__ = problem.name
    kernel = plgpu.kernel(
        body,
        out_type=out_type,
        scratch_types=scratch(problem),
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
        interpret=jax_versions.interpreter() if problem.interpret else None,
    )
    outputs = kernel(*given)
    return outputs[0], outputs[1] if problem.totals else None
