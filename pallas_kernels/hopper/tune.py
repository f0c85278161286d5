# SPDX-License-Identifier: Apache-2.0
"""Measurement of tile sizes on the current device, for the tables that ``conv/config.py`` reads."""

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
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float32, Shaped

from pallas_kernels.core import device
from pallas_kernels.core.fp8 import E4M3
from pallas_kernels.hopper.conv.config import TABLES, Config, candidates, cost
from pallas_kernels.hopper.conv.kernel import implicit_gemm
from pallas_kernels.hopper.geometry import ConvShape

__all__ = ["Measurement", "measure", "measure_all", "save", "shortlist"]

_LAUNCHES = 8  # launches per program: calling a program takes as long as a small convolution
_PROGRAMS = 6  # programs started in a row, for the same reason

# Held by the process that uses the GPU, while others compile.
_gpu_lock: AbstractContextManager[Any] = contextlib.nullcontext()


class _Operands(NamedTuple):
    """Random data for one convolution, with an offset for each launch.

    The offsets differ, so that XLA cannot merge launches that would compute the same.
    """

    inputs: tuple[Shaped[Array, "batch time height width _"], ...]
    weights: Shaped[Array, "kt kh kw _ _"]
    residual: Shaped[Array, "batch time height width channel"] | None
    offsets: Float32[Array, "launches 1 channel"]


Program: TypeAlias = Callable[[_Operands], list[Array]]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Result of measuring one config on one convolution.

    Attributes:
        config: tile sizes and ring depths.
        milliseconds: median time of a launch.
        error: largest difference from the first config's output, relative; a value other than 0
            indicates a bug.
    """

    config: Config
    milliseconds: float
    error: float


def shortlist(conv: ConvShape, count: int) -> list[Config]:
    """The ``count`` configs with the lowest estimated cost."""
    # The cost model is cheap and roughly right; compiling every candidate would take hours.
    ranked = sorted(candidates(conv), key=lambda config: cost(conv, config, device.sm_count()))
    return ranked[:count]


def measure_all(
    convs: Sequence[ConvShape], tries: int, *, dtype: DTypeLike = jnp.bfloat16, processes: int = 1
) -> Iterator[tuple[ConvShape, list[Measurement]]]:
    """Measure the ``tries`` configs with the lowest estimated cost for each convolution.

    Several processes compile at the same time and take turns on the GPU. None of them may reserve
    all of its memory (``XLA_PYTHON_CLIENT_PREALLOCATE=false``).
    """
    run = functools.partial(_measure_shortlist, tries=tries, dtype=dtype)
    if processes == 1:
        yield from zip(convs, map(run, convs))
        return
    context = multiprocessing.get_context("spawn")  # CUDA does not work in a forked process
    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=context, initializer=_share_gpu, initargs=(context.Lock(),)
    ) as pool:
        yield from zip(convs, pool.map(run, convs))


def _share_gpu(lock: AbstractContextManager[Any]) -> None:
    global _gpu_lock
    _gpu_lock = lock


def _measure_shortlist(conv: ConvShape, tries: int, dtype: DTypeLike) -> list[Measurement]:
    return measure(conv, shortlist(conv, tries), dtype=dtype)


def measure(
    conv: ConvShape,
    configs: Iterable[Config],
    *,
    dtype: DTypeLike = jnp.bfloat16,
    repeats: int = 15,
    threads: int = 8,
) -> list[Measurement]:
    """Time configs on random data, the fastest first; compilation runs on ``threads`` threads."""
    configs = list(configs)
    with _gpu_lock:
        operands = jax.block_until_ready(_operands(conv, dtype))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # Threads do not inherit context variables, and one of them holds the stand-in device.
        contexts = [contextvars.copy_context() for _ in configs]
        started = [
            pool.submit(context.run, _compile, conv, config, operands, dtype)
            for context, config in zip(contexts, configs)
        ]
        programs = [future.result() for future in started]
    with _gpu_lock:
        found = _time(configs, programs, operands, repeats)
    return sorted(found, key=lambda measurement: measurement.milliseconds)


def _time(
    configs: list[Config], programs: list[Program], operands: _Operands, repeats: int
) -> list[Measurement]:
    found: list[Measurement] = []
    expected: Array | None = None
    for config, program in zip(configs, programs):
        # The first call loads the program and is not timed.
        outputs = jax.block_until_ready(program(operands))
        times = []
        for _ in range(repeats):
            before = time.perf_counter()
            jax.block_until_ready([program(operands) for _ in range(_PROGRAMS)])
            # The programs are started together, so that the GPU is never idle between launches.
            times.append(1e3 * (time.perf_counter() - before) / (_LAUNCHES * _PROGRAMS))
        output = outputs[-1].astype(jnp.float32)
        # All configs must compute the same, so the first output is the reference.
        expected = output if expected is None else expected
        error = float(jnp.abs(output - expected).max() / jnp.abs(expected).max())
        found.append(Measurement(config, statistics.median(times), error))
    return found


def save(table: str, best: dict[str, Config], command: str, environment: str) -> None:
    """Add the best configs, by :attr:`ConvShape.key`, to a device's table.

    Configs of other convolutions stay. ``runs`` in the table lists the command and the environment
    of each measurement, and every config has the number of its run.
    """
    path = TABLES / f"{table}.json"
    content = json.loads(path.read_text()) if path.exists() else {"runs": [], "configs": {}}
    entries = {
        **content["configs"],
        **{key: {"run": -1, **dataclasses.asdict(config)} for key, config in best.items()},
    }
    # Drop runs whose configs have all been replaced, and renumber the others.
    kept = sorted({entry["run"] for entry in entries.values()} - {-1})
    runs = [content["runs"][run] for run in kept]
    numbers = {run: number for number, run in enumerate([*kept, -1])}
    entries = {key: {**entry, "run": numbers[entry["run"]]} for key, entry in entries.items()}
    if best:
        runs.append({"command": command, "environment": environment})
    path.parent.mkdir(exist_ok=True)
    # A unique name, so that neither files of other processes nor of the user are overwritten.
    partial = path.with_suffix(f".partial-{time.time_ns()}.json")
    with partial.open("x") as file:
        file.write(_as_json(runs, dict(sorted(entries.items()))))
    partial.replace(path)


def _as_json(runs: list[dict[str, str]], entries: dict[str, dict[str, Any]]) -> str:
    """A table with one line per run and config, so that a changed config changes only its line."""
    of_runs = ",\n  ".join(map(json.dumps, runs))
    configs = ",\n  ".join(
        f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items()
    )
    return f'{{\n "runs": [\n  {of_runs}\n ],\n "configs": {{\n  {configs}\n }}\n}}\n'


def _operands(conv: ConvShape, dtype: DTypeLike) -> _Operands:
    """Normally distributed data; with zeros the GPU draws less power and so runs faster."""
    keys = iter(jax.random.split(jax.random.key(0), len(conv.in_channels) + 3))
    # A convolution's key does not distinguish bfloat16 and float16, which are equally fast.
    kind = dtype if conv.in_bytes == 2 else E4M3

    def draw(*shape: int) -> Array:
        return jax.random.normal(next(keys), shape, jnp.float32).astype(kind)

    size = tuple(conv.geometry.stride * pixels for pixels in (conv.height, conv.width))
    inputs = tuple(draw(conv.batch, conv.in_time, *size, channels) for channels in conv.in_channels)
    # 8-bit weights are K-major: [out, in].
    ends = (conv.depth, conv.channels) if conv.in_bytes == 2 else (conv.channels, conv.depth)
    weights = draw(*conv.geometry.kernel, *ends)
    residual = None
    if conv.residual:
        residual = draw(conv.batch, conv.time, conv.height, conv.width, conv.channels)
    offsets = jax.random.normal(next(keys), (_LAUNCHES, 1, conv.channels), jnp.float32)
    return _Operands(inputs, weights, residual, offsets)


def _compile(conv: ConvShape, config: Config, operands: _Operands, dtype: DTypeLike) -> Program:
    run = functools.partial(
        implicit_gemm,
        geometry=conv.geometry,
        size=(conv.time, conv.height, conv.width),
        config=config,
        totals=conv.out_bytes <= 2,
        out_dtype={1: E4M3, 2: dtype, 4: jnp.float32}[conv.out_bytes],
        residual_scale=jnp.float32(1) if conv.residual else None,
    )
    # Without a scale, all 8-bit outputs would be clipped, and wrong ones would compare equal.
    scale = jnp.full((1, conv.channels), conv.products**-0.5)

    def launches(operands: _Operands) -> list[Array]:
        return [
            run(
                operands.inputs, operands.weights, residual=operands.residual, scale=scale,
                offset=offset,
            )[0]
            for offset in operands.offsets
        ]  # fmt: skip

    return jax.jit(launches).lower(operands).compile()
