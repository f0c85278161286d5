# SPDX-License-Identifier: Apache-2.0
"""Measures tile sizes on the device at hand, for the tables that ``_tuning.py`` reads."""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import dataclasses
import functools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pallas_kernels.core import device
from pallas_kernels.core.fp8 import E4M3
from pallas_kernels.hopper.conv.config import TABLES, Config, candidates, cost
from pallas_kernels.hopper.conv.kernel import implicit_gemm
from pallas_kernels.hopper.geometry import Work

__all__ = ["Measurement", "measure", "measure_all", "save", "shortlist"]

_LAUNCHES = 8  # a program: launching costs as much as a small convolution
_PROGRAMS = 6  # in a row, for the same reason

_turn: AbstractContextManager[Any] = contextlib.nullcontext()  # of one process on the GPU


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One config on one piece of work.

    Attributes:
        config: tile and rings.
        milliseconds: a launch, median.
        error: of the output, relative to the first config's: not 0 means a bug.
    """

    config: Config
    milliseconds: float
    error: float


def shortlist(work: Work, count: int) -> list[Config]:
    """The ``count`` configs of the lowest estimated cost."""
    ranked = sorted(candidates(work), key=lambda config: cost(work, config, device.processors()))
    return ranked[:count]


def measure_all(
    works: Sequence[Work], tries: int, *, dtype: Any = jnp.bfloat16, processes: int = 1
) -> Iterator[tuple[Work, list[Measurement]]]:
    """Measure every work's shortlist of ``tries``, as :func:`measure` does.

    Several processes compile side by side and take turns on the GPU; each must leave memory on it
    to the others (``XLA_PYTHON_CLIENT_PREALLOCATE=false``).
    """
    run = functools.partial(_measure_shortlist, tries=tries, dtype=dtype)
    if processes == 1:
        yield from zip(works, map(run, works))
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=context, initializer=_take_turns, initargs=(context.Lock(),)
    ) as pool:
        yield from zip(works, pool.map(run, works))


def _take_turns(lock: AbstractContextManager[Any]) -> None:
    global _turn
    _turn = lock


def _measure_shortlist(work: Work, tries: int, dtype: Any) -> list[Measurement]:
    return measure(work, shortlist(work, tries), dtype=dtype)


def measure(
    work: Work,
    configs: Iterable[Config],
    *,
    dtype: Any = jnp.bfloat16,
    repeats: int = 15,
    threads: int = 8,
) -> list[Measurement]:
    """Time configs on random data, the fastest first; compilation runs on ``threads`` threads."""
    configs = list(configs)
    with _turn:
        arguments = jax.block_until_ready(_arguments(work, dtype))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # Each thread sees what this one stands in for (`_device`).
        contexts = [contextvars.copy_context() for _ in configs]
        started = [
            pool.submit(context.run, _compile, work, config, arguments, dtype)
            for context, config in zip(contexts, configs)
        ]
        programs = [future.result() for future in started]
    with _turn:
        found = _time(configs, programs, arguments, repeats)
    return sorted(found, key=lambda measurement: measurement.milliseconds)


def _time(
    configs: list[Config],
    programs: list[Callable[..., Any]],
    arguments: tuple[Any, ...],
    repeats: int,
) -> list[Measurement]:
    found: list[Measurement] = []
    expected: Array | None = None
    for config, program in zip(configs, programs):
        outputs = jax.block_until_ready(program(*arguments))
        times = []
        for _ in range(repeats):
            before = time.perf_counter()
            jax.block_until_ready([program(*arguments) for _ in range(_PROGRAMS)])
            times.append(1e3 * (time.perf_counter() - before) / (_LAUNCHES * _PROGRAMS))
        output = outputs[-1].astype(jnp.float32)
        expected = output if expected is None else expected
        error = float(jnp.abs(output - expected).max() / jnp.abs(expected).max())
        found.append(Measurement(config, statistics.median(times), error))
    return found


def save(device: str, best: dict[str, Config], command: str, environment: str) -> None:
    """Add the best configs, by :attr:`Work.key`, to a device's table."""
    path = TABLES / f"{device}.json"
    table = json.loads(path.read_text())["configs"] if path.exists() else {}
    table |= {key: dataclasses.asdict(config) for key, config in best.items()}
    path.parent.mkdir(exist_ok=True)
    content = {
        "measured_by": command,
        "environment": environment,
        "configs": dict(sorted(table.items())),
    }
    partial = path.with_suffix(f".partial-{time.time_ns()}.json")
    with partial.open("x") as file:
        file.write(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def _arguments(work: Work, dtype: Any) -> tuple[Any, ...]:
    """Inputs, weights, residual, and an offset a launch, so that no two launches are the same."""
    keys = iter(jax.random.split(jax.random.key(0), len(work.in_channels) + 3))
    kind = dtype if work.in_bytes == 2 else E4M3

    def draw(*shape: int) -> Array:
        return jax.random.normal(next(keys), shape, jnp.float32).astype(kind)

    size = tuple(work.geometry.stride * pixels for pixels in (work.height, work.width))
    inputs = tuple(draw(work.batch, work.in_time, *size, channels) for channels in work.in_channels)
    ends = (work.depth, work.channels) if work.in_bytes == 2 else (work.channels, work.depth)
    weights = draw(*work.geometry.kernel, *ends)
    residual = None
    if work.residual:
        residual = draw(work.batch, work.time, work.height, work.width, work.channels)
    offsets = jax.random.normal(next(keys), (_LAUNCHES, 1, work.channels), jnp.float32)
    return inputs, weights, residual, offsets


def _compile(
    work: Work, config: Config, arguments: tuple[Any, ...], dtype: Any
) -> Callable[..., Any]:
    run = functools.partial(
        implicit_gemm,
        geometry=work.geometry,
        size=(work.time, work.height, work.width),
        config=config,
        totals=work.out_bytes <= 2,
        out_dtype={1: E4M3, 2: dtype, 4: jnp.float32}[work.out_bytes],
        residual_scale=jnp.float32(1) if work.residual else None,
    )
    # Sums of many products of 8 bits would all be too large to be stored.
    scale = jnp.full((1, work.channels), work.products**-0.5)

    def launches(inputs: Any, weights: Array, residual: Any, offsets: Array) -> list[Array]:
        return [
            run(inputs, weights, residual=residual, scale=scale, offset=offset)[0]
            for offset in offsets
        ]

    return jax.jit(launches).lower(*arguments).compile()
