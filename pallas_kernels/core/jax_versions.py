# SPDX-License-Identifier: Apache-2.0
"""Wrappers of Pallas GPU functions that differ between versions of JAX."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.mosaic.gpu import fragmented_array
from jax.experimental.pallas import mosaic_gpu as plgpu

__all__ = ["CAN_TRANSPOSE", "as_float32", "ask_ptxas_once", "interpreter", "load", "store"]

CAN_TRANSPOSE = jax.__version_info__ >= (0, 11)
"""True if JAX can transpose references to swizzled shared memory that serve as operands."""

_plgpu: Any = plgpu


def ask_ptxas_once(library: Any) -> None:
    """Let a library of JAX ask the assembler for its version once, not again and again.

    JAX starts ``ptxas --version`` whenever a kernel converts a truth value, as each ``pl.when``
    does: a third of the time in which a training step is lowered. The answer only matters for
    numbers of 4 bits.
    """
    extension: Any = getattr(library, "_mosaic_gpu_ext", None)
    version = getattr(extension, "_get_ptxas_isa_version", None)
    if version is not None:
        extension._get_ptxas_isa_version = functools.cache(version)


# None without JAX's CUDA plugin.
ask_ptxas_once(getattr(fragmented_array, "mgpu_lib", None))


def interpreter() -> object:
    """JAX's GPU interpreter, which jax 0.10 does not have."""
    return _plgpu.InterpretGPUParams()


def load(ref: Any, layout: Any) -> Array:
    """Load an array from shared or global memory into a register layout, with any memory layout."""
    parameters = inspect.signature(_plgpu.load).parameters
    # jax 0.10 requires an index besides the reference, 0.11 accepts one, 0.12 has none.
    wanted = "idx" in parameters and parameters["idx"].default is inspect.Parameter.empty
    index = ((),) if wanted else ()
    return _plgpu.load(ref, *index, layout=layout, optimized=False)


def store(ref: Any, array: Array) -> None:
    """Store an array to shared or global memory, with any memory layout."""
    if hasattr(_plgpu, "store"):  # jax 0.12, whose assignments must cover whole cache lines
        _plgpu.store(ref, array, optimized=False)
    else:
        ref[...] = array


def as_float32(array: Array) -> Array:
    """Convert an array to float32.

    Mosaic GPU has no direct conversion of 8-bit values; float16 in between represents them exactly.
    """
    if array.dtype.itemsize == 1:
        array = array.astype(jnp.float16)
    return array.astype(jnp.float32)
