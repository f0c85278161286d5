# SPDX-License-Identifier: Apache-2.0
"""Wall-clock times of calls, and a device's speed at matrix products and copies."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

__all__ = ["CallTimes", "Ceilings", "measure", "measure_ceilings"]

_QUEUED = 20  # calls started at once
_PRODUCTS = 8  # products per launch, so that the overhead of a launch hardly counts


@dataclasses.dataclass(frozen=True)
class CallTimes:
    """Times of repeated calls.

    Attributes:
        milliseconds: times of single calls, waiting for each.
        queued: milliseconds per call if many are started at once and waited for together, as when
            a clip is interpolated.
    """

    milliseconds: tuple[float, ...]
    queued: float

    @property
    def median(self) -> float:
        """Median of the single calls in milliseconds; this project quotes this value."""
        return statistics.median(self.milliseconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of the single calls in milliseconds."""
        low, _, high = statistics.quantiles(self.milliseconds, n=4)
        return low, high


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Speeds that the device reached in this run, on random data.

    Attributes:
        tflops: TFLOP/s of a product of square matrices, 8192 wide on a GPU and 1024 on a CPU.
        terabytes: TB/s of a copy, counting both reads and writes.
    """

    tflops: float
    terabytes: float


def measure(
    start: Callable[[], Any], wait: Callable[[Any], Any], repeats: int, *, warm_up: int = 3
) -> CallTimes:
    """Time repeated calls.

    Args:
        start: starts a call; may return before the result is ready.
        wait: waits for the result that ``start`` returned.
        repeats: number of calls to time, at least 2.
        warm_up: number of calls before that, which are not timed.
    """
    for _ in range(warm_up):
        wait(start())
    times = []
    for _ in range(max(repeats, 2)):  # quartiles need two
        started = time.perf_counter()
        wait(start())
        times.append(1e3 * (time.perf_counter() - started))
    count = min(repeats, _QUEUED)
    started = time.perf_counter()
    for _ in range(count - 1):
        start()
    wait(start())
    return CallTimes(tuple(times), 1e3 * (time.perf_counter() - started) / count)


def measure_ceilings(dtype: DTypeLike) -> Ceilings:
    """Measure large matrix products in this dtype, and a copy too large for any cache."""
    # Large enough for the device to reach full speed; a GPU's sizes would take minutes on a CPU.
    small = jax.default_backend() == "cpu"
    size, copied = (1024, 2 * 10**8) if small else (8192, 2 * 10**9)
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    b /= size**0.5  # so that repeated products stay near 1, within the range of float16

    @jax.jit
    def multiply(a: Array, b: Array) -> Array:
        for _ in range(_PRODUCTS):
            a = a @ b
        return a

    products = measure(lambda: multiply(a, b), jax.block_until_ready, 10).median / _PRODUCTS
    x = jnp.ones(copied // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1.0)
    move = measure(lambda: copy(x), jax.block_until_ready, 10).median
    return Ceilings(2e-9 * size**3 / products, 2e-9 * copied / move)
