# SPDX-License-Identifier: Apache-2.0
"""Parallel compilation of a program's GPU kernels, before the program itself.

XLA compiles the Mosaic kernels of a program one after the other, which can take most of the
compilation time. jaxlib keeps each compiled kernel by a hash of its code until the process ends.
Therefore threads first compile every kernel as a program of its own; the compilation of the whole
program then finds the kernels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import SingleDeviceSharding
from jax.typing import DTypeLike

__all__ = ["compile_kernels"]

Operation: TypeAlias = Any
"""An operation of an MLIR program, or one of its values or attributes; jaxlib has no types for
them in the supported versions."""

_TARGET = "mosaic_gpu_v2"
"""The custom call by which Mosaic kernels are part of a program."""

_TYPES: dict[str, DTypeLike] = {
    "i1": np.bool_, "i8": np.int8, "ui8": np.uint8, "i16": np.int16, "ui16": np.uint16,
    "i32": np.int32, "ui32": np.uint32, "bf16": jnp.bfloat16, "f16": np.float16,
    "f32": np.float32, "f8E4M3FN": jnp.float8_e4m3fn, "f8E5M2": jnp.float8_e5m2,
}  # fmt: skip
"""JAX's types by their names in MLIR."""


def compile_kernels(lowered: jax.stages.Lowered, device: Any) -> None:
    """Compile each different Mosaic kernel of a lowered program for a device.

    A kernel that fails is left to the compilation of the program, which raises the error.
    """
    calls = {_hash(call): call for call in _calls(lowered)}
    # XLA releases Python's lock, so threads compile in parallel; lowering runs in Python.
    programs = [_program(call, SingleDeviceSharding(device)) for call in calls.values()]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for compiled in [threads.submit(program.compile) for program in programs]:
            compiled.exception()


def _hash(call: Operation) -> bytes:
    """Return the hash by which jaxlib knows the kernel of a call."""
    return call.attributes["mhlo.backend_config"]["kernel_hash"].value_bytes


def _calls(lowered: jax.stages.Lowered) -> Iterator[Operation]:
    """Yield the operations of a program that call a kernel with arrays of known types."""
    waiting = [lowered.compiler_ir("stablehlo").operation]  # pyright: ignore[reportOptionalMemberAccess]
    while waiting:
        operation = waiting.pop()
        if (
            operation.name == "stablehlo.custom_call"
            and operation.attributes["call_target_name"].value == _TARGET
            and all(_kind(value) in _TYPES for value in (*operation.operands, *operation.results))
        ):
            yield operation
        for region in operation.regions:
            waiting += (each.operation for block in region for each in block)


def _program(call: Operation, where: SingleDeviceSharding) -> jax.stages.Lowered:
    """Return a program that only calls the kernel."""
    settings = {each.name: _plain(each.attr) for each in call.attributes["mhlo.backend_config"]}
    arguments = [_shape(each, where) for each in call.operands]
    results = [_shape(each, None) for each in call.results]

    def kernel(*arrays: Array) -> Sequence[Array]:
        # The same call with the same settings has the same hash, by which jaxlib finds the kernel.
        return jax.ffi.ffi_call(_TARGET, results)(*arrays, **settings)

    return jax.jit(kernel, out_shardings=where).lower(*arguments)


def _plain(attribute: Operation) -> bytes | bool:
    """Return the value of an attribute; text as bytes, which need not be UTF-8."""
    return getattr(attribute, "value_bytes", None) or attribute.value


def _kind(value: Operation) -> str:
    """Return MLIR's name for the type of an array's elements."""
    return str(value.type.element_type)


def _shape(value: Operation, where: SingleDeviceSharding | None) -> jax.ShapeDtypeStruct:
    """Return the shape and type of an array of the program."""
    return jax.ShapeDtypeStruct(value.type.shape, _TYPES[_kind(value)], sharding=where)
