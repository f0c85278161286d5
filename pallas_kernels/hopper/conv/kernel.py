# SPDX-License-Identifier: Apache-2.0
"""Convolution over time, height and width as an implicit GEMM on Hopper's tensor cores.

One kernel serves every convolution here: 3×3×3 and 1×1×1, strides of 1 and 2, and the transposed
convolution as four phases. A thread block computes tiles of ``tile_m`` output pixels × ``tile_n``
output channels, of one frame or of all frames of a clip. If a tile spans the clip, each input frame
is fetched once for up to three output frames, and products with temporal zero padding are skipped.
The main loop runs over the input in steps of one spatial tap and ``tile_k`` channels:

- The producer, one warpgroup, fills two rings in shared memory ahead of the consumers: halo tiles
  of the input, and tiles of the weights (``producer.py``).
- Two consumers multiply (``consumer.py``) the input, pixels × channels, by the weights, channels ×
  output channels, into float32 accumulators in registers. With few output channels the product is
  transposed (``swap_ab``).
- The vertical taps read the same halo tile from different rows on. So a 3×3 kernel copies three
  halo tiles, one for each horizontal tap, not nine.
- Blocks are persistent, one per SM: each computes several tiles (``tiles.py``), and the producer
  runs ahead across tiles, so that the epilogue of one tile hides the copies for the next.

The epilogue (``epilogue.py``) applies scale, offset, residual and activation. If asked, it also
sums each channel over the tile's pixels; a later gate is computed from these totals
(``hopper/gate/kernel.py``).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike
from jaxtyping import Float, Float32, Shaped

from pallas_kernels.core import device, jax_versions
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.hopper.conv.config import CONSUMERS, Config, choose
from pallas_kernels.hopper.conv.consumer import consume
from pallas_kernels.hopper.conv.problem import Problem
from pallas_kernels.hopper.conv.producer import produce
from pallas_kernels.hopper.conv.tiles import Refs, Tile, scratch, tile_at
from pallas_kernels.hopper.geometry import INTERPRETER_MARGIN, ConvShape, Geometry
from pallas_kernels.hopper.primitives import Ref, Scalar, divide
from pallas_kernels.hopper.shared_memory import Views

__all__ = ["implicit_gemm"]

# Registers per thread: an SM has 65,536 for 3 warpgroups of 128 threads. The producer only starts
# copies; a consumer's thread holds up to 128 sums and the values of the epilogue.
_PRODUCER_REGISTERS, _CONSUMER_REGISTERS = 40, 232


class _Operands(NamedTuple):
    """Inputs of the kernel, in their shapes in global memory."""

    inputs: tuple[Shaped[Array, "frames *size channels"], ...]
    weights: Shaped[Array, "kt taps_x_depth channels"]
    affine: Float32[Array, "samples factors channels"] | None
    residual: Shaped[Array, "frames height width channels"] | None


def implicit_gemm(
    inputs: tuple[Shaped[Array, "batch in_time in_height in_width _"], ...],
    weights: Shaped[Array, "kt kh kw _ _"],
    geometry: Geometry,
    size: tuple[int, int, int],
    *,
    scale: Float32[Array, "samples_or_1 channel"] | None = None,
    offset: Float32[Array, "_samples_or_1 channel"] | None = None,
    residual: Shaped[Array, "samples time height width channel"] | None = None,
    residual_scale: Float[Array, ""] | Float32[Array, "samples_or_1 channel"] | None = None,
    activation: Activation = None,
    totals: bool = False,
    out_dtype: DTypeLike | None = None,
    config: Config | None = None,
) -> tuple[Array, Array | None]:
    """``activation(conv(inputs) · scale + offset + residual)`` and its channel totals.

    Args:
        inputs: ``[batch, time, height, width, channel]`` arrays of one dtype (bfloat16, float16 or
            float8_e4m3fn), convolved as if concatenated along the channels; at stride 2 height and
            width must be even.
        weights: ``[*kernel, channel, out_channel]`` of the same dtype; in 8 bits
            ``[*kernel, out_channel, channel]``.
        geometry: kernel, padding, stride and phases.
        size: time, height and width of the output; for a transposed convolution, of one phase.
            Input beyond the border counts as zero.
        scale: float32 ``[batch, out_channel]``, or ``[1, out_channel]`` for all samples.
        offset: of the same shape and dtype.
        residual: of the output's shape and the inputs' dtype; samples may be shared by several.
        residual_scale: factor of the residual, one number or of the shape of ``scale``; requires
            ``scale`` or ``offset``.
        activation: applied last.
        totals: whether to return the totals.
        out_dtype: dtype of the output; by default the inputs'.
        config: tile sizes and ring depths; by default those of :func:`choose`.

    Returns:
        The output, and float32 totals ``[batch, time, partial, out_channel]`` of its parts or None.
    """
    dtype = jnp.dtype(inputs[0].dtype)
    out = jnp.dtype(out_dtype or dtype)
    conv = _conv_shape(inputs, weights, geometry, size, out, residual is not None)
    problem = Problem(
        conv=conv,
        config=config or choose(conv, device.sm_count()),
        dtype=dtype,
        out_dtype=out,
        activation=activation,
        residual=residual is not None,
        sharing=1 if residual is None else conv.batch // residual.shape[0],
        totals=totals,
        interpret=device.interpreting(),
        factors=2 if residual_scale is None else 3,
    )
    operands = _Operands(
        tuple(_picture(problem, x, geometry.stride) for x in inputs),
        weights.reshape(weights.shape[0], -1, weights.shape[-1]),
        _affine(scale, offset, residual_scale),
        None if residual is None else _picture(problem, residual, 1),
    )
    return _as_clips(problem, *_launch(problem, operands))


def _as_clips(
    problem: Problem,
    output: Shaped[Array, "..."],
    sums: Float32[Array, "frames partials channels"] | None,
) -> tuple[Array, Array | None]:
    """Reshape output and totals to clips: interleave the phases, and cut padding off."""
    conv, phases = problem.conv, problem.conv.geometry.phases
    output = output.reshape(
        conv.batch, conv.time, -1, phases * problem.padded_size[1], conv.channels
    )
    if sums is not None:
        sums = sums.reshape(conv.batch, conv.time, -1, conv.channels)
    # Only the interpreter stores whole tiles; on a GPU there is nothing to cut off.
    return output[:, :, : phases * conv.height, : phases * conv.width], sums


def _conv_shape(
    inputs: tuple[Shaped[Array, "batch in_time in_height in_width _"], ...],
    weights: Shaped[Array, "kt kh kw _ _"],
    geometry: Geometry,
    size: tuple[int, int, int],
    out_dtype: jnp.dtype,
    residual: bool,
) -> ConvShape:
    """The properties of the convolution on which tile sizes depend."""
    in_bytes = jnp.dtype(inputs[0].dtype).itemsize
    k_major = in_bytes == 1  # 8-bit weights are [out, in]
    return ConvShape(
        geometry=geometry,
        batch=inputs[0].shape[0],
        in_time=inputs[0].shape[1],
        time=size[0],
        height=size[1],
        width=size[2],
        in_channels=tuple(x.shape[-1] for x in inputs),
        channels=weights.shape[-2 if k_major else -1],
        out_bytes=out_dtype.itemsize,
        in_bytes=in_bytes,
        # A residual of the output's size has the same chunks of channels as inputs and output in
        # any case, but 8-bit weights and float32 outputs have chunks of their own.
        residual=residual and (k_major or out_dtype.itemsize != in_bytes),
    )


def _affine(
    scale: Float32[Array, "samples channel"] | None,
    offset: Float32[Array, "samples_or_1 channel"] | None,
    residual_scale: Float[Array, ""] | Float32[Array, "samples_or_1 channel"] | None,
) -> Float32[Array, "_ factors channel"] | None:
    """Stack all factors, so that one copy fetches them: ``[batch or 1, 2 or 3, channel]``."""
    if scale is None and offset is None:
        assert residual_scale is None
        return None
    # The epilogue always multiplies and adds, so that one version of it is enough.
    if scale is None:
        scale = jnp.ones_like(jnp.asarray(offset))
    offset = jnp.zeros_like(scale) if offset is None else jnp.broadcast_to(offset, scale.shape)
    rows = [scale, offset]
    if residual_scale is not None:
        rows.append(jnp.broadcast_to(residual_scale, scale.shape))
    return jnp.stack(rows, axis=1)


def _picture(
    problem: Problem, x: Shaped[Array, "batch time height width channel"], stride: int
) -> Shaped[Array, "frames *view channels"]:
    """View frames so that a strided convolution copies contiguous columns: ``[frames, …]``.

    At stride 2, even and odd rows (the phases) get an axis, and even and odd columns become blocks
    of channels, because TMA descriptors have at most 5 axes.
    """
    batch, time, height, width, channels = x.shape
    if problem.interpret:
        config = problem.config
        rows, columns = (
            (INTERPRETER_MARGIN, INTERPRETER_MARGIN + stride * tile)
            for tile in (config.tile_h, config.tile_w)
        )
        # A margin before the frame for the halo, and after it for the halo and for tiles that
        # extend beyond the frame.
        x = jnp.pad(x, ((0, 0), (0, 0), rows, columns, (0, 0)))
        height, width = x.shape[2:4]
    if stride == 1:
        return x.reshape(batch * time, height, width, channels)
    return x.reshape(batch * time, height // 2, 2, width // 2, 2 * channels)


@functools.partial(jax.jit, static_argnums=0)  # layers of equal shapes are lowered once
def _launch(
    problem: Problem, operands: _Operands
) -> tuple[Shaped[Array, "..."], Float32[Array, "frames partials channels"] | None]:
    """Run the kernel; the phases of its output are not yet interleaved."""
    # Pallas takes arrays by position, and an operand that is None has no reference.
    arrays, tree = jax.tree.flatten(operands)
    tiles = math.prod(problem.grid)
    # One persistent block per SM, whose shared memory has room for the rings of one block.
    blocks = min(device.sm_count(), tiles)

    def body(*references: Ref) -> None:
        given, others = references[: len(arrays)], references[len(arrays) :]
        refs = _as_refs(problem, jax.tree.unflatten(tree, given), others)
        # All warpgroups run this body; they branch below.
        block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")

        # This block has the tiles block, block + blocks, …, so that tiles with neighbouring numbers
        # run at the same time (see `tile_at`).
        def tile_count() -> Scalar:
            # Computed in each branch below: kept from before them, it would be spilled.
            return divide(tiles - block + blocks - 1, blocks)[0]

        # Producer and consumers compute the next tile independently, so they exchange no message.
        def tile_of(number: Scalar) -> Tile:
            return tile_at(problem, block + number * blocks)

        @pl.when(warpgroup == CONSUMERS)
        def _produce() -> None:
            # Frees registers that the consumers take below.
            plgpu.set_max_registers(_PRODUCER_REGISTERS, action="decrease")
            produce(problem, refs, tile_count(), tile_of)

        @pl.when(warpgroup < CONSUMERS)
        def _consume() -> None:
            plgpu.set_max_registers(_CONSUMER_REGISTERS, action="increase")
            consume(problem, refs, tile_count(), tile_of, warpgroup)

    body.__name__ = problem.name
    kernel = plgpu.kernel(
        body,
        out_type=problem.out_types,
        scratch_types=scratch(problem),
        grid=(blocks,),
        grid_names=("block",),
        num_threads=CONSUMERS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
            # Automatic barriers are not needed: each warp reads from shared memory only data that
            # it wrote itself or that TMA wrote, ordered by barriers and `commit_smem`.
            unsafe_no_auto_barriers=True,
        ),
        interpret=jax_versions.interpreter() if problem.interpret else None,
    )
    outputs = kernel(*arrays)
    return outputs[0], outputs[1] if problem.totals else None


def _as_refs(
    problem: Problem,
    operands: tuple[tuple[Ref, ...], Ref, Ref | None, Ref | None],
    others: tuple[Ref, ...],
) -> Refs:
    """Name the references of a kernel: operands, then outputs and scratch, in Pallas's order."""
    output, *rest = others
    totals = rest.pop(0) if problem.totals else None
    inputs, weights, stores, *rest = rest
    return Refs(*operands, output, totals, Views(*inputs), weights, Views(*stores), *rest)
