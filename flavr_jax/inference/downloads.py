# SPDX-License-Identifier: Apache-2.0
"""Copies of arrays from a device to the host.

A GPU copies at full speed only into page-locked memory, which the driver allocates. Copies into
other memory go piece by piece through a page-locked buffer of the driver. JAX keeps a pool of
page-locked memory and can copy an array there; NumPy then reads it in place.
"""

from __future__ import annotations

import jax
import numpy as np
from jax import Array

__all__ = ["finished", "started"]

_LOCKED = "pinned_host"


def started(array: Array) -> Array:
    """Start copying an array to the host; pass the result to :func:`finished`."""
    if next(iter(array.devices())).platform != "gpu":
        array.copy_to_host_async()
        return array
    return jax.device_put(array, array.sharding.with_memory_kind(_LOCKED))


def finished(array: Array) -> np.ndarray:
    """Wait for a copy and return it as a read-only array."""
    if array.sharding.memory_kind == _LOCKED:
        return np.from_dlpack(array)  # pyright: ignore[reportArgumentType]
    return np.asarray(array)
