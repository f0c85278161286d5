# SPDX-License-Identifier: Apache-2.0
"""Time training on this machine's devices: ``flavr benchmark-training``."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import jax
from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes

from flavr_jax.bundled import existing
from flavr_jax.config import ModelConfig
from flavr_jax.data import sources
from flavr_jax.data.sequences import Clip
from flavr_jax.extras import install_command
from flavr_jax.models.presets import PRESETS, Preset
from flavr_jax.profiling import presentation, step_profile, training_throughput
from flavr_jax.profiling.torch_training import TorchTraining
from flavr_jax.profiling.training_throughput import Measurement, TrainingCase
from flavr_jax.training import recipe as recipes
from flavr_jax.training.parallel import Parallel, Strategy

Implementation: TypeAlias = Literal["flavr_jax", "torch"]
IMPLEMENTATIONS = {
    "flavr_jax": training_throughput.measure,
    "torch": functools.partial(training_throughput.measure_peer, "torch.compile", TorchTraining),
}
"""Implementations to time, all with the signature of ``measure``; add another one here."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """Time training steps on one device and on all, on a fixed batch and on batches from disk."""

    implementations: tuple[Implementation, ...] = ("flavr_jax",)
    """Implementations to time. torch: the same network in PyTorch, which has to be installed, on
    one device and a fixed batch."""
    widths: tuple[int, ...] = (32, 64)
    """Widths of the networks to time."""
    n_outputs: int = 7
    """Frames that the networks predict."""
    models: tuple[Preset, ...] = ()
    """Named networks to time instead of these, such as the bundled one."""
    one_target: bool = False
    """A window has one target, drawn at random, not all frames that the network predicts."""
    devices: tuple[int, ...] = ()
    """Numbers of devices to use; by default one, and all of this machine."""
    batch: int = 24
    """Windows per device and step."""
    crop: int = 256
    """Side of a window in pixels."""
    strategy: Strategy = "pmap"
    """JAX transformation that maps a step over devices."""
    seconds: float = 2.0
    """Approximate length of a round. Each case has three rounds, and three more that read."""
    read: bool = True
    """Also time steps on batches read from disk, if the packages of the extra `train` are
    installed; --no-read leaves them out."""
    dataset: str = "folder-2x"
    """Name of the data set in --source."""
    format: training_throughput.Format = "png"
    """Image format of the noise; Vimeo-90K uses png."""
    workers: int = max(1, (os.cpu_count() or 2) // 2)
    """Reading processes; 0 reads in threads of this process."""
    json: Path | None = None
    """Append the measurements to this file, one line per case."""
    recipe: Path | None = None
    """Instead of these networks, time the step of a recipe on one device, with the recipe's own
    windows and loss, and the parts of the step in a trace."""
    places: Annotated[recipes.Places, OmitArgPrefixes] = dataclasses.field(
        default_factory=recipes.Places
    )
    """Folders and lists of data for the recipe. Without a recipe, only the source is read; by
    default that is noise of Vimeo-90K's size in a temporary folder."""
    set: tuple[str, ...] = ()
    """Changes to the recipe, in TOML syntax."""
    profile: Path = Path("traces")
    """Folder for the trace of the recipe's step."""


def main(options: Options) -> None:
    """Print a line of JSON for each case as soon as it is timed, then a table."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("flavr_jax").setLevel(logging.INFO)
    environment = presentation.environment(with_torch="torch" in options.implementations)
    where = f"{environment}; {os.cpu_count()} CPU cores"
    print(where, flush=True)
    if options.recipe is not None:
        _print_parts(options, options.recipe)
        return
    cases = _cases(options)
    table = Table("step", "width", "devices", "windows/s", "of one", "ms", "ms, read", "cost")
    with tempfile.TemporaryDirectory() as folder:
        clips = _clips(options, Path(folder)) if options.read and _can_read() else ()
        for name in options.implementations:
            run = IMPLEMENTATIONS[name]
            on_one_device: dict[ModelConfig, float] = {}  # windows a second
            for found in run(cases, clips, seconds=options.seconds, workers=options.workers):
                network, speed = found.case.model, found.windows_per_second
                if found.case.devices == 1:
                    on_one_device[network] = speed
                speed_up = speed / on_one_device[network] if network in on_one_device else None
                _record({**found.figures(), "speed_up": speed_up, "where": where}, options.json)
                table.add_row(*_cells(found, speed_up))
    Console().print(table)


def _cases(options: Options) -> list[TrainingCase]:
    """Return the cases: every network on every number of devices."""
    counts = options.devices or tuple(sorted({1, jax.local_device_count()}))
    networks = [PRESETS[name] for name in options.models] or [
        ModelConfig(width=width, n_outputs=options.n_outputs) for width in options.widths
    ]
    return [
        TrainingCase(
            network,
            devices=devices,
            batch=options.batch,
            crop=options.crop,
            strategy=options.strategy,
            one_target=options.one_target,
        )
        for network in networks
        for devices in counts
    ]


def _print_parts(options: Options, path: Path) -> None:
    """Print the time of a recipe's step and a table of its parts."""
    recipe = recipes.read(existing(path), options.set)
    task, inputs = recipes.prepare(recipe, options.places, Parallel(recipe.strategy))
    found = step_profile.profile_step(
        recipe, task, inputs, options.profile, seconds=options.seconds
    )
    print(f"{1e3 * found.seconds:.2f} ms a step, {found.windows / found.seconds:.0f} windows/s")
    table = Table("part", "pass", "ms", "share", "kernels")
    whole = sum(part.milliseconds for part in found.parts)
    for part in found.parts:
        table.add_row(
            part.name or "the rest",
            "backward" if part.backward else "forward",
            f"{part.milliseconds:.3f}",
            f"{part.milliseconds / whole:.1%}",
            f"{part.launches:.0f}",
        )
    Console().print(table)


def _cells(found: Measurement, speed_up: float | None) -> list[str]:
    """Return a row of the table."""
    read, cost = found.read_seconds, found.reading_cost
    return [
        found.implementation,
        str(found.case.model.width),
        str(found.case.devices),
        f"{found.windows_per_second:.1f}",
        "" if speed_up is None else f"{speed_up:.2f}×",
        f"{1e3 * found.fixed_seconds:.1f}",
        "" if read is None else f"{1e3 * read:.1f}",
        "" if cost is None else f"{cost:+.1%}",
    ]


def _can_read() -> bool:
    """Return whether batches can be read from disk, and log a warning if not."""
    if importlib.util.find_spec("grain") is not None:
        return True
    logger.warning(
        "no steps on batches from disk are timed, because grain is not installed. Run %s, or use "
        "--no-read.",
        install_command("train"),
    )
    return False


def _clips(options: Options, folder: Path) -> tuple[Clip, ...]:
    """Return the clips to read; without ``--source`` they are noise, written to ``folder``."""
    source = options.places.source
    if source is None:
        return training_throughput.write_clips(folder, options.format)
    return tuple(each.clip for each in sources.data_set(options.dataset).read(source))


def _record(figures: dict[str, Any], path: Path | None) -> None:
    """Print a measurement as JSON, and append it to the file if there is one."""
    line = json.dumps(figures)
    print(line, flush=True)
    if path is not None:
        with path.open("a") as file:
            file.write(line + "\n")
