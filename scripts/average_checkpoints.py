# SPDX-License-Identifier: Apache-2.0
"""Average networks' parameters: ``scripts/average_checkpoints.py SHARP EVEN --output DIR``."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

from tyro.conf import Positional

from flavr_jax import checkpoint, cli


@dataclasses.dataclass(frozen=True)
class Options:
    """Write the mean of checkpoints of one network that were trained on from one another.

    The mean of one with a high PSNR and one with a low LPIPS is a dial between the two.
    """

    checkpoints: Positional[tuple[Path, ...]]
    """Checkpoint directories, two or more."""
    output: Path
    """Where the mean goes."""
    weights: tuple[float, ...] = ()
    """One for each checkpoint, of sum 1; without them all count the same."""
    overwrite: bool = False
    """Replace OUTPUT if it exists."""


def main(options: Options) -> None:
    """Read, average and write."""
    count = len(options.checkpoints)
    if count < 2:
        raise ValueError(f"a mean is of two checkpoints or more, not of {count}; name them.")
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
        options.output, stored[0].config, params, provenance=provenance,
        overwrite=options.overwrite,
    )  # fmt: skip
    parts = ", ".join(
        f"{weight:.4g} of {path}" for path, weight in zip(options.checkpoints, weights)
    )
    print(f"{options.output}: {parts}. Scales for 8 bits are measured anew by scripts/quantize.py.")


if __name__ == "__main__":
    cli.run(main, Options)
