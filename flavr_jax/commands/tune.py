# SPDX-License-Identifier: Apache-2.0
"""Search for settings of a recipe: ``flavr tune configs/search.toml --output runs/search``."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional

from flavr_jax import config, program_cache
from flavr_jax.bundled import existing
from flavr_jax.training import loop, parallel, search
from flavr_jax.training import recipe as recipes


@dataclasses.dataclass(frozen=True)
class Options:
    """Search for settings of a recipe; start the same command again to continue a search."""

    search: Positional[Path]
    """TOML file with the search; configs/search.toml is an example."""
    output: Path
    """Folder for the trials and their summary, trials.json."""
    places: Annotated[recipes.Places, OmitArgPrefixes] = dataclasses.field(
        default_factory=recipes.Places
    )
    """Folders and lists of data."""


def main(options: Options) -> None:
    """Train all trials, and print a table of them, the best one first."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("flavr_jax").setLevel(logging.INFO)
    program_cache.enable()
    chosen, base = search.read_search(existing(options.search))

    def train(recipe: recipes.Recipe, folder: Path, until: int) -> bool:
        mapping = parallel.Parallel(recipe.strategy)
        task, inputs = recipes.prepare(recipe, options.places, mapping)
        return loop.train(recipe, task, inputs, folder, loop.Leg(resume=True, until=until), mapping)

    ranked = search.run(chosen, config.read_toml(base), options.output, train)
    table = Table("trial", *chosen.space, "steps", chosen.metric)
    for trial in ranked:
        settings = [_format(value) for value in trial.settings.values()]
        value = "failed" if trial.value is None else f"{trial.value:.5g}"
        table.add_row(str(trial.number), *settings, str(trial.steps), value)
    Console().print(table)


def _format(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
