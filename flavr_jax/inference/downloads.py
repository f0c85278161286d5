# SPDX-License-Identifier: Apache-2.0
"""Copies of arrays from a device to the host.

A GPU copies at full speed only into page-locked memory, which the driver allocates; it copies into
other memory piece by piece, through such memory of its own. JAX keeps page-locked memory in a pool
and can copy an array there, and NumPy can then read it in place.
"""

from __future__ import annotations

import jax
import numpy as np
from jax import Array

__all__ = ["finished", "started"]

_LOCKED = "pinned_host"


def started(array: Array) -> Array:
    """Start copying an array to the host, and return where :func:`finished` finds it."""
    if next(iter(array.devices())).platform != "gpu":
        array.copy_to_host_async()
        return array
    return jax.device_put(array, array.sharding.with_memory_kind(_LOCKED))


def finished(array: Array) -> np.ndarray:
    """Wait for a copy, and return it; NumPy may not write to it."""
    if array.sharding.memory_kind == _LOCKED:
        return np.from_dlpack(array)  # pyright: ignore[reportArgumentType]
    return np.asarray(array)
