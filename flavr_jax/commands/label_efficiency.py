# SPDX-License-Identifier: Apache-2.0
"""Measure how pretraining on interpolation helps action recognition, on synthetic clips."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import numpy as np
from tyro.conf import OmitArgPrefixes

from flavr_jax import program_cache
from flavr_jax.extras import install_command
from flavr_jax.partial import written_whole
from flavr_jax.training.label_efficiency import (
    Encoder,
    Pretrained,
    Programs,
    Result,
    Study,
    StudyConfig,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Options:
    """Train classifiers of 20 classes of motion with few and with many labels.

    Each classifier is trained twice: from an encoder that was pretrained by interpolating the same
    clips without labels, and from random parameters. If the output has results of the same study,
    only the missing classifiers are trained.
    """

    output: Path
    """JSON file for all results, written after each. A plot of the same name (.png) is drawn."""
    encoders: tuple[Encoder, ...] = ("r3d", "r2plus1d", "mc3")
    """Kinds of encoder."""
    shares: tuple[float, ...] = (1.0, 5.0, 10.0, 100.0)
    """Shares of the training clips that have labels, in percent."""
    seeds: int = 5
    """Number of classifiers for each row of the table."""
    minutes: float = 60.0
    """Start no further classifier after this time; the table has the finished ones."""
    study: Annotated[StudyConfig, OmitArgPrefixes] = dataclasses.field(default_factory=StudyConfig)
    """Sizes of networks, clips and training."""


def main(options: Options) -> None:
    """Print each result when it is there, and the table at the end."""
    if options.seeds < 1 or not all(0 < share <= 100 for share in options.shares):
        raise ValueError(
            f"`seeds` is {options.seeds} and `shares` {options.shares}; use 1 or more seeds and "
            "shares above 0 and up to 100."
        )
    values = _begun(options)
    program_cache.enable()
    began = time.monotonic()
    study = Study(options.study)
    compiling: dict[Encoder, Programs] = {
        encoder: study.compile(encoder) for encoder in options.encoders
    }
    values["psnr of averaged frames"] = study.blend()
    print(f"clips drawn after {time.monotonic() - began:.0f} s", flush=True)
    for line in _measure(options, study, compiling, values):
        print(f"{time.monotonic() - began:.0f} s: {line}", flush=True)
        # Written each time, so that an interrupted study keeps what it has.
        with written_whole(options.output) as path:
            path.write_text(json.dumps(values, indent=1) + "\n")
        if values["results"] and time.monotonic() - began > 60 * options.minutes:
            break
    print(table(values))
    plot(values, options.output.with_suffix(".png"))


def _begun(options: Options) -> dict[str, Any]:
    """Return the results that the output already has; none if it does not exist.

    Raises:
        ValueError: they belong to another study.
    """
    facts = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "study": json.loads(json.dumps(dataclasses.asdict(options.study))),
    }
    values = {**facts, "pretraining": {}, "results": []}
    try:
        if options.output.exists():
            values = json.loads(options.output.read_text())
        other = [name for name, fact in facts.items() if values[name] != fact]
        [Result(**row) for row in values["results"]]
    except (ValueError, KeyError, TypeError):
        other = ["format"]
    if other:
        raise ValueError(
            f"{options.output} has results of another {' and '.join(other)}; a study goes on with "
            "the same settings, device and version of jax. Use another --output."
        )
    return values


def _measure(
    options: Options,
    study: Study,
    compiling: dict[Encoder, Programs],
    values: dict[str, Any],
) -> Iterator[str]:
    """Pretrain each encoder and train its classifiers; yield a line for each value added."""
    shares = tuple(share / 100 for share in options.shares)
    for encoder, programs in compiling.items():
        rows = [row for row in values["results"] if row["encoder"] == encoder]
        known = [Result(**row) for row in rows]
        for result in study.results(encoder, programs, shares, options.seeds, known):
            if isinstance(result, Pretrained):
                psnr, seconds = result.psnr, result.seconds
                values["pretraining"][encoder] = {"psnr": psnr, "seconds": seconds}
                yield f"{encoder} interpolates at {psnr:.2f} dB after {seconds:.1f} s of training"
                continue
            values["results"].append(result._asdict())
            yield (
                f"{encoder} {'pretrained' if result.pretrained else 'random'}, "
                f"{result.labels} labels, seed {result.seed}, "
                f"learning rate {result.learning_rate:g}: {100 * result.accuracy:.1f} %"
            )


def table(values: dict[str, Any]) -> str:
    """Return a Markdown table: a row for each encoder and start, accuracies by number of labels."""
    groups = _groups(values)
    counts = sorted({labels for _, _, labels in groups})
    lines = [
        f"averaging two frames: {values['psnr of averaged frames']:.2f} dB",
        "",
        "| encoder | PSNR in dB | start | "
        + " | ".join(f"{count} labels" for count in counts)
        + " | seconds |",
        "| --- " * (4 + len(counts)) + "|",
    ]
    for encoder in _encoders(values):
        found = values["pretraining"].get(encoder)
        psnr = f"{found['psnr']:.2f}" if found else "—"
        for start in (False, True):
            rows = [groups.get((encoder, start, count), []) for count in counts]
            cells = [_mean_and_spread([row["accuracy"] for row in some]) for some in rows]
            seconds = [row["seconds"] for some in rows for row in some]
            lines.append(
                f"| {encoder} | {psnr} | "
                f"{'pretrained' if start else 'random'} | " + " | ".join(cells) + " | "
                f"{np.median(seconds) if seconds else float('nan'):.2f} |"
            )
    return "\n".join(lines)


def plot(values: dict[str, Any], path: Path) -> None:
    """Draw accuracy over the number of labels, a panel for each encoder.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(f"{path} needs matplotlib: {install_command('train')}.")
    with written_whole(path) as partial:
        _figure(values).savefig(partial, dpi=120, format="png")


def _figure(values: dict[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    groups, encoders = _groups(values), _encoders(values)
    figure = Figure(figsize=(3.2 * len(encoders), 3.4), layout="constrained")
    panels = figure.subplots(1, len(encoders), squeeze=False, sharey=True)[0]
    for axes, encoder in zip(panels, encoders):
        for start, label in ((False, "random"), (True, "pretrained")):
            counts = sorted(
                count for name, kind, count in groups if (name, kind) == (encoder, start)
            )
            found = [
                [100 * row["accuracy"] for row in groups[encoder, start, count]] for count in counts
            ]
            means, spreads = ([of(some) for some in found] for of in (np.mean, np.std))
            axes.errorbar(counts, means, spreads, marker="o", markersize=3, capsize=2, label=label)
        axes.set(xscale="log", xlabel="labelled clips", title=encoder)
        shown = sorted({count for name, _, count in groups if name == encoder})
        axes.set_xticks(shown, [str(count) for count in shown], fontsize="small")
        axes.minorticks_off()
    panels[0].set_ylabel("accuracy in %")
    # Above the panels, because inside of one it would cover curves.
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _encoders(values: dict[str, Any]) -> list[Encoder]:
    """Return the encoders that have results, in the order of their first one."""
    measured = [row["encoder"] for row in values["results"]]
    return list(dict.fromkeys([*values["pretraining"], *measured]))


def _groups(values: dict[str, Any]) -> dict[tuple[str, bool, int], list[dict[str, Any]]]:
    groups = defaultdict(list)
    for row in values["results"]:
        groups[row["encoder"], row["pretrained"], row["labels"]].append(row)
    return dict(groups)


def _mean_and_spread(accuracies: list[float]) -> str:
    """Format mean and standard deviation in percent."""
    if not accuracies:
        return "—"
    return f"{100 * np.mean(accuracies):.1f} ± {100 * np.std(accuracies):.1f}"
