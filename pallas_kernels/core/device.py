# SPDX-License-Identifier: Apache-2.0
"""What the device can do: the only place that asks it.

Two things can stand in for a Hopper GPU: :func:`interpret` runs kernels step by step on the host,
and :func:`assume_hopper` lets a machine without one lower kernels for it.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Generator
from typing import Literal, TypeAlias

import jax

__all__ = [
    "SHARED_MEMORY",
    "assume_hopper",
    "interpret",
    "interpreting",
    "is_cpu",
    "processors",
    "why_not",
]

StandIn: TypeAlias = Literal["interpret", "assume"] | None

SHARED_MEMORY = 232_448
"""Bytes of shared memory that one thread block can have on Hopper."""

_HOPPER_PROCESSORS = 132  # of the H100 SXM and the H200

_stand_in: contextvars.ContextVar[StandIn] = contextvars.ContextVar("stand_in", default=None)


@contextlib.contextmanager
def interpret() -> Generator[None, None, None]:
    """Run Mosaic GPU kernels in JAX's interpreter inside this block; needs jax ≥ 0.11."""
    token = _stand_in.set("interpret")
    try:
        yield
    finally:
        _stand_in.reset(token)


@contextlib.contextmanager
def assume_hopper() -> Generator[None, None, None]:
    """Trace and lower inside this block as if the default device were a Hopper GPU."""
    token = _stand_in.set("assume")
    try:
        yield
    finally:
        _stand_in.reset(token)


def interpreting() -> bool:
    """Whether kernels are to run in the interpreter."""
    return _stand_in.get() == "interpret"


def is_cpu() -> bool:
    """Whether XLA compiles for a CPU: also in the interpreter, not where a GPU is assumed."""
    return _stand_in.get() != "assume" and jax.default_backend() == "cpu"


def why_not() -> str | None:
    """Why Mosaic GPU kernels for Hopper cannot run on the default device; None if they can."""
    if _stand_in.get() is not None:
        return None
    if jax.default_backend() != "gpu":
        return f"it needs an NVIDIA Hopper GPU, and the default device is a {_device_name()}"
    capability = str(getattr(jax.devices()[0], "compute_capability", "unknown"))
    if capability.split(".")[0] != "9":
        return (
            f"it needs an NVIDIA Hopper GPU (compute capability 9.0), and {_device_name()} has "
            f"{capability}"
        )
    return None


def processors() -> int:
    """Streaming multiprocessors of the GPU that kernels are built for."""
    if _stand_in.get() == "interpret":
        return 2  # enough to share the work
    count = None if _stand_in.get() else getattr(jax.devices()[0], "core_count", None)
    return count or _HOPPER_PROCESSORS


def _device_name() -> str:
    device = jax.devices()[0]
    return f"{device.device_kind}" if device.platform != "cpu" else "CPU"
