# SPDX-License-Identifier: Apache-2.0
"""Measured times as lines, tables, JSON and a plot, with the environment of the measurement."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flavr_jax.models import flavr
from flavr_jax.models.layers import Implementation
from flavr_jax.partial import written_whole
from flavr_jax.profiling.comparison import TYPES, NetworkCase, OnePrecision, Row
from flavr_jax.profiling.costs import LayerCost, layer_costs
from flavr_jax.profiling.timing import CallTimes, Ceilings
from flavr_jax.profiling.trace import Kernel, by_scope, profile

__all__ = ["environment", "figures", "layers", "line", "plot", "read", "roofline"]

_MOST_KERNELS = 20  # in the table


def environment(*, with_torch: bool = False) -> str:
    """Describe the device and the versions of packages that a measurement depends on."""
    device = jax.devices()[0]
    packages = ["jax", "jaxlib", "flax", *(["torch"] if with_torch else [])]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    driver = getattr(device.client, "platform_version", "").splitlines()
    return "; ".join([f"{device.device_kind} ({device.platform})", versions, *driver[:1]])


def line(row: Row) -> str:
    """Describe a row in one line."""
    low, high = row.timing.quartiles
    error = "" if row.error is None else f", error {row.error:.1e}"
    memory = "" if row.peak_bytes is None else f", {row.peak_bytes / 2**30:.2f} GiB"
    return (
        f"{row.name}: {row.timing.median:.3f} ms a call (quartiles {low:.3f} to {high:.3f}), "
        f"{row.timing.queued:.3f} ms queued{error}{memory}"
    )


def figures(row: Row) -> dict[str, Any]:
    """Return a row and the environment, for JSON."""
    return {
        "name": row.name,
        "milliseconds": row.timing.milliseconds,
        "median": row.timing.median,
        "queued": row.timing.queued,
        "error": row.error,
        "peak_bytes": row.peak_bytes,
        "environment": environment(with_torch=row.name.startswith("PyTorch")),
    }


def read(path: Path, settings: dict[str, Any]) -> list[Row]:
    """Return the rows of a file of :func:`figures` that were measured with these settings.

    If there are several rows of the same name, the last one counts.
    """
    rows = {}
    for text in path.read_text().splitlines():
        found = json.loads(text)
        if all(found.get(name) == value for name, value in settings.items()):
            timing = CallTimes(tuple(found["milliseconds"]), found["queued"])
            device = found["environment"].partition(" (")[0]
            rows[found["name"]] = Row(
                found["name"], timing, found["error"], found["peak_bytes"], device
            )
    return list(rows.values())


def roofline(case: NetworkCase, precision: OnePrecision, ceilings: Ceilings) -> Row:
    """Return the time that all layers would take at the device's ceilings, as a row."""
    least = sum(_shortest(cost, ceilings)[0] for cost in _costs(case, precision))
    return Row(f"roofline {precision}", CallTimes((least, least), least), None)


def layers(
    case: NetworkCase,
    implementation: Implementation,
    precision: OnePrecision,
    folder: Path,
    torch_stages: dict[str, float],
    ceilings: Ceilings,
) -> str:
    """Profile a call, and tabulate kernels, layers, and stages next to PyTorch's.

    Layers are compared with the speed of large matrix products and copies on the same device.

    Args:
        case: the network and its windows.
        implementation: implementation to run.
        precision: precision of the network.
        folder: folder for the trace.
        torch_stages: milliseconds of PyTorch's stages by name; empty for no comparison.
        ceilings: speeds to compare layers with.
    """
    params = case.parameters(precision, implementation)
    apply = functools.partial(flavr.apply, case.config, implementation=implementation)
    # By default a call is one CUDA graph on a GPU, and the trace would not name its kernels.
    on_gpu = jax.default_backend() == "gpu"
    options: dict[str, str | bool] = {"xla_gpu_enable_command_buffer": ""} if on_gpu else {}
    compiled = jax.jit(apply).lower(params, case.windows).compile(compiler_options=options)
    kernels = profile(
        compiled, lambda: jax.block_until_ready(compiled(params, case.windows)), folder
    )
    dtype = jnp.dtype(TYPES[precision]).name
    table = _layer_lines(_costs(case, precision), kernels, ceilings, dtype)
    tables = [_kernel_table(kernels), table]
    if torch_stages:
        tables.append(_stage_table(kernels, torch_stages))
    return "\n\n".join(tables)


def plot(rows: list[Row], path: Path, title: str) -> None:
    """Draw the median times as bars, the fastest on top, into ``path``.

    Raises:
        ValueError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("`plot` draws with matplotlib; install it, or leave `--plot` out.")
    from matplotlib.figure import Figure

    rows = sorted(rows, key=lambda row: -row.timing.median)
    figure = Figure(figsize=(8, 1 + 0.4 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh([row.name for row in rows], [row.timing.median for row in rows])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.margins(x=0.12)  # for the label of the longest bar
    axes.set_xlabel("milliseconds a call (median)")
    axes.set_title(title)
    with written_whole(path) as partial:
        figure.savefig(partial)


def _kernel_table(kernels: list[Kernel]) -> str:
    """Tabulate the most expensive kernels."""
    total = sum(kernel.milliseconds for kernel in kernels)
    lines = [f"{total:.3f} ms in {len(kernels)} kernels; the most expensive:"]
    for kernel in kernels[:_MOST_KERNELS]:
        scope = kernel.scope.partition("/")[2]
        share = 100 * kernel.milliseconds / total
        lines.append(
            f"{kernel.milliseconds:9.4f} ms {share:5.1f} %  {kernel.launches:4.0f}×  "
            f"{kernel.name[:60]}  {scope}"
        )
    return "\n".join(lines)


def _costs(case: NetworkCase, precision: OnePrecision) -> list[LayerCost]:
    batch, _, height, width, _ = case.windows.shape
    dtype = jnp.dtype(TYPES[precision])
    return layer_costs(case.config, batch, height, width, dtype, in_8_bits=precision == "fp8")


def _shortest(cost: LayerCost, ceilings: Ceilings) -> tuple[float, str]:
    """Return the milliseconds of a layer at the ceilings, and what they are spent on."""
    return max(
        (1e-9 * cost.useful_flops / ceilings.tflops, "FLOPs"),
        (1e-9 * cost.bytes / ceilings.terabytes, "bytes"),
    )


def _layer_lines(
    costs: list[LayerCost], kernels: list[Kernel], ceilings: Ceilings, dtype: str
) -> str:
    """Write the table of layers, in GFLOP/s and GB/s on a CPU, else in TFLOP/s and TB/s."""
    times = by_scope(kernels, [cost.scope for cost in costs])
    scale, prefix = (1, "T") if ceilings.tflops >= 1 else (1000, "G")
    lines = [
        f"ceilings here: {scale * ceilings.tflops:.1f} {prefix}FLOP/s ({dtype} product), "
        f"{scale * ceilings.terabytes:.3g} {prefix}B/s (copy)",
        f"        ms  useful  dense {prefix}FLOP/s  % of peak  % of bytes' roofline  limit",
    ]
    least = sum(_shortest(cost, ceilings)[0] for cost in costs)
    for cost in _costs_by_scope(costs):
        # XLA may fuse a small layer into a neighbour; it then has no time of its own.
        milliseconds = times[cost.scope] or math.nan
        useful, dense = (
            1e-9 * flops / milliseconds for flops in (cost.useful_flops, cost.dense_flops)
        )
        peak = 100 * useful / ceilings.tflops
        roofline = 1e-7 * cost.bytes / milliseconds / ceilings.terabytes
        _, limit = _shortest(cost, ceilings)
        lines.append(
            f"{milliseconds:10.4f} {scale * useful:7.1f} {scale * dense:14.1f} {peak:10.1f} "
            f"{roofline:21.1f}  {limit}  {cost.scope}"
        )
    lines.append(f"{times['']:10.4f}  everything else")
    total = sum(times.values())
    lines.append(f"{total:10.4f}  in all; at these ceilings the layers would take {least:.4f}")
    return "\n".join(lines)


def _costs_by_scope(costs: list[LayerCost]) -> list[LayerCost]:
    """Add up the costs of convolutions that share a scope, and so a time: those of a look."""
    totals: dict[str, LayerCost] = {}
    for cost in costs:
        if cost.scope not in totals:
            totals[cost.scope] = cost
            continue
        before = totals[cost.scope]
        totals[cost.scope] = LayerCost(
            cost.scope,
            before.dense_flops + cost.dense_flops,
            before.useful_flops + cost.useful_flops,
            before.bytes + cost.bytes,
        )
    return list(totals.values())


def _stage_table(kernels: list[Kernel], torch_stages: dict[str, float]) -> str:
    """Tabulate the times of stages next to PyTorch's."""
    times = by_scope(kernels, list(torch_stages))
    lines = ["stage by stage, ms: ours, PyTorch eager, ratio"]
    for stage, theirs in torch_stages.items():
        ratio = theirs / (times[stage] or math.nan)
        lines.append(f"{times[stage]:9.4f} {theirs:9.4f} {ratio:7.2f}×  {stage}")
    return "\n".join(lines)
