# SPDX-License-Identifier: Apache-2.0
"""Pallas calls for GPUs that differ from one version of JAX to the next."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import mosaic_gpu as plgpu

__all__ = ["CAN_TRANSPOSE", "as_float32", "interpreter", "load", "store"]

CAN_TRANSPOSE = jax.__version_info__ >= (0, 11)
"""True if operands in swizzled shared memory can be read with their axes exchanged."""

_plgpu: Any = plgpu


def interpreter() -> object:
    """JAX's GPU interpreter, which jax 0.10 does not have."""
    return _plgpu.InterpretGPUParams()


def load(ref: Any, layout: Any) -> Array:
    """Load an array in a register layout from shared or global memory, however it lies there."""
    parameters = inspect.signature(_plgpu.load).parameters
    # jax 0.10 requires an index besides the reference, 0.11 accepts one, 0.12 has none.
    wanted = "idx" in parameters and parameters["idx"].default is inspect.Parameter.empty
    index = ((),) if wanted else ()
    return _plgpu.load(ref, *index, layout=layout, optimized=False)


def store(ref: Any, array: Array) -> None:
    """Store an array to shared or global memory, however it lies there."""
    if hasattr(_plgpu, "store"):  # jax 0.12, where assignments must cover whole cache lines
        _plgpu.store(ref, array, optimized=False)
    else:
        ref[...] = array


def as_float32(array: Array) -> Array:
    """The array in float32; 8-bit values go by way of float16, which holds them all exactly.

    Mosaic GPU has no direct conversion.
    """
    if array.dtype.itemsize == 1:
        array = array.astype(jnp.float16)
    return array.astype(jnp.float32)
