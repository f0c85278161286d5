# SPDX-License-Identifier: Apache-2.0
"""Score a checkpoint and the baselines: ``scripts/evaluate.py CHECKPOINT --source DIR``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

import flavr_jax
from flavr_jax import cli, evaluation
from flavr_jax.config import Precision
from flavr_jax.data import sources
from flavr_jax.evaluation import baselines, tables
from flavr_jax.partial import written_whole
from flavr_jax.timeline import cuts


@dataclasses.dataclass(frozen=True)
class Options:
    """Score a checkpoint and the baselines on data sets, each under its protocol."""

    checkpoint: Positional[Path]
    """Checkpoint directory."""
    source: Path
    """Folder that the data set was unpacked to, or that scripts/prepare_data.py packed it to."""
    dataset: Annotated[tuple[str, ...], arg(aliases=["--protocol"])] = (
        "davis-2x", "fps60-2x", "fps60-4x", "fps60-8x",
    )  # fmt: skip
    """Which data sets; an unknown name lists the known ones."""
    precision: Precision = "fp32"
    """What the network computes in; auto is the fastest that card and checkpoint support."""
    boundary: bool = False
    """Instead, compare how frames beyond a clip's ends are made up, on its end intervals."""
    baselines: tuple[str, ...] = tuple(filter(baselines.available, baselines.BASELINES))
    """Which baselines; without a name behind the flag, none. An unknown name lists the known."""
    lpips: bool = False
    """Also measure LPIPS; needs the extra `metrics`."""
    csv: Path | None = None
    """Write a line a frame and method there."""
    json: Path | None = None
    """Write the means there, of every sequence."""
    worst: Path | None = None
    """Folder for pictures of the network's worst frames, one a data set."""
    predictions: Path | None = None
    """Folder for the network's frames as PNG."""


def main(options: Options) -> None:
    """Print a card and a table a data set."""
    if unknown := sorted(set(options.baselines) - set(baselines.BASELINES)):
        known = ", ".join(map(repr, baselines.BASELINES))
        raise ValueError(f"unknown baseline {', '.join(unknown)}; known are {known}.")
    sets = [sources.data_set(name) for name in options.dataset]
    metrics = dict(evaluation.METRICS)
    if options.lpips:
        metrics["lpips"] = evaluation.perceptual_metric()
    network = flavr_jax.load(options.checkpoint, precision=options.precision)
    title = f"{options.checkpoint.name} ({network.precision})"
    own = evaluation.method_of_network(network.predict, network.config.n_outputs)

    samples: dict[str, list[evaluation.Sample]] = {}
    report: dict[str, object] = {}
    for data_set in sets:
        sequences = data_set.read(options.source, find_cuts=cuts.find_cuts)
        worst = evaluation.WorstCases()
        watchers = [worst.watch]
        if options.predictions is not None:
            watchers.append(evaluation.PredictionWriter(options.predictions / data_set.name).watch)
        if options.boundary:
            scores: dict[str, list[evaluation.Sample]] = {
                **evaluation.score_boundaries(network.predict, network.config.n_outputs, sequences)
            }
        else:
            scores = {
                title: evaluation.score(own, sequences, metrics, warm_up=True, watch=watchers)
            }
            for name in options.baselines if any(each.targets for each in sequences) else ():
                scores[name] = evaluation.score(baselines.BASELINES[name], sequences, metrics)
        _print(data_set, scores)
        report[data_set.name] = tables.as_json(data_set, scores)
        samples |= {f"{data_set.name}/{method}": of for method, of in scores.items()}
        if options.worst is not None and any(scores.values()) and not options.boundary:
            worst.write(options.worst / f"{data_set.name}.png")
    if options.csv is not None:
        evaluation.write_csv(options.csv, samples)
    if options.json is not None:
        with written_whole(options.json) as partial:
            partial.write_text(json.dumps(report, indent=2) + "\n")


def _print(data_set: sources.DataSet, scores: dict[str, list[evaluation.Sample]]) -> None:
    # A file has no width of its own; 80 columns would break names apart.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(tables.card(data_set, scores))
    if not any(scores.values()):
        console.print("No truth to score against; --predictions writes the frames.")
        return
    console.print(tables.of_methods(data_set, scores))
    if (by_sequence := tables.of_sequences(scores)) is not None:
        console.print(by_sequence)


if __name__ == "__main__":
    cli.run(main, Options)
