# SPDX-License-Identifier: Apache-2.0
"""Search for settings of a recipe: ``scripts/tune.py configs/search.toml --output runs/search``."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from flavr_jax import cli, config
from flavr_jax.training import loop, parallel, recipe, search


@dataclasses.dataclass(frozen=True)
class Options:
    """Search for settings of a recipe; the same command again goes on where it stopped."""

    search: Positional[Path]
    """TOML file; configs/search.toml is an example."""
    output: Path
    """Folder for the trials and trials.json."""
    clips: Path | None = None
    """Folder of training clips (.mp4) that the device holds."""
    source: Path | None = None
    """Folder of the recipe's data set, or of labelled clips."""
    evaluation: Path | None = None
    """Folder of the evaluation set, scored at every report."""
    evaluation_set: str = "davis-2x"
    """Its name."""


def main(options: Options) -> None:
    """Train all trials, and print them with the best one first."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("flavr_jax").setLevel(logging.INFO)
    chosen, base = search.read_search(options.search)
    places = recipe.Places(
        options.clips,
        options.source,
        evaluation=options.evaluation,
        evaluation_set=options.evaluation_set,
    )

    def train(of: recipe.Recipe, folder: Path, until: int) -> bool:
        mapping = parallel.Parallel(of.strategy)
        task, inputs = recipe.prepare(of, places, mapping)
        return loop.train(of, task, inputs, folder, loop.Leg(resume=True, until=until), mapping)

    ranked = search.run(chosen, config.read_toml(base), options.output, train)
    table = Table("trial", *chosen.space, "steps", chosen.metric)
    for trial in ranked:
        settings = (f"{value:.4g}" if isinstance(value, float) else str(value)
                    for value in trial.settings.values())  # fmt: skip
        value = "failed" if trial.value is None else f"{trial.value:.5g}"
        table.add_row(str(trial.number), *settings, str(trial.steps), value)
    Console().print(table)


if __name__ == "__main__":
    cli.run(main, Options)
