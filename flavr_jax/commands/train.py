# SPDX-License-Identifier: Apache-2.0
"""Train a network from a recipe: ``flavr train configs/default.toml --output runs/mine``."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional

from flavr_jax import program_cache
from flavr_jax.bundled import existing
from flavr_jax.training import loop, parallel
from flavr_jax.training import recipe as recipes


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a network from a recipe; with several hosts, start the same command on each."""

    recipe: Positional[Path]
    """TOML file with the recipe; configs/default.toml is the bundled checkpoint's."""
    output: Path
    """Folder for checkpoint, states, log and plot."""
    places: Annotated[recipes.Places, OmitArgPrefixes] = dataclasses.field(
        default_factory=recipes.Places
    )
    """Folders and lists of data."""
    leg: Annotated[loop.Leg, OmitArgPrefixes] = dataclasses.field(default_factory=loop.Leg)
    """Start and end of this part of the training."""
    hosts: Annotated[parallel.Hosts, OmitArgPrefixes] = dataclasses.field(
        default_factory=parallel.Hosts
    )
    """Processes that train together."""
    set: tuple[str, ...] = ()
    """Changes to the recipe, in TOML syntax: --set data.crop=224 optimizer.learning_rate=3e-4"""


def main(options: Options) -> None:
    """Train by the recipe, and log progress to stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("flavr_jax").setLevel(logging.INFO)
    program_cache.enable()
    recipe = recipes.read(existing(options.recipe), options.set)
    parallel.initialize(options.hosts)
    mapping = parallel.Parallel(recipe.strategy)
    task, inputs = recipes.prepare(recipe, options.places, mapping)
    done = loop.train(recipe, task, inputs, options.output, options.leg, mapping)
    print(f"{options.output / 'checkpoint'}: {'complete' if done else 'go on with --resume'}.")
