# SPDX-License-Identifier: Apache-2.0
"""Average the parameters of checkpoints: ``flavr average-checkpoints A B --output DIR``."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

from tyro.conf import Positional

from flavr_jax import checkpoint


@dataclasses.dataclass(frozen=True)
class Options:
    """Average the parameters of checkpoints that were fine-tuned from one another.

    The mean of a checkpoint with a high PSNR and one with a low LPIPS scores between the two; the
    weights set the balance.
    """

    checkpoints: Positional[tuple[Path, ...]]
    """Checkpoint directories, two or more."""
    output: Path
    """Directory for the mean."""
    weights: tuple[float, ...] = ()
    """Weight of each checkpoint; their sum must be 1. By default all are equal."""
    overwrite: bool = False
    """Replace OUTPUT if it exists."""


def main(options: Options) -> None:
    """Write the mean of the checkpoints, and print its parts."""
    count = len(options.checkpoints)
    if count < 2:
        raise ValueError(f"a mean needs two checkpoints or more, not {count}; name them.")
    weights = options.weights or (1 / count,) * count
    stored = [checkpoint.load(path) for path in options.checkpoints]
    params = checkpoint.average(stored, weights)
    provenance = {
        "date": datetime.date.today().isoformat(),
        "mean of": [
            {"checkpoint": path.name, "weight": weight, "provenance": each.provenance}
            for path, weight, each in zip(options.checkpoints, weights, stored)
        ],
    }
    checkpoint.save(
        options.output,
        stored[0].config,
        params,
        provenance=provenance,
        overwrite=options.overwrite,
    )
    parts = ", ".join(
        f"{weight:.4g} of {path}" for path, weight in zip(options.checkpoints, weights)
    )
    print(f"{options.output}: {parts}. It has no scales for 8 bits; flavr quantize adds them.")
