# SPDX-License-Identifier: Apache-2.0
"""Convolution of images by a kernel whose weights stay in shared memory.

With 16 to 96 channels, the kernel of ``hopper/conv`` is limited by copies from the L2 cache: it
fetches a halo tile for each horizontal tap, and the weights for each tile. Here a thread block
fetches all weights once, and each halo tile once: all taps read it in place (``products.py``).

One warpgroup copies (``producer.py``); two others multiply (``consumer.py``), each in tiles of 64
columns of its own.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike
from jaxtyping import Float, Shaped

from pallas_kernels.core import device, jax_versions
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.hopper.geometry import INTERPRETER_MARGIN
from pallas_kernels.hopper.primitives import Ref, Scalar, divide
from pallas_kernels.hopper.resident.consumer import consume
from pallas_kernels.hopper.resident.memory import Operands, Tiles, as_refs, scratch
from pallas_kernels.hopper.resident.problem import CONSUMERS, ResidentProblem, plan
from pallas_kernels.hopper.resident.producer import produce

__all__ = ["convolve", "plan_for"]

_PRODUCER_REGISTERS, _CONSUMER_REGISTERS = 40, 232  # per thread; an SM has 65,536


def plan_for(
    images: Shaped[Array, "images in_height in_width in_channels"],
    taps: tuple[int, int],
    channels: int,
    size: tuple[int, int],
    low: tuple[int, int],
    *,
    samples: int = 0,
    activation: Activation = None,
    out_dtype: DTypeLike,
) -> ResidentProblem | None:
    """The launch of a convolution, or None if ``hopper/conv`` has to run it.

    Args:
        images: bfloat16 or float16.
        taps: height and width of the kernel.
        channels: channels of the output.
        size: height and width of the output.
        low: rows and columns of zero padding before the images.
        samples: images of the residual; 0 without one.
        activation: applied last.
        out_dtype: dtype of the output.
    """
    if images.dtype.itemsize != 2:
        return None
    problem = ResidentProblem(
        images=images.shape[0],
        height=size[0],
        width=size[1],
        in_channels=images.shape[3],
        channels=channels,
        taps=taps,
        low=low,
        dtype=jnp.dtype(images.dtype),
        out_dtype=jnp.dtype(out_dtype),
        activation=activation,
        sharing=images.shape[0] // samples if samples else 0,
        interpret=device.interpreting(),
    )
    return plan(problem, device.sm_count())


def convolve(
    problem: ResidentProblem,
    images: Shaped[Array, "images in_height in_width in_channels"],
    kernel: Shaped[Array, "kh kw in_channels channels"],
    offset: Float[Array, " channels"] | None,
    residual: Shaped[Array, "samples height width channels"] | None,
) -> Shaped[Array, "images height width channels"]:
    """``activation(conv(images) + offset + residual)``; see :class:`ResidentProblem`."""
    kh, kw, _depth, channels = kernel.shape
    # A swizzled row has the input channels of one chunk: WGMMA then takes any number of outputs.
    weights = kernel.reshape(kh * kw, problem.chunks, problem.chunk, channels)
    weights = weights.transpose(1, 0, 3, 2).reshape(-1, channels, problem.chunk)
    if problem.interpret:
        images, residual = _margin(problem, images), _margin(problem, residual)
    output = _launch(problem, Operands(images, weights, offset, residual))
    return output[:, : problem.height, : problem.width]


def _margin(problem: ResidentProblem, x: Any) -> Any:
    """Zeros around images for the interpreter, whose copies must not leave them."""
    if x is None:
        return None
    low, (rows, columns) = INTERPRETER_MARGIN, problem.halo_size
    return jnp.pad(x, ((0, 0), (low, low + rows), (low, low + columns), (0, 0)))


@functools.partial(jax.jit, static_argnums=0)  # layers of equal shapes are lowered once
def _launch(
    problem: ResidentProblem, operands: Operands
) -> Shaped[Array, "images height width channels"]:
    arrays, tree = jax.tree.flatten(operands)
    pairs = pl.cdiv(problem.tiles, CONSUMERS)
    blocks = min(device.sm_count(), pairs)  # persistent, one per SM

    def body(*references: Ref) -> None:
        given, others = references[: len(arrays)], references[len(arrays) :]
        refs = as_refs(problem, jax.tree.unflatten(tree, given), others)
        block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")

        # A block has the pairs of tiles block, block + blocks, …, one tile for each consumer.
        def number_of(turn: Scalar, consumer: Scalar) -> Scalar:
            return (block + turn * blocks) * CONSUMERS + consumer

        def turns_of(consumer: Scalar) -> Scalar:
            mine, _ = divide(problem.tiles - consumer + CONSUMERS - 1, CONSUMERS)
            return divide(mine - block + blocks - 1, blocks)[0]

        @pl.when(warpgroup == CONSUMERS)
        def _produce() -> None:
            plgpu.set_max_registers(_PRODUCER_REGISTERS, action="decrease")
            produce(problem, refs, Tiles(number_of, turns_of))

        @pl.when(warpgroup < CONSUMERS)
        def _consume() -> None:
            plgpu.set_max_registers(_CONSUMER_REGISTERS, action="increase")
            consume(problem, refs, Tiles(number_of, turns_of), warpgroup)

    body.__name__ = problem.name
    shape = problem.images, *problem.padded_size, problem.channels
    kernel: Any = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(shape, problem.out_dtype),
        scratch_types=scratch(problem),
        grid=(blocks,),
        grid_names=("block",),
        num_threads=CONSUMERS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
            unsafe_no_auto_barriers=True,  # as in `hopper/conv/kernel.py`
        ),
        interpret=jax_versions.interpreter() if problem.interpret else None,
    )
    return kernel(*arrays)
