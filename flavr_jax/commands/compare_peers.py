# SPDX-License-Identifier: Apache-2.0
"""Compare a checkpoint with RIFE in one run: ``flavr compare-peers CHECKPOINT --source CLIPS``."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

import flavr_jax
from flavr_jax import evaluation
from flavr_jax.config import Precision
from flavr_jax.data import sources
from flavr_jax.data.sequences import Sequence
from flavr_jax.evaluation import baselines, tables
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.partial import check_files, written_whole


@dataclasses.dataclass(frozen=True)
class Options:
    """Score a checkpoint and other methods on a data set, and time them on its first window.

    Times are of whole windows: with a factor of 8, of all seven frames. Methods take turns, so that
    a busy machine slows all of them down.
    """

    checkpoint: Positional[Path]
    """Checkpoint directory."""
    source: Path
    """Folder of the data set."""
    dataset: str = "davis-2x"
    """Data set to score on."""
    peers: tuple[str, ...] = ("rife-4.0",)
    """Methods to compare with: names of baselines as in flavr evaluate."""
    precision: Precision = "fp32"
    """Number format that the checkpoint computes in."""
    factors: tuple[int, ...] = (2, 8)
    """Factors to time."""
    repeats: int = 5
    """Timed runs of each method and factor; the median counts."""
    scores: bool = True
    """Score; --no-scores only times."""
    json: Path | None = None
    """File for the scores and times."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"`repeats` is {self.repeats}; use 1 or more.")


def main(options: Options) -> None:
    """Print the table of scores and the table of times."""
    baselines.check(options.peers)
    check_files(options.json)
    data_set = sources.data_set(options.dataset)
    sequences = data_set.read(options.source)
    network = flavr_jax.load(options.checkpoint, precision=options.precision)
    title = f"{options.checkpoint.name} ({network.precision})"
    console = Console(width=120)
    report: dict[str, object] = {}
    if options.scores:
        metrics = {**evaluation.METRICS, "lpips": evaluation.perceptual_metric()}
        methods = {
            title: evaluation.method_of_network(
                network.predict, network.config.n_outputs, network.precision
            ),
            **{name: baselines.BASELINES[name] for name in options.peers},
        }
        scores = {
            name: evaluation.score(method, sequences, metrics, warm_up=True)
            for name, method in methods.items()
        }
        console.print(tables.card(data_set, scores))
        console.print(tables.of_methods(data_set, scores))
        report["scores"] = tables.as_json(data_set, scores)
    methods = {title: made_by(network), **{n: baselines.BASELINES[n] for n in options.peers}}
    times = {
        factor: seconds(methods, sequences[0], factor, options.repeats)
        for factor in options.factors
    }
    console.print(table_of(times, title))
    report["seconds per window"] = times
    if options.json is not None:
        with written_whole(options.json) as partial:
            partial.write_text(json.dumps(report, indent=2) + "\n")


def made_by(network: Interpolator) -> evaluation.Method:
    """Return the network as users run it: it computes the wanted frames only, in 8 bits."""
    return lambda sequence: (
        np.asarray(network.between(window, sequence.factor))[0] for window in sequence.windows()
    )


def seconds(
    methods: dict[str, evaluation.Method], sequence: Sequence, factor: int, repeats: int
) -> dict[str, float]:
    """Time each method on the first window of a sequence, and return the medians in seconds.

    Args:
        methods: methods by name.
        sequence: where the window comes from.
        factor: how many times the frame rate to make of it.
        repeats: timed runs after a first one, in which programs are compiled.
    """
    one = dataclasses.replace(sequence, factor=factor, inputs=sequence.inputs[:4], targets=())
    held = dataclasses.replace(one, clip=_Held(one))
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for run in range(repeats + 1):
        for name, method in methods.items():
            spent = _elapsed(lambda method=method: list(method(held)))
            if run:
                taken[name].append(spent)
    return {name: statistics.median(of) for name, of in taken.items()}


def table_of(times: dict[int, dict[str, float]], reference: str) -> Table:
    """Return a table of times, absolute and relative to the reference's."""
    table = Table(title="seconds per window (times the checkpoint's)", title_justify="left")
    table.add_column("method")
    for factor in times:
        table.add_column(f"{factor}×", justify="right")
    for name in next(iter(times.values()), {}):
        cells = [f"{of[name]:.3f} ({of[name] / of[reference]:.2f})" for of in times.values()]
        table.add_row(name, *cells)
    return table


class _Held:
    """A clip whose frames of one sequence were read beforehand: times are without reading."""

    def __init__(self, sequence: Sequence) -> None:
        self.name = sequence.clip.name
        self._frames = {index: sequence.clip.read(index) for index in sequence.inputs}
        self._length = len(sequence.clip)

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> np.ndarray:
        return self._frames[index]

    def encoded(self, index: int) -> bytes:
        raise NotImplementedError


def _elapsed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
