# SPDX-License-Identifier: Apache-2.0
"""Reads and writes of one row of a matrix per thread, at row numbers known only at run time.

Pallas has no gather for Mosaic GPU, so these are written with its compiler's own operations. A row
of 2 or 4 float32 values is one access of 8 or 16 bytes, one of 8 values two of 16 bytes. In the
interpreter, which cannot run such operations, the same functions are indexing.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.mosaic import gpu as mosaic
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.interpreters import mlir
from jaxlib.mlir.dialects import arith, llvm, vector
from jaxtyping import Float32, Int32, Shaped

from pallas_kernels.hopper.primitives import Ref

__all__ = ["per_thread", "read_rows", "write_halves", "write_rows"]

_ir: Any = mlir.ir
_mosaic: Any = mosaic
_plgpu: Any = plgpu


def per_thread(count: int) -> Any:
    """Register layout of a vector: thread ``t`` of a warpgroup holds t, t + 128 and so on."""
    return _plgpu.Layout.WG_STRIDED((count,), vec_size=1)


def read_rows(
    table: Shaped[Ref, "rows columns"], rows: Int32[Array, " count"], *, interpret: bool
) -> tuple[Float32[Array, " count"], ...]:
    """Columns of ``table[rows]`` in float32; every thread reads its rows from global memory.

    Args:
        table: matrix of contiguous rows, of float32 or 16 bits; then of multiples of 8 columns.
        rows: numbers of rows, in the layout of :func:`per_thread`; all must be valid.
        interpret: whether the interpreter runs the kernel.
    """
    columns = table.shape[1]
    if interpret:
        values = table[...][rows].astype(jnp.float32)
        return tuple(values[:, column] for column in range(columns))
    layout = per_thread(rows.shape[0])
    result = _plgpu.ShapeDtypeStruct(rows.shape, jnp.float32, layout=layout)

    @_plgpu.inline_mgpu(arg_types=(_plgpu.RefType(), layout), return_type=[result] * columns)
    def read(_: Any, memory: Any, numbers: Any) -> list[Any]:
        found = [np.empty_like(numbers.registers) for _ in range(columns)]
        single = _ir.VectorType.get((1,), _ir.F32Type.get())
        kind = _ir.MemRefType(memory.type).element_type
        for place, register in np.ndenumerate(numbers.registers):
            row = _read_row(memory, _number(register), columns, kind)
            for column, value in enumerate(row):
                found[column][place] = vector.broadcast(single, value)
        return [_like(numbers, registers) for registers in found]

    return tuple(read(table, rows))


def write_rows(
    table: Shaped[Ref, "rows columns"],
    rows: Int32[Array, " count"],
    values: tuple[Float32[Array, " count"], ...],
    *,
    exchange: Shaped[Ref, " values"] | None = None,
    interpret: bool,
) -> None:
    """Write ``values``, one per column, to ``table[rows]`` in global memory.

    Args:
        table: float32 matrix of contiguous rows.
        rows: numbers of rows, in the layout of :func:`per_thread`; all must be valid.
        values: a column each, in the same layout.
        exchange: shared memory for a row of every thread. With it, the threads of a warp first
            exchange their values, so that each writes consecutive addresses; their rows must be
            consecutive. Without it, each thread writes its row, which is as good if that is one
            access.
        interpret: whether the interpreter runs the kernel.
    """
    if interpret:
        table[...] = table[...].at[rows].set(jnp.stack(values, axis=-1))
        return
    layout = per_thread(rows.shape[0])
    shared = [] if exchange is None else [exchange]
    kinds = _plgpu.RefType(), [_plgpu.RefType()] * len(shared), layout, [layout] * len(values)

    @_plgpu.inline_mgpu(arg_types=kinds)
    def write(_: Any, memory: Any, shared: list[Any], numbers: Any, columns: list[Any]) -> None:
        for place, register in np.ndenumerate(numbers.registers):
            row = [_number(each.registers[place]) for each in columns]
            if shared:
                _store_warp(memory, shared[0], _number(register), row)
            else:
                _store(_row_address(memory, _number(register), len(row)), row)

    write(table, shared, rows, list(values))


def write_halves(
    table: Shaped[Ref, "rows columns"],
    rows: Int32[Array, " count"],
    values: tuple[Float32[Array, " count"], ...],
    *,
    interpret: bool,
) -> None:
    """Write ``values``, rounded to 16 bits, to the first columns of ``table[rows]``; zeros follow.

    Args:
        table: bfloat16 or float16 matrix of contiguous rows, which have multiples of 8 columns.
        rows: numbers of rows, in the layout of :func:`per_thread`; all must be valid.
        values: a column each, in the same layout.
        interpret: whether the interpreter runs the kernel.
    """
    columns = table.shape[1]
    if interpret:
        zeros = [jnp.zeros_like(values[0])] * (columns - len(values))
        written = jnp.stack([*values, *zeros], axis=-1).astype(table.dtype)
        table[...] = table[...].at[rows].set(written)
        return
    layout = per_thread(rows.shape[0])

    @_plgpu.inline_mgpu(arg_types=(_plgpu.RefType(), layout, [layout] * len(values)))
    def write(_: Any, memory: Any, numbers: Any, values: list[Any]) -> None:
        kind = _ir.MemRefType(memory.type).element_type
        zeros = [arith.constant(_ir.F32Type.get(), 0.0)] * (columns - len(values))
        for place, register in np.ndenumerate(numbers.registers):
            row = [*(_number(each.registers[place]) for each in values), *zeros]
            # As 32-bit words: a pair of 16-bit values each.
            address = _row_address(memory, _number(register), columns // 2)
            for start in range(0, columns, 8):
                _store_halves(address, start // 2, row[start : start + 8], kind)

    write(table, rows, list(values))


def _store_halves(address: Any, word: int, values: list[Any], kind: Any) -> None:
    """Round 8 values to 16 bits and store them as 4 words, ``word`` words after an address."""
    wide = vector.from_elements(_ir.VectorType.get((8,), _ir.F32Type.get()), values)
    halves = arith.truncf(_ir.VectorType.get((8,), kind), wide)
    words = vector.bitcast(_ir.VectorType.get((4,), _ir.F32Type.get()), halves)
    place = arith.constant(_ir.IntegerType.get_signless(64), word)
    target = _mosaic.utils.getelementptr(address, [place], _ir.F32Type.get())
    llvm.store(words, target, alignment=16)


def _store_warp(memory: Any, shared: Any, number: Any, row: list[Any]) -> None:
    """Store the rows of the 32 threads of a warp, which are consecutive, through shared memory."""
    columns, word = len(row), _ir.IntegerType.get_signless(32)

    def constant(value: int) -> Any:
        return arith.constant(word, value)

    thread = arith.remui(_mosaic.utils.thread_idx(), constant(128))
    lane = arith.remui(thread, constant(32))
    first = arith.subi(thread, lane)
    # Wait until the warp has read what it exchanged before.
    _sync_warp()
    _store(_row_address(shared, thread, columns), row)
    _sync_warp()
    for part in range(columns):
        offset = arith.addi(lane, constant(32 * part))
        source = arith.addi(arith.muli(first, constant(columns)), offset)
        value = llvm.load(_ir.F32Type.get(), _row_address(shared, source, 1), alignment=4)
        target = _row_address(memory, arith.subi(number, lane), columns)
        target = _mosaic.utils.getelementptr(target, [offset], _ir.F32Type.get())
        llvm.store(value, target, alignment=4)


def _sync_warp() -> None:
    """Wait for the other threads of the warp, and make their writes to shared memory visible."""
    llvm.inline_asm(
        _ir.Type.parse("!llvm.void"), [], "bar.warp.sync 0xffffffff;", "~{memory}",
        has_side_effects=True,
    )  # fmt: skip


def _store(address: Any, row: list[Any]) -> None:
    # No access is wider than 4 values.
    width = len(row) if len(row) < 4 else min(len(row) & -len(row), 4)
    kind = _ir.VectorType.get((width,), _ir.F32Type.get())
    for start in range(0, len(row), width):
        place = arith.constant(_ir.IntegerType.get_signless(64), start)
        target = _mosaic.utils.getelementptr(address, [place], _ir.F32Type.get())
        part = vector.from_elements(kind, row[start : start + width])
        llvm.store(part, target, alignment=_alignment(width))


def _row_address(memory: Any, row: Any, columns: int) -> Any:
    """Address of a row; in 64 bits, since an array may have more than 2³¹ bytes."""
    wide = _ir.IntegerType.get_signless(64)
    offset = arith.muli(arith.extsi(wide, row), arith.constant(wide, columns))
    pointer = _mosaic.utils.memref_ptr(memory)
    return _mosaic.utils.getelementptr(pointer, [offset], _ir.F32Type.get())


def _read_row(memory: Any, number: Any, columns: int, kind: Any) -> list[Any]:
    """The values of a row, as float32."""
    if kind == _ir.F32Type.get():
        return _load(_row_address(memory, number, columns), columns)
    # As 32-bit words: a pair of 16-bit values each.
    words = _load(_row_address(memory, number, columns // 2), columns // 2)
    values = []
    for word in words:
        single = vector.broadcast(_ir.VectorType.get((1,), _ir.F32Type.get()), word)
        pair = vector.bitcast(_ir.VectorType.get((2,), kind), single)
        wide = arith.extf(_ir.VectorType.get((2,), _ir.F32Type.get()), pair)
        values += [vector.extract(wide, [], [place]) for place in range(2)]
    return values


def _load(address: Any, columns: int) -> list[Any]:
    """The values of a row in global memory."""
    # Written as assembly, because LLVM would move a load to its first use, behind the stores and
    # barriers before that, and would split one whose last value nobody uses.
    value, width = _ir.F32Type.get(), min(columns & -columns, 4)
    pointer = llvm.ptrtoint(_ir.IntegerType.get_signless(64), address)
    kind = {1: "", 2: ".v2", 4: ".v4"}[width]
    names = ", ".join(f"${index}" for index in range(width))
    found = []
    for start in range(0, columns, width):
        code = f"ld.global.nc{kind}.f32 {{{names}}}, [${width} + {4 * start}];"
        if width == 1:
            found.append(llvm.inline_asm(value, [pointer], code, "=f,l"))
            continue
        results = _ir.Type.parse(f"!llvm.struct<({', '.join(['f32'] * width)})>")
        row: Any = llvm.inline_asm(results, [pointer], code, "=f," * width + "l")
        found += [llvm.extractvalue(value, row, [column]) for column in range(width)]
    return found


def _number(register: Any) -> Any:
    return vector.extract(register, [], [0])


def _like(array: Any, registers: np.ndarray) -> Any:
    """Float32 registers as an array of the same layout."""
    return _mosaic.FragmentedArray(_registers=registers, _layout=array.layout, _is_signed=None)


def _alignment(columns: int) -> int:
    """Bytes to which a row of float32 is aligned; an access may be as wide as that."""
    return 4 * (columns & -columns)
