# SPDX-License-Identifier: Apache-2.0
"""Time training on this machine's devices: ``scripts/benchmark_training.py``."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import tempfile
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from flavr_jax import cli
from flavr_jax.config import ModelConfig
from flavr_jax.training import benchmark
from flavr_jax.training.parallel import Strategy

IMPLEMENTATIONS = {"flavr_jax": benchmark.measure}
"""Training steps to time, all with the signature of ``measure``: a peer's goes here."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Time training steps on one device and on all, with a fixed batch and with batches read."""

    widths: tuple[int, ...] = (32, 64)
    """Networks to time, by their width."""
    n_outputs: int = 7
    """Frames that they predict."""
    devices: tuple[int, ...] = ()
    """How many devices to use; by default 1, and all there are."""
    batch: int = 24
    """Windows a device and step."""
    crop: int = 256
    """Side of a window in pixels."""
    strategy: Strategy = "pmap"
    """How a step is spread over devices."""
    seconds: float = 2.0
    """About how long a round is; there are three of each kind."""
    format: benchmark.Format = "png"
    """What the frames that are read are stored as; png is what Vimeo-90K has."""
    workers: int = max(1, (os.cpu_count() or 2) // 2)
    """Processes that read; 0 reads in threads of this one."""
    read: bool = importlib.util.find_spec("grain") is not None
    """Also time batches read from disk; needs the extra `train`."""
    json: Path | None = None
    """Append the figures there, a line a case."""


def main(options: Options) -> None:
    """Print a line of JSON a case as it is known, and a table."""
    counts = options.devices or tuple(sorted({1, jax.local_device_count()}))
    cases = [
        benchmark.Case(
            ModelConfig(width=width, n_outputs=options.n_outputs, base="blend"),
            devices,
            options.batch,
            options.crop,
            options.strategy,
        )
        for width in options.widths
        for devices in counts
    ]
    table = Table("step", "width", "devices", "windows/s", "of one", "ms", "ms, read", "cost")
    with tempfile.TemporaryDirectory() as folder:
        clips = benchmark.write_clips(Path(folder), options.format) if options.read else ()
        for run in IMPLEMENTATIONS.values():
            single: dict[int, float] = {}
            for found in run(cases, clips, seconds=options.seconds, workers=options.workers):
                width = found.case.model.width
                if found.case.devices == 1:
                    single[width] = found.windows_per_second
                speed_up = found.windows_per_second / single.get(width, float("nan"))
                _record(found, speed_up, options.json)
                cost = found.reading_cost
                table.add_row(
                    found.implementation,
                    str(width),
                    str(found.case.devices),
                    f"{found.windows_per_second:.1f}",
                    f"{speed_up:.2f}×",
                    f"{1e3 * found.fixed_seconds:.1f}",
                    "" if found.read_seconds is None else f"{1e3 * found.read_seconds:.1f}",
                    "" if cost is None else f"{cost:+.1%}",
                )
    device = jax.devices()[0].device_kind
    Console().print(f"{device}, jax {jax.__version__}, {os.cpu_count()} CPU cores")
    Console().print(table)


def _record(found: benchmark.Measurement, speed_up: float, path: Path | None) -> None:
    figures = {
        **dataclasses.asdict(found),
        "windows_per_second": found.windows_per_second,
        "speed_up": speed_up,
        "reading_cost": found.reading_cost,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    line = json.dumps(figures)
    print(line, flush=True)
    if path is not None:
        with path.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    cli.run(main, Options)
