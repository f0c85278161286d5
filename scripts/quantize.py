# SPDX-License-Identifier: Apache-2.0
"""Calibrate a checkpoint for 8 bits: ``scripts/quantize.py CHECKPOINT --output DIR``."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console

from flavr_jax import checkpoint, cli
from flavr_jax.quantization import calibration, clips
from flavr_jax.quantization.calibration import Limits


@dataclasses.dataclass(frozen=True)
class Options:
    """Choose which feature maps of a network are stored in 8 bits, and on what scale.

    The result is a checkpoint for --precision fp8. Other precisions are as before.
    """

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint directory."""
    output: Path
    """Where the checkpoint with scales goes; CHECKPOINT itself gets them added."""
    calibration: tuple[Path, ...] = ()
    """Videos, folders of frames, or folders of either; synthetic windows if left out."""
    windows: int = 4
    """How many of each clip are looked at."""
    synthetic: int = 12
    """How many are drawn where no clips are given."""
    size: tuple[int, int] = (256, 256)
    """Height and width cut from the centre of frames."""
    limits: tyro.conf.OmitArgPrefixes[Limits] = dataclasses.field(default_factory=Limits)
    """What may be lost on these clips."""
    like: Path | None = None
    """Calibrated checkpoint of such a network: its choice is taken if within the limits."""
    overwrite: bool = False
    """Replace OUTPUT if it exists."""


def main(options: Options) -> None:
    """Calibrate, measure, choose, write and report."""
    stored = checkpoint.load(options.checkpoint)
    adds = options.output.resolve() == options.checkpoint.resolve()
    if options.output.exists() and not adds and not options.overwrite:
        raise FileExistsError(f"{options.output} exists; choose another or pass --overwrite.")
    like = None if options.like is None else checkpoint.load(options.like).quantization
    if options.like and not like:
        raise ValueError(f"{options.like} has no choice to take: calibrate it, or omit --like.")
    config, size = stored.config, (options.size[0] // 8 * 8, options.size[1] // 8 * 8)
    if options.windows < 1 or options.synthetic < 1 or not all(size):
        raise ValueError("`windows` and `synthetic` have to be 1 or more, and `size` 8 8 or more.")
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), stored.params)
    if options.calibration:
        examples = clips.of_clips(
            options.calibration, config.n_inputs, config.n_outputs,
            windows=options.windows, size=size,
        )  # fmt: skip
    else:
        examples = clips.drawn(
            config.n_inputs, config.n_outputs, count=options.synthetic, size=size
        )
    windows = [*(each.inputs for each in examples), *clips.extremes(config.n_inputs, size)]
    magnitudes = calibration.largest(config, params, windows)
    report = calibration.choose(
        config, magnitudes, calibration.losses(config, params, examples), options.limits,
        like=like and like.scales,
        track=functools.partial(cli.track, total=len(magnitudes), unit="maps"),
    )  # fmt: skip
    # A file has no width of its own; 80 columns would break names apart.
    Console(width=None if sys.stdout.isatty() else 120).print(report.table())
    if not report.scales:
        raise ValueError(
            "no feature map can be stored in 8 bits within a loss of "
            f"{options.limits.mean_loss} dB on average and {options.limits.worst_loss} dB on the "
            "worst clip; allow more, or use bf16."
        )
    quantization = checkpoint.Quantization(report.scales, _provenance(options, examples, report))
    if adds:
        checkpoint.add_quantization(options.output, quantization)
    else:
        checkpoint.save(
            options.output, config, stored.params, provenance=stored.provenance,
            quantization=quantization, overwrite=options.overwrite,
        )  # fmt: skip
    print(
        f"{options.output}: {len(report.scales)} of {len(report.maps)} feature maps and "
        f"{report.share:.0%} of the products in 8 bits; lost {report.chosen.mean:.4f} dB on "
        f"average, {report.chosen.worst:.4f} on the worst clip."
    )


def _provenance(
    options: Options, examples: list[clips.Example], report: calibration.Report
) -> dict[str, object]:
    return {
        "date": datetime.date.today().isoformat(),
        "clips": sorted({each.clip for each in examples}) if options.calibration else "synthetic",
        "windows": len(examples),
        "size": list(options.size),
        "limits": dataclasses.asdict(options.limits),
        "like": None if options.like is None else str(options.like),
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__},
        **report.as_json(),
    }


if __name__ == "__main__":
    cli.run(main, Options)
