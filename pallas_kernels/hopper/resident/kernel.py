# SPDX-License-Identifier: Apache-2.0
"""Convolution of images by a kernel whose weights stay in shared memory.

With 16 to 96 channels, the kernel of ``hopper/conv`` is limited by copies from the L2 cache: it
fetches a halo tile for each horizontal tap, and the weights for each tile. Here a thread block
fetches all weights once, and each halo tile once: all taps read it in place.

A tap's operand begins at any pixel of the halo tile, not only at the first of a core tile of 8
pixels. WGMMA reads that correctly, because the swizzle depends on addresses alone: row r of an
operand is at ``start + r · bytes of a pixel``, also from one core tile to the next. On an H200
(jax 0.11.2) all starts are exact, and the GPU tests check it. Pallas cannot express such a start,
so that the products are written with its compiler's own operations (:func:`_multiply`).

One warpgroup copies; two others multiply, each in tiles of 64 columns of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mosaic
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.interpreters import mlir
from jax.typing import DTypeLike
from jaxlib.mlir.dialects import llvm
from jaxtyping import Float, Float32, Shaped

from pallas_kernels.core import device, jax_versions
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.hopper.conv.epilogue import activate
from pallas_kernels.hopper.geometry import INTERPRETER_MARGIN
from pallas_kernels.hopper.primitives import (
    Barrier,
    Index,
    Ref,
    Scalar,
    arrive,
    copy_in,
    divide,
    wait,
    wait_for_stores,
)
from pallas_kernels.hopper.resident.problem import (
    COLUMNS,
    CONSUMERS,
    STORES,
    ResidentProblem,
    plan,
)
from pallas_kernels.hopper.shared_memory import Views, swizzled, tiled

__all__ = ["convolve", "plan_for"]

_PRODUCER_REGISTERS, _CONSUMER_REGISTERS = 40, 232  # per thread; an SM has 65,536

_ir: Any = mlir.ir
_mosaic: Any = mosaic
_plgpu: Any = plgpu


class _Operands(NamedTuple):
    """Inputs of the kernel, in their shapes in global memory."""

    images: Shaped[Array, "images height width in_channels"]
    weights: Shaped[Array, "chunks_x_taps channels chunk"]
    offset: Float[Array, " channels"] | None
    residual: Shaped[Array, "samples height width channels"] | None


class _Refs(NamedTuple):
    """The kernel's memory: global first, then shared, then barriers, as in ``hopper/conv``."""

    images: Shaped[Ref, "images height width in_channels"]
    weights: Shaped[Ref, "chunks_x_taps channels chunk"]
    offset: Shaped[Ref, " channels"] | None
    residual: Shaped[Ref, "samples height width channels"] | None
    output: Shaped[Ref, "images height width channels"]
    halo_smem: Shaped[Ref, "stages rows columns chunk"]
    weight_smem: Shaped[Ref, "chunks_x_taps channels chunk"]
    store_smem: Views
    residual_smem: Views | None
    halo_full: Shaped[Barrier, " stages"]
    halo_empty: Shaped[Barrier, " stages"]
    weights_full: Shaped[Barrier, ""]
    residual_full: Shaped[Barrier, " consumers"]


class _Tile(NamedTuple):
    """Origin of a tile in the output."""

    image: Scalar
    row: Scalar
    column: Scalar


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
    output = _launch(problem, _Operands(images, weights, offset, residual))
    return output[:, : problem.height, : problem.width]


def _margin(problem: ResidentProblem, x: Any) -> Any:
    """Zeros around images for the interpreter, whose copies must not leave them."""
    if x is None:
        return None
    low, (rows, columns) = INTERPRETER_MARGIN, problem.halo_size
    return jnp.pad(x, ((0, 0), (low, low + rows), (low, low + columns), (0, 0)))


@functools.partial(jax.jit, static_argnums=0)  # layers of equal shapes are lowered once
def _launch(
    problem: ResidentProblem, operands: _Operands
) -> Shaped[Array, "images height width channels"]:
    arrays, tree = jax.tree.flatten(operands)
    pairs = pl.cdiv(problem.tiles, CONSUMERS)
    blocks = min(device.sm_count(), pairs)  # persistent, one per SM

    def body(*references: Ref) -> None:
        given, others = references[: len(arrays)], references[len(arrays) :]
        refs = _as_refs(problem, jax.tree.unflatten(tree, given), others)
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
            _produce_tiles(problem, refs, number_of, turns_of)

        @pl.when(warpgroup < CONSUMERS)
        def _consume() -> None:
            plgpu.set_max_registers(_CONSUMER_REGISTERS, action="increase")
            _consume_tiles(problem, refs, number_of, turns_of, warpgroup)

    body.__name__ = problem.name
    shape = problem.images, *problem.padded_size, problem.channels
    kernel: Any = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(shape, problem.out_dtype),
        scratch_types=_scratch(problem),
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


def _scratch(problem: ResidentProblem) -> list[Any]:
    """Shared memory and barriers, in the order of :class:`_Refs`."""
    stages, taps = CONSUMERS * problem.stages, problem.taps[0] * problem.taps[1]
    chunk, dtype = problem.chunk, problem.dtype
    halo = plgpu.SMEM((stages, *problem.halo_size, chunk), dtype, transforms=swizzled(chunk, dtype))
    weights = plgpu.SMEM(
        (problem.chunks * taps, problem.channels, chunk), dtype, transforms=tiled(chunk, dtype)
    )
    return [
        halo,
        weights,
        problem.store_ring.smem,
        *([problem.residual_ring.smem] if problem.sharing else []),
        plgpu.Barrier(num_arrivals=1, num_barriers=stages),
        plgpu.Barrier(num_arrivals=1, num_barriers=stages),
        plgpu.Barrier(num_arrivals=1),
        plgpu.Barrier(num_arrivals=_residual_copies(problem), num_barriers=CONSUMERS),
    ]


def _residual_copies(problem: ResidentProblem) -> int:
    return problem.groups * problem.residual_ring.arrivals


def _as_refs(problem: ResidentProblem, operands: Any, others: tuple[Any, ...]) -> _Refs:
    output, halo, weights, stores, *rest = others
    residual = Views(*rest.pop(0)) if problem.sharing else None
    images, kernel, start, added = operands
    full, empty, weights_full, residual_full = rest
    return _Refs(
        images, kernel, start, added, output, halo, weights, Views(*stores), residual,
        full, empty, weights_full, residual_full,
    )  # fmt: skip


def _tile_at(problem: ResidentProblem, number: Scalar) -> _Tile:
    """The tile with a given number; neighbours run at the same time and share their halo in L2."""
    _, rows, columns = problem.grid
    rest, column = divide(number, columns)
    image, row = divide(rest, rows)
    return _Tile(image, row * problem.rows, column * COLUMNS)


def _produce_tiles(
    problem: ResidentProblem,
    refs: _Refs,
    number_of: Callable[[Scalar, Scalar], Scalar],
    turns_of: Callable[[Scalar], Scalar],
) -> None:
    """Copy the weights, then the halo tiles of both consumers in turn."""
    copy_in(refs.weights, refs.weight_smem, refs.weights_full)
    stages = problem.stages

    def produce(turn: Scalar, _: None) -> None:
        for consumer in range(CONSUMERS):
            number = number_of(turn, consumer)

            copy = functools.partial(_produce_halos, problem, refs, number, consumer, turn)
            # The last pair may have only one tile.
            pl.when(number < problem.tiles)(copy)

    lax.fori_loop(0, turns_of(0), produce, None)
    # A kernel must not end before someone has waited for every completed phase of a barrier.
    for consumer in range(CONSUMERS):
        filled = turns_of(consumer) * problem.chunks
        for stage in range(stages):
            empty = refs.halo_empty.at[consumer * stages + stage]
            pl.when(filled > stage)(functools.partial(wait, empty))


def _produce_halos(
    problem: ResidentProblem, refs: _Refs, number: Scalar, consumer: int, turn: Scalar
) -> None:
    """Copy each chunk of channels of a tile's input as soon as its stage is free."""
    tile = _tile_at(problem, number)
    margin = INTERPRETER_MARGIN if problem.interpret else 0
    rows, columns = problem.halo_size
    for chunk in range(problem.chunks):
        filled = turn * problem.chunks + chunk
        stage = consumer * problem.stages + divide(filled, problem.stages)[1]
        pl.when(filled >= problem.stages)(functools.partial(wait, refs.halo_empty.at[stage]))
        source = refs.images.at[
            tile.image,
            pl.ds(tile.row - problem.low[0] + margin, rows),
            pl.ds(tile.column - problem.low[1] + margin, columns),
            pl.ds(chunk * problem.chunk, problem.chunk),
        ]
        # TMA fills what lies outside the image with zeros, the padding.
        copy_in(source, refs.halo_smem.at[stage], refs.halo_full.at[stage])


def _consume_tiles(
    problem: ResidentProblem,
    refs: _Refs,
    number_of: Callable[[Scalar, Scalar], Scalar],
    turns_of: Callable[[Scalar], Scalar],
    consumer: Scalar,
) -> None:
    """Compute all tiles of one consumer."""
    wait(refs.weights_full)

    def consume(turn: Scalar, _: None) -> None:
        tile = _tile_at(problem, number_of(turn, consumer))
        if problem.sharing:
            _copy_residual(problem, refs, tile, consumer)
        sums = (_offsets(problem, refs),) * problem.rows  # one array per row of the tile
        for chunk in range(problem.chunks):
            filled = turn * problem.chunks + chunk
            stage = consumer * problem.stages + divide(filled, problem.stages)[1]
            wait(refs.halo_full.at[stage])
            # A loop, because products that are all unrolled take more registers than there are.
            add = functools.partial(_multiply, problem, refs, stage, chunk)
            sums = lax.fori_loop(0, problem.taps[0], add, sums)
            arrive(refs.halo_empty.at[stage])
        _finish(problem, refs, tile, consumer, sums)

    lax.fori_loop(0, turns_of(consumer), consume, None)
    wait_for_stores(0)  # stores read shared memory, which is freed when the block ends


def _offsets(problem: ResidentProblem, refs: _Refs) -> Float32[Array, "columns channels"]:
    """What the sums of one row begin with."""
    shape, layout = (COLUMNS, problem.channels), plgpu.Layout.WGMMA
    if refs.offset is None:
        return plgpu.layout_cast(jnp.zeros(shape), layout)
    offset: Any = jax_versions.load(refs.offset, layout.reduce(0))
    return lax.broadcast_in_dim(offset.astype(jnp.float32), shape, (1,))


def _copy_residual(problem: ResidentProblem, refs: _Refs, tile: _Tile, consumer: Scalar) -> None:
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


def _multiply(
    problem: ResidentProblem,
    refs: _Refs,
    stage: Scalar,
    chunk: int,
    row_tap: Scalar,
    sums: tuple[Float32[Array, "columns channels"], ...],
) -> tuple[Float32[Array, "columns channels"], ...]:
    """Add the products of one vertical tap and all horizontal ones to the sums of each row."""
    kh, kw = problem.taps
    halo = refs.halo_smem.at[stage, pl.ds(row_tap, problem.rows)]
    weights = refs.weight_smem.at[pl.ds((chunk * kh + row_tap) * kw, kw)]
    places = [(row, x) for x in range(kw) for row in range(problem.rows)]
    if problem.interpret:
        pixels, matrices, found = halo[...], weights[...], list(sums)
        for row, x in places:
            a, b = pixels[row, x : x + COLUMNS], matrices[x].T
            found[row] = found[row] + jnp.dot(a, b, preferred_element_type=jnp.float32)
        return tuple(found)
    width, dtype = problem.chunk, problem.dtype
    layout = _plgpu.Layout.WGMMA
    kinds = (
        _plgpu.RefType(swizzled(width, dtype)),
        _plgpu.RefType(tiled(width, dtype)),
        [layout] * problem.rows,
    )
    result = _plgpu.ShapeDtypeStruct(sums[0].shape, jnp.float32, layout=layout)

    @_plgpu.inline_mgpu(arg_types=kinds, return_type=[result] * problem.rows)
    def multiply(_: Any, halo: Any, weights: Any, sums: list[Any]) -> list[Any]:
        added = [_mosaic.WGMMAAccumulator.from_registers(each) for each in sums]
        for row, x in places:
            a = _pixels(halo, row * problem.halo_size[1] + x, width)
            b = _mosaic.memref_slice(weights, x)
            b = _mosaic.memref_transpose(b, (1, 0, 3, 2))  # [channels, chunk] read as [k, n]
            added[row] = _mosaic.wgmma(added[row], a, b, swizzle=width * dtype.itemsize)
        _assembly("wgmma.commit_group.sync.aligned;")
        _assembly("wgmma.wait_group.sync.aligned 0;")
        # Passing the sums through another fence keeps the compiler from reading them before.
        return [_mosaic.WGMMAAccumulator.from_registers(each.value).value for each in added]

    return tuple(multiply(halo, weights, list(sums)))


def _pixels(halo: Any, first: int, chunk: int) -> Any:
    """Operand A of a product: 64 consecutive pixels of a halo tile from ``first`` on."""
    kind = _ir.MemRefType(halo.type)
    pointer = _mosaic.utils.memref_ptr(halo)
    place = _mosaic.utils.getelementptr(pointer, [first * chunk], kind.element_type)
    tiles = _ir.MemRefType.get(
        (COLUMNS // 8, 1, 8, chunk), kind.element_type, memory_space=kind.memory_space
    )
    return _mosaic.utils.ptr_as_memref(place, tiles)


def _assembly(code: str) -> None:
    llvm.inline_asm(_ir.Type.parse("!llvm.void"), [], code, "", has_side_effects=True)


def _finish(
    problem: ResidentProblem,
    refs: _Refs,
    tile: _Tile,
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
