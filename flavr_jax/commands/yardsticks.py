# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint's known weak points: ``flavr yardsticks CHECKPOINT``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

import flavr_jax
from flavr_jax.config import Precision
from flavr_jax.data import sources
from flavr_jax.evaluation.yardsticks import DRAWN, ON_CLIPS, Yardstick
from flavr_jax.partial import check_files, written_whole


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure what scores on data sets hide: static displays, still pictures, pulsing, drawings."""

    checkpoint: Positional[Path]
    """Checkpoint directory."""
    only: tuple[str, ...] = ()
    """Yardsticks to measure, by name; by default all, or without a source those on drawn clips."""
    source: Path | None = None
    """Folder of a data set, for the yardsticks sharpness, half-size and ends."""
    dataset: str = "davis-2x"
    """Data set in the source; all of its frames have to be filmed."""
    precision: Precision = "fp32"
    """Number format that the checkpoint computes in."""
    json: Path | None = None
    """File for the values."""


def main(options: Options) -> None:
    """Print a table with a row for each yardstick."""
    chosen = choose(options)
    check_files(options.json)
    network = flavr_jax.load(options.checkpoint, precision=options.precision)
    sequences = []
    if options.source is not None and any(name in ON_CLIPS for name in chosen):
        sequences = sources.data_set(options.dataset).read(options.source)
    values = {
        name: each.measure(network, sequences) if name in ON_CLIPS else each.measure(network)
        for name, each in chosen.items()
    }
    table = Table(title=f"{options.checkpoint.name} ({network.precision})", title_justify="left")
    for heading in ("yardstick", "what it measures", "value", "goal", ""):
        table.add_column(heading)
    marks = {True: "reached", False: "missed", None: ""}
    for name, each in chosen.items():
        sign = "≤" if each.at_most else "≥"
        goal = "" if each.goal is None else f"{sign} {each.goal:g}"
        value = values[name]
        table.add_row(name, each.text, f"{value:.3f}", goal, marks[each.reached(value)])
    Console(width=110).print(table)
    if options.json is not None:
        with written_whole(options.json) as partial:
            partial.write_text(json.dumps(values, indent=2) + "\n")


def choose(options: Options) -> dict[str, Yardstick]:
    """Return the yardsticks to measure.

    Raises:
        ValueError: a name is unknown, or a yardstick lacks its data set.
    """
    known = {**DRAWN, **ON_CLIPS}
    if unknown := sorted(set(options.only) - set(known)):
        raise ValueError(f"unknown yardstick {', '.join(unknown)}; known are {', '.join(known)}.")
    usable = known if options.source is not None else DRAWN
    if homeless := [name for name in options.only if name not in usable]:
        raise ValueError(f"{', '.join(homeless)} needs a data set; name its folder with --source.")
    return {name: known[name] for name in options.only or usable}
