# SPDX-License-Identifier: Apache-2.0
"""Time training on this machine's devices: ``scripts/benchmark_training.py``."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
from rich.console import Console
from rich.table import Table

from flavr_jax import cli
from flavr_jax.config import ModelConfig
from flavr_jax.data import sources
from flavr_jax.data.sequences import Clip
from flavr_jax.profiling import presentation, training_throughput
from flavr_jax.profiling.torch_training import TorchTraining
from flavr_jax.training.parallel import Strategy

Implementation: TypeAlias = Literal["flavr_jax", "torch"]
IMPLEMENTATIONS = {
    "flavr_jax": training_throughput.measure,
    "torch": functools.partial(training_throughput.measure_peer, "torch.compile", TorchTraining),
}
"""Training steps to time, all with the signature of ``measure``: a peer's goes here."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Time training steps on one device and on all, with a fixed batch and with batches read."""

    implementations: tuple[Implementation, ...] = ("flavr_jax",)
    """torch: the same network in PyTorch, where installed, on one device and a fixed batch."""
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
    read: bool = importlib.util.find_spec("grain") is not None
    """Also time batches read from disk; needs the extra `train`."""
    source: Path | None = None
    """Folder of a data set to read, packed or not; by default noise as large as Vimeo-90K."""
    dataset: str = "folder-2x"
    """Which data set that is."""
    format: training_throughput.Format = "png"
    """What the noise is stored as; png is what Vimeo-90K has."""
    workers: int = max(1, (os.cpu_count() or 2) // 2)
    """Processes that read; 0 reads in threads of this one."""
    json: Path | None = None
    """Append the figures there, a line a case."""


def main(options: Options) -> None:
    """Print a line of JSON a case as it is known, and a table; what is under way on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("flavr_jax").setLevel(logging.INFO)
    where = presentation.environment(with_torch="torch" in options.implementations)
    print(where := f"{where}; {os.cpu_count()} CPU cores", flush=True)
    counts = options.devices or tuple(sorted({1, jax.local_device_count()}))
    shape = (options.batch, options.crop, options.strategy)
    cases = [
        training_throughput.TrainingCase(
            ModelConfig(width=width, n_outputs=options.n_outputs), devices, *shape
        )
        for width in options.widths
        for devices in counts
    ]
    table = Table("step", "width", "devices", "windows/s", "of one", "ms", "ms, read", "cost")
    with tempfile.TemporaryDirectory() as folder:
        clips = _clips(options, Path(folder)) if options.read else ()
        for name in options.implementations:
            run, single = IMPLEMENTATIONS[name], dict[int, float]()
            for found in run(cases, clips, seconds=options.seconds, workers=options.workers):
                width, speed = found.case.model.width, found.windows_per_second
                if found.case.devices == 1:
                    single[width] = speed
                speed_up = speed / single[width] if width in single else None
                _record({**found.figures(), "speed_up": speed_up, "where": where}, options.json)
                read, cost = found.read_seconds, found.reading_cost
                cells = [found.implementation, str(width), str(found.case.devices), f"{speed:.1f}"]
                cells.append("" if speed_up is None else f"{speed_up:.2f}×")
                cells.append(f"{1e3 * found.fixed_seconds:.1f}")
                cells.append("" if read is None else f"{1e3 * read:.1f}")
                cells.append("" if cost is None else f"{cost:+.1%}")
                table.add_row(*cells)
    Console().print(table)


def _clips(options: Options, folder: Path) -> tuple[Clip, ...]:
    if options.source is None:
        return training_throughput.write_clips(folder, options.format)
    return tuple(each.clip for each in sources.data_set(options.dataset).read(options.source))


def _record(figures: dict[str, Any], path: Path | None) -> None:
    line = json.dumps(figures)
    print(line, flush=True)
    if path is not None:
        with path.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    cli.run(main, Options)
