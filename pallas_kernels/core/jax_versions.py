# SPDX-License-Identifier: Apache-2.0
"""What Pallas for GPUs calls differently from one version of JAX to the next."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import mosaic_gpu as plgpu

__all__ = ["CAN_TRANSPOSE", "as_float32", "interpreter", "load", "store"]

CAN_TRANSPOSE = jax.__version_info__ >= (0, 11)
"""Whether matrices in swizzled shared memory can be taken with their axes exchanged."""

_plgpu: Any = plgpu


def interpreter() -> Any:
    """JAX's GPU interpreter, which jax 0.10 does not have."""
    return _plgpu.InterpretGPUParams()


def load(ref: Any, layout: Any) -> Array:
    """An array of a layout from shared or global memory, however it lies there."""
    parameters = inspect.signature(_plgpu.load).parameters
    # jax 0.10 wants an index besides the reference; 0.11 takes none gladly, 0.12 takes none.
    wanted = "idx" in parameters and parameters["idx"].default is inspect.Parameter.empty
    index = ((),) if wanted else ()
    return _plgpu.load(ref, *index, layout=layout, optimized=False)


def store(ref: Any, array: Array) -> None:
    """An array to shared or global memory, however it lies there."""
    if hasattr(_plgpu, "store"):  # jax 0.12, whose assignments want whole cache lines
        _plgpu.store(ref, array, optimized=False)
    else:
        ref[...] = array


def as_float32(array: Array) -> Array:
    """In a kernel; 8-bit numbers convert by way of float16, which holds them all."""
    if array.dtype.itemsize == 1:
        array = array.astype(jnp.float16)
    return array.astype(jnp.float32)
