# SPDX-License-Identifier: Apache-2.0
"""Calibrate a checkpoint for 8 bits: ``flavr quantize CHECKPOINT --output DIR``."""

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
from flavr_jax.config import ModelConfig
from flavr_jax.quantization import calibration, choice, clips, report
from flavr_jax.quantization.choice import Limits, Selection


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips to measure scales and losses on."""

    calibration: tuple[Path, ...] = ()
    """Videos, folders of frames, or folders of either; by default, windows are synthetic."""
    windows: int = 4
    """Number of windows to take from each clip."""
    synthetic: int = 12
    """Number of synthetic windows to draw if no clips are given."""
    size: tuple[int, int] = (256, 256)
    """Height and width in pixels of the crop from the centre of frames."""

    def crop(self, config: ModelConfig) -> tuple[int, int]:
        """Return ``size`` rounded down to the multiples of pixels that a network takes."""
        multiple = config.multiple
        return self.size[0] // multiple * multiple, self.size[1] // multiple * multiple

    def check(self, config: ModelConfig) -> None:
        """Raise a ValueError if there is nothing to measure."""
        least = config.multiple
        if self.windows < 1 or self.synthetic < 1 or min(self.size) < least:
            raise ValueError(
                "`windows` and `synthetic` have to be 1 or more, and `size` "
                f"{least} {least} or more for this network."
            )

    def examples(self, config: ModelConfig) -> list[clips.Example]:
        """Return windows with their true frames, cut from the clips or drawn."""
        inputs, outputs = config.n_inputs, config.n_outputs
        if self.calibration:
            return clips.of_clips(
                self.calibration,
                inputs,
                outputs,
                windows=self.windows,
                size=self.crop(config),
                multiple=config.multiple,
            )
        return clips.drawn(inputs, outputs, count=self.synthetic, size=self.crop(config))


@dataclasses.dataclass(frozen=True)
class Options:
    """Choose which feature maps of a network are stored in 8 bits, and the scale of each.

    The resulting checkpoint can run with --precision fp8; its other precisions do not change.
    """

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint directory."""
    output: Path
    """Directory for the checkpoint with scales. If it is CHECKPOINT itself, the scales are added
    there."""
    overwrite: bool = False
    """Replace OUTPUT if it exists."""
    like: Path | None = None
    """Calibrated checkpoint of a similar network. If its choice of maps stays within the limits, it
    is taken without a search, which is much faster."""
    clips: tyro.conf.OmitArgPrefixes[Clips] = dataclasses.field(default_factory=Clips)
    """Clips to measure scales and losses on."""
    limits: tyro.conf.OmitArgPrefixes[Limits] = dataclasses.field(default_factory=Limits)
    """Largest loss of PSNR on these clips, in dB."""


def main(options: Options) -> None:
    """Measure the feature maps, choose those in 8 bits, print a table and write the checkpoint."""
    stored = checkpoint.load(options.checkpoint)
    adds = options.output.resolve() == options.checkpoint.resolve()
    if options.output.exists() and not adds and not options.overwrite:
        raise FileExistsError(f"{options.output} exists; choose another or pass --overwrite.")
    config = stored.config
    options.clips.check(config)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), stored.params)
    like = None if options.like is None else _maps_in_8_bits(options.like)
    examples = options.clips.examples(config)
    extremes = clips.extremes(config.n_inputs, options.clips.crop(config))
    windows = [*(each.inputs for each in examples), *extremes]
    magnitudes = calibration.largest_magnitudes(config, params, windows)
    selection = choice.choose(
        config,
        magnitudes,
        calibration.psnr_losses(config, params, examples),
        options.limits,
        like=like,
        track=functools.partial(cli.track, total=len(magnitudes), unit="maps"),
    )
    # For a file, rich assumes 80 columns, which would break names apart.
    Console(width=None if sys.stdout.isatty() else 120).print(report.table(selection))
    if not selection.scales:
        raise ValueError(
            "no feature map can be stored in 8 bits within a loss of "
            f"{options.limits.mean_loss} dB on average and {options.limits.worst_loss} dB on the "
            "worst clip; allow more, or use bf16."
        )
    quantization = checkpoint.Quantization(
        selection.scales, _provenance(options, examples, selection)
    )
    if adds:
        checkpoint.add_quantization(options.output, quantization)
    else:
        checkpoint.save(
            options.output,
            config,
            stored.params,
            provenance=stored.provenance,
            quantization=quantization,
            overwrite=options.overwrite,
        )
    print(
        f"{options.output}: {len(selection.scales)} of {len(selection.maps)} feature maps and "
        f"{selection.share:.0%} of the products in 8 bits; lost {selection.chosen.mean:.4f} dB on "
        f"average, {selection.chosen.worst:.4f} on the worst clip."
    )


def _maps_in_8_bits(path: Path) -> dict[str, float]:
    """Return the scales of a calibrated checkpoint."""
    quantization = checkpoint.load(path).quantization
    if quantization is None:
        raise ValueError(f"{path} has no choice to take: calibrate it, or omit --like.")
    return quantization.scales


def _provenance(
    options: Options, examples: list[clips.Example], selection: Selection
) -> dict[str, object]:
    """Return the origin of the scales: clips, limits, device and versions, as JSON values."""
    of_clips = bool(options.clips.calibration)
    return {
        "date": datetime.date.today().isoformat(),
        "clips": sorted({each.clip for each in examples}) if of_clips else "synthetic",
        "windows": len(examples),
        "size": list(options.clips.size),
        "limits": dataclasses.asdict(options.limits),
        "like": None if options.like is None else str(options.like),
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__},
        **report.as_json(selection),
    }
