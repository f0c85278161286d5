# SPDX-License-Identifier: Apache-2.0
"""Train a network from a recipe: ``scripts/train.py configs/default.toml --output runs/mine``."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

from tyro.conf import Positional

from flavr_jax import cli
from flavr_jax.training import loop, parallel, recipe


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a network from a recipe; on several hosts, the same command on each."""

    recipe: Positional[Path]
    """TOML file; configs/default.toml makes the bundled checkpoint."""
    output: Path
    """Folder for checkpoint, states, log and plot."""
    clips: Path | None = None
    """Folder of training clips (.mp4) that the device holds; without one all clips are painted."""
    source: Path | None = None
    """Folder of the recipe's data set, as downloaded or packed, or of labelled clips."""
    training_list: Path | None = None
    """Of labelled clips: which to train on, a line each."""
    validation_list: Path | None = None
    """Of labelled clips: which to validate on."""
    evaluation: Path | None = None
    """Folder of the evaluation set, scored at every report."""
    evaluation_set: str = "davis-2x"
    """Its name."""
    init_from: Path | None = None
    """Start from what fits of this checkpoint's parameters."""
    resume: bool = False
    """Go on from the newest state in the output folder, if there is one."""
    resume_from: Path | None = None
    """Go on from a state that --export-state wrote on another machine."""
    export_state: Path | None = None
    """At the end write a state of a third of the size there, to carry on elsewhere."""
    until: int | None = None
    """Stop after this step, and leave a state to resume."""
    leg_minutes: float = math.inf
    """Stop after so long, all included, and leave a state to resume."""
    coordinator: str | None = None
    """host:port of process 0, where there are several processes."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which this is, from 0."""
    cluster: bool = False
    """Find these three in the environment of a Slurm, Open MPI or Kubernetes job."""
    set: tuple[str, ...] = ()
    """Changes to the recipe, written as in it: --set data.crop=224 optimizer.learning_rate=3e-4"""


def main(options: Options) -> None:
    """Train, with progress on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("flavr_jax").setLevel(logging.INFO)
    chosen = recipe.read(options.recipe, options.set)
    parallel.initialize(
        options.coordinator, options.processes, options.process, detect=options.cluster
    )
    mapping = parallel.Parallel(chosen.strategy)
    names = [field.name for field in dataclasses.fields(recipe.Places)]
    places = recipe.Places(**{name: getattr(options, name) for name in names})
    task, inputs = recipe.prepare(chosen, places, mapping)
    leg = loop.Leg(
        resume=options.resume,
        resume_from=options.resume_from,
        init_from=options.init_from,
        export_state=options.export_state,
        until=options.until,
        minutes=options.leg_minutes,
    )
    done = loop.train(chosen, task, inputs, options.output, leg, mapping)
    print(f"{options.output / 'checkpoint'}: {'complete' if done else 'go on with --resume'}.")


if __name__ == "__main__":
    cli.run(main, Options)
