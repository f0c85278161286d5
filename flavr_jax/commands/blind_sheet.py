# SPDX-License-Identifier: Apache-2.0
"""Compare two methods without knowing which is which: ``flavr blind-sheet CHECKPOINT --source``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tyro.conf import Positional

import flavr_jax
from flavr_jax import evaluation
from flavr_jax.config import Precision
from flavr_jax.data import sources
from flavr_jax.evaluation import baselines, blind
from flavr_jax.partial import check_files, written_whole


@dataclasses.dataclass(frozen=True)
class Options:
    """Draw crops of two methods side by side, in random order, and write the key to another file.

    Look at the sheet, write a letter for each crop (l, r, or = for no preference), and count them
    with --votes and the key.
    """

    checkpoint: Positional[Path | None] = None
    """Checkpoint directory: the first method."""
    source: Path | None = None
    """Folder of the data set."""
    dataset: str = "davis-2x"
    """Data set that frames are taken from."""
    against: str = "rife-4.0"
    """The second method: the name of a baseline, or another checkpoint directory."""
    crops: int = 30
    """Number of crops."""
    side: int = 192
    """Height and width of a crop in pixels."""
    seed: int = 0
    """Determines frames, crops, their order and their sides."""
    precision: Precision = "fp32"
    """Number format that checkpoints compute in."""
    sheet: Path = Path("blind.png")
    """File for the crops."""
    key: Path = Path("blind.key.json")
    """File for the methods behind the crops, or from an earlier run, to count votes."""
    votes: str | None = None
    """Letters for the crops of an earlier sheet, in order; prints the tally by the key."""


def main(options: Options) -> None:
    """Write a sheet and its key, or count votes."""
    if options.votes is not None:
        key = json.loads(options.key.read_text())
        sides = [each["first_is_left"] for each in key["crops"]]
        first, second, neither = blind.tally(options.votes, sides)
        print(f"{key['first']}: {first}, {key['second']}: {second}, no preference: {neither}")
        return
    if options.checkpoint is None or options.source is None:
        raise ValueError("a sheet needs a checkpoint and --source; --votes counts with a key.")
    if options.crops < 1:
        raise ValueError(f"`crops` is {options.crops}; use 1 or more.")
    check_files(options.sheet, options.key)
    comparisons = blind.compare(
        method_of(str(options.checkpoint), options.precision),
        method_of(options.against, options.precision),
        sources.data_set(options.dataset).read(options.source),
        count=options.crops,
        side=options.side,
        seed=options.seed,
    )
    with written_whole(options.sheet) as partial:
        blind.sheet(comparisons).save(partial, "PNG")
    crops = [{"place": each.place, "first_is_left": each.first_is_left} for each in comparisons]
    key = {"first": str(options.checkpoint), "second": options.against, "crops": crops}
    with written_whole(options.key) as partial:
        partial.write_text(json.dumps(key, indent=2) + "\n")
    print(f"{options.sheet}: {len(crops)} crops; the key is in {options.key}.")


def method_of(name: str, precision: Precision) -> evaluation.Method:
    """Return a baseline by its name, or the network of a checkpoint directory."""
    if name in baselines.BASELINES:
        return baselines.BASELINES[name]
    if not Path(name).is_dir():
        known = ", ".join(map(repr, baselines.BASELINES))
        raise ValueError(f"{name!r} is neither a checkpoint directory nor a baseline: {known}.")
    network = flavr_jax.load(name, precision=precision)
    return evaluation.method_of_network(
        network.predict, network.config.n_outputs, network.precision
    )
