# SPDX-License-Identifier: Apache-2.0
"""Wall-clock times of single calls, and the two ceilings of a device."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

__all__ = ["Ceilings", "Timing", "measure", "measure_ceilings"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of single calls, each waited for."""

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure that is quoted."""
        return statistics.median(self.milliseconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile."""
        low, _, high = statistics.quantiles(self.milliseconds, n=4)
        return low, high


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """What a device reached in this run, on random data.

    Attributes:
        tflops: of a square matrix product, 8192 wide on a GPU.
        terabytes: a second, read and written, of a copy.
    """

    tflops: float
    terabytes: float


def measure(run: Callable[[], Any], repeats: int, *, warm_up: int = 3) -> Timing:
    """Time ``run``, which must wait for its result."""
    for _ in range(warm_up):
        run()
    times = []
    for _ in range(max(repeats, 2)):
        started = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - started))
    return Timing(tuple(times))


def measure_ceilings(dtype: DTypeLike) -> Ceilings:
    """Measure a large matrix product of this type, and a copy that no cache holds."""
    small = jax.default_backend() == "cpu"
    size, copied = (1024, 2 * 10**8) if small else (8192, 2 * 10**9)
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    product = jax.jit(jnp.matmul)
    multiply = measure(lambda: jax.block_until_ready(product(a, b)), 10)
    x = jnp.ones(copied // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1.0)
    move = measure(lambda: jax.block_until_ready(copy(x)), 10)
    return Ceilings(2e-9 * size**3 / multiply.median, 2e-9 * copied / move.median)
