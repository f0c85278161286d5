# SPDX-License-Identifier: Apache-2.0
"""Score a checkpoint and the baselines: ``flavr evaluate CHECKPOINT --source DIR``."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional, arg

import flavr_jax
from flavr_jax import evaluation
from flavr_jax.config import Precision
from flavr_jax.data import sequences as clips
from flavr_jax.data import sources
from flavr_jax.evaluation import baselines, tables
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.partial import check_files, written_whole
from flavr_jax.timeline import cuts


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Files to write in addition to the printed tables."""

    csv: Path | None = None
    """File for a line per frame and method."""
    json: Path | None = None
    """File for the protocol card and the means, overall and by sequence."""
    worst: Path | None = None
    """Folder for pictures of the network's worst frames, one picture per data set."""
    predictions: Path | None = None
    """Folder for the network's frames as PNG."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Score a checkpoint and the baselines on data sets, each by its own protocol."""

    checkpoint: Positional[Path]
    """Checkpoint directory."""
    source: Path
    """Folder of the data sets, in their official layout or packed by flavr prepare-data."""
    dataset: Annotated[tuple[str, ...], arg(aliases=["--protocol"])] = (
        "davis-2x",
        "fps60-2x",
        "fps60-4x",
        "fps60-8x",
    )
    """Data sets to score on; the error for an unknown name lists the known ones."""
    precision: Precision = "fp32"
    """Number format that the network computes in; auto is the fastest that the device and the
    checkpoint support."""
    baselines: tuple[str, ...] = tuple(filter(baselines.available, baselines.BASELINES))
    """Baselines to score; give the flag no names to skip them. The error for an unknown name lists
    the known ones."""
    lpips: bool = False
    """Also measure LPIPS; needs pip install -e ".[metrics]"."""
    boundary: bool = False
    """Score only the first and last interval of clips, once for each way of making up the input
    frame that is missing there; without baselines."""
    outputs: OmitArgPrefixes[Outputs] = dataclasses.field(default_factory=Outputs)
    """Files to write."""


Scores: TypeAlias = dict[str, list[evaluation.Sample]]
"""The scored samples of each method, by its name in the tables."""


def main(options: Options) -> None:
    """Print a card and tables for each data set, and write the requested files."""
    baselines.check(options.baselines)
    check_files(options.outputs.csv, options.outputs.json)
    sets = [sources.data_set(name) for name in options.dataset]
    metrics = dict(evaluation.METRICS)
    if options.lpips:
        metrics["lpips"] = evaluation.perceptual_metric()
    network = flavr_jax.load(options.checkpoint, precision=options.precision)

    outputs = options.outputs
    samples: Scores = {}
    report: dict[str, object] = {}
    # All before the first score: a later set without clips must not end a run that took hours.
    found = [each.read(options.source, find_cuts=cuts.find_cuts) for each in sets]
    for data_set, sequences in zip(sets, found):
        if options.boundary:
            scores = {
                str(boundary): scored
                for boundary, scored in evaluation.score_boundaries(
                    network.predict, network.config.n_outputs, sequences, network.precision
                ).items()
            }
        else:
            scores = score(options, network, data_set, sequences, metrics)
        show(data_set, scores)
        report[data_set.name] = tables.as_json(data_set, scores)
        samples |= {f"{data_set.name}/{method}": each for method, each in scores.items()}
    if outputs.csv is not None:
        evaluation.write_csv(outputs.csv, samples)
    if outputs.json is not None:
        with written_whole(outputs.json) as partial:
            partial.write_text(json.dumps(report, indent=2) + "\n")


def score(
    options: Options,
    network: Interpolator,
    data_set: sources.DataSet,
    sequences: Sequence[clips.Sequence],
    metrics: Mapping[str, evaluation.Metric],
) -> Scores:
    """Score the network and the baselines on one data set, and write the requested pictures.

    A data set without true frames, such as middlebury-evaluation, has no scores; its predictions
    are still written.
    """
    outputs = options.outputs
    worst = evaluation.WorstCases()
    watchers = [worst.watch]
    if outputs.predictions is not None:
        watchers.append(evaluation.PredictionWriter(outputs.predictions / data_set.name).watch)
    method = evaluation.method_of_network(
        network.predict, network.config.n_outputs, network.precision
    )
    title = f"{options.checkpoint.name} ({network.precision})"
    scores = {title: evaluation.score(method, sequences, metrics, warm_up=True, watch=watchers)}
    if any(each.targets for each in sequences):
        for name in options.baselines:
            scores[name] = evaluation.score(baselines.BASELINES[name], sequences, metrics)
    if outputs.worst is not None and any(scores.values()):
        worst.write(outputs.worst / f"{data_set.name}.png")
    return scores


def show(data_set: sources.DataSet, scores: Scores) -> None:
    """Print the card and the tables of a data set."""
    # For a file, rich assumes 80 columns, which would break names apart.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(tables.card(data_set, scores))
    if not any(scores.values()):
        console.print("No truth to score against; --predictions writes the frames.")
        return
    console.print(tables.of_methods(data_set, scores))
    if (by_sequence := tables.of_sequences(scores)) is not None:
        console.print(by_sequence)
