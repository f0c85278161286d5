# SPDX-License-Identifier: Apache-2.0
"""Properties of the default device; no other module queries it.

Two context managers replace a Hopper GPU: :func:`interpret` runs kernels step by step on the host,
and :func:`assume_hopper` lets a machine without such a GPU lower (but not run) kernels for it.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Generator
from typing import Literal, TypeAlias

import jax

__all__ = [
    "SMEM_BYTES", "assume_hopper", "interpret", "interpreting", "is_cpu", "sm_count", "table_name",
    "untried", "why_not", "why_not_int8",
]  # fmt: skip

StandIn: TypeAlias = Literal["interpret", "assume"] | None

SMEM_BYTES = 232_448
"""Largest shared memory of a thread block on Hopper: 227 KiB."""

_INSTRUCTIONS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})

_STAND_IN_SM_COUNT = 132  # of the H100 SXM and the H200
_STAND_IN_TABLE = "nvidia_h200"

# A context variable, so that a stand-in in one thread does not change what others compile.
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
    """Return whether kernels run in the interpreter."""
    return _stand_in.get() == "interpret"


def is_cpu() -> bool:
    """Return whether XLA compiles for a CPU; true for the interpreter on a CPU, too."""
    return _stand_in.get() != "assume" and jax.default_backend() == "cpu"


def why_not(*, wgmma: bool = True) -> str | None:
    """Why Mosaic GPU kernels cannot run on the default device; None if they can.

    Args:
        wgmma: whether they use WGMMA instructions. Only Hopper has these: later GPUs dropped them.
            Kernels without them need Hopper or later, because Mosaic GPU itself does.
    """
    if _stand_in.get() is not None:
        return None
    needed = "an NVIDIA Hopper GPU" + ("" if wgmma else " or a later one")
    if jax.default_backend() != "gpu":
        return f"it needs {needed}, and the default device is a {_device_name()}"
    major, capability = _capability()
    if major != 9 and (wgmma or major < 9):
        return f"it needs {needed} (compute capability 9.0), and {_device_name()} has {capability}"
    return None


def why_not_int8() -> str | None:
    """Why int8 is not faster than float32 on the default device; None if it is, on some CPUs."""
    if jax.default_backend() != "cpu":
        return f"{_device_name()} is not a CPU"
    if jax.__version_info__ < (0, 11):
        return "convolutions of int8 are hardly faster than of float32 before jax 0.11"
    if not _INSTRUCTIONS & _processor_flags():
        return "the CPU has no instructions for products of int8 (VNNI or AMX)"
    return None


@functools.cache
def _processor_flags() -> frozenset[str]:
    """Names of the processor's instruction sets; none where Linux does not list them."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        flags = ""
    return frozenset(flags.partition(":")[2].split())


def untried() -> str | None:
    """Why kernels that could run on the default device run only if they are named; else None."""
    if _stand_in.get() is not None or _capability()[0] <= 9:
        return None
    return f"it has not been tried on {_device_name()} yet, so it must be named"


def sm_count() -> int:
    """Number of streaming multiprocessors of the GPU that kernels are built for."""
    if _stand_in.get() == "interpret":
        return 2  # the smallest number that has to divide tiles among SMs
    count = None if _stand_in.get() else getattr(jax.devices()[0], "core_count", None)
    return count or _STAND_IN_SM_COUNT


def table_name() -> str:
    """Name of the default device for file names: ``nvidia_h200`` for an "NVIDIA H200"."""
    if _stand_in.get() is not None:
        return _STAND_IN_TABLE
    return "_".join(jax.devices()[0].device_kind.lower().split())


def _capability() -> tuple[int, str]:
    """Compute capability of the default device: its first number, 0 if unknown, and its text."""
    text = str(getattr(jax.devices()[0], "compute_capability", "unknown"))
    major = text.split(".")[0]
    return int(major) if major.isdecimal() else 0, text


def _device_name() -> str:
    device = jax.devices()[0]
    return f"{device.device_kind}" if device.platform != "cpu" else "CPU"
