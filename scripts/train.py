# SPDX-License-Identifier: Apache-2.0
"""Train a network from a recipe: ``scripts/train.py configs/default.toml --output runs/mine``."""

from __future__ import annotations

import dataclasses
import logging
import math
import tomllib
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from flavr_jax import cli, config
from flavr_jax.training import loop


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a network from a recipe."""

    recipe: Positional[Path]
    """TOML file; configs/default.toml makes the bundled checkpoint."""
    output: Path
    """Folder for checkpoint, state and log."""
    clips: Path | None = None
    """Folder of training clips (.mp4); without one all clips are painted."""
    evaluation: Path | None = None
    """Folder of the DAVIS evaluation clips, scored at every report."""
    leg_minutes: float = math.inf
    """Stop after so long, all included, and leave a state to resume."""
    resume: bool = False
    """Go on from the state in the output folder, if there is one."""
    set: tuple[str, ...] = ()
    """Changes to the recipe, written as in it: --set data.crop=224 optimizer.learning_rate=3e-4"""


def main(options: Options) -> None:
    """Train, with progress on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("flavr_jax").setLevel(logging.INFO)
    loop.train(
        read_recipe(options.recipe, options.set),
        output=options.output,
        clips=options.clips,
        evaluation=options.evaluation,
        leg_minutes=options.leg_minutes,
        resume=options.resume,
    )


def read_recipe(path: Path, changes: tuple[str, ...] = ()) -> loop.Recipe:
    """The recipe in a TOML file, with some values changed."""
    values = config.read_toml(path)
    for change in changes:
        try:
            _merge(values, tomllib.loads(change))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"`--set {change}` is not TOML ({error}); write key=value.") from error
    return config.build(loop.Recipe, values, where=str(path))


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(key), dict):
            _merge(values[key], change)
        else:
            values[key] = change


if __name__ == "__main__":
    cli.run(main, Options)
