# SPDX-License-Identifier: Apache-2.0
"""Products of a halo tile and the weights, whose operands begin at any pixel.

A tap's operand begins at any pixel of the halo tile, not only at the first of a core tile of 8
pixels. WGMMA reads that correctly, because the swizzle depends on addresses alone: row r of an
operand is at ``start + r · bytes of a pixel``, also from one core tile to the next. On an H200
(jax 0.11.2) all starts are exact, and the GPU tests check it. Pallas cannot express such a start,
so the products are written with its compiler's own operations.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mosaic
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.interpreters import mlir
from jaxlib.mlir.dialects import llvm
from jaxtyping import Float32

from pallas_kernels.hopper.primitives import Scalar
from pallas_kernels.hopper.resident.memory import Refs
from pallas_kernels.hopper.resident.problem import COLUMNS, ResidentProblem
from pallas_kernels.hopper.shared_memory import swizzled, tiled

__all__ = ["finish_products", "multiply_row"]

_ir: Any = mlir.ir
_mosaic: Any = mosaic
_plgpu: Any = plgpu


def multiply_row(
    problem: ResidentProblem,
    refs: Refs,
    stage: Scalar,
    chunk: int,
    row_tap: Scalar,
    sums: tuple[Float32[Array, "columns channels"], ...],
) -> tuple[Float32[Array, "columns channels"], ...]:
    """Start adding the products of one vertical tap and all horizontal ones to each row's sums."""
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
        return [each.value for each in added]

    return tuple(multiply(halo, weights, list(sums)))


def finish_products(
    problem: ResidentProblem, sums: tuple[Float32[Array, "columns channels"], ...]
) -> tuple[Float32[Array, "columns channels"], ...]:
    """Wait for all products in flight; before that, nothing may read the sums."""
    if problem.interpret:
        return sums
    layout = _plgpu.Layout.WGMMA
    result = _plgpu.ShapeDtypeStruct(sums[0].shape, jnp.float32, layout=layout)
    count = len(sums)

    @_plgpu.inline_mgpu(arg_types=([layout] * count,), return_type=[result] * count)
    def finish(_: Any, sums: list[Any]) -> list[Any]:
        _assembly("wgmma.wait_group.sync.aligned 0;")
        # Passing the sums through a fence keeps the compiler from reading them before.
        return [_mosaic.WGMMAAccumulator.from_registers(each).value for each in sums]

    return tuple(finish(list(sums)))


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
