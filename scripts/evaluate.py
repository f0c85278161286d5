# SPDX-License-Identifier: Apache-2.0
"""Score a checkpoint and the baselines: ``scripts/evaluate.py CHECKPOINT --source DIR``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

import flavr_jax
from flavr_jax import cli, evaluation
from flavr_jax.data import baselines
from flavr_jax.data.protocols import PROTOCOLS


@dataclasses.dataclass(frozen=True)
class Options:
    """Score a checkpoint and the baselines under FLAVR's protocols."""

    checkpoint: Positional[Path]
    """Checkpoint directory."""
    source: Path
    """Folder of evaluation clips: davis_*.mp4, fps60_*.mp4."""
    protocol: tuple[str, ...] = ("davis-2x", "fps60-2x", "fps60-4x", "fps60-8x")
    """Which protocols; one that asks for a higher factor than the network's is an error."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in."""
    boundary: bool = False
    """Instead, compare how frames beyond a clip's ends are made up, on its end intervals."""
    minterpolate: bool = True
    """Also score ffmpeg's minterpolate, where PyAV has it; about 2 seconds a sequence."""
    json: Path | None = None
    """Write the scores there, of every sequence."""


def main(options: Options) -> None:
    """Print one table a protocol."""
    unknown = sorted(set(options.protocol) - set(PROTOCOLS))
    if unknown:
        raise ValueError(
            f"unknown protocol {', '.join(unknown)}; known are {', '.join(PROTOCOLS)}."
        )
    network = flavr_jax.load(options.checkpoint, dtype=options.dtype)
    n_outputs = network.config.n_outputs
    title = f"{options.checkpoint.name} ({options.dtype})"
    methods = {
        title: evaluation.method_of_network(network.predict, n_outputs),
        "frame averaging": baselines.average,
    }
    if options.minterpolate and baselines.has_minterpolate():
        methods["ffmpeg minterpolate"] = baselines.minterpolate

    console = Console()
    report: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for name in options.protocol:
        protocol = PROTOCOLS[name]
        if options.boundary:
            scores = evaluation.score_boundaries(
                network.predict, n_outputs, protocol, options.source
            )
        else:
            scores = {
                method: evaluation.score(predict, protocol, options.source)
                for method, predict in methods.items()
            }
        console.print(_table(name, scores))
        report[name] = {
            method: {
                sequence: dataclasses.asdict(score)
                for sequence, score in {**of_method, "mean": evaluation.mean(of_method)}.items()
            }
            for method, of_method in scores.items()
        }
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _table(protocol: str, scores: dict[str, dict[str, evaluation.Score]]) -> Table:
    """A row a sequence, a column a method; the means last."""
    table = Table(title=f"{protocol}: PSNR in dB, per frame, then the mean", title_justify="left")
    table.add_column("sequence")
    for method in scores:
        table.add_column(method, justify="right")
    for name in next(iter(scores.values())):
        table.add_row(name, *(f"{of[name].psnr_flavr:.2f}" for of in scores.values()))
    means = [evaluation.mean(of_method) for of_method in scores.values()]
    table.add_section()
    table.add_row("mean", *(f"{mean.psnr_flavr:.2f}" for mean in means))
    table.add_row("mean, 8-bit frames", *(f"{mean.psnr_uint8:.2f}" for mean in means))
    return table


if __name__ == "__main__":
    cli.run(main, Options)
