# SPDX-License-Identifier: Apache-2.0
"""Classify clips: ``flavr classify clip.mp4 --checkpoint CLASSIFIER``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from flavr_jax.inference import recognise


@dataclasses.dataclass(frozen=True)
class Options:
    """Print the most probable classes of each clip."""

    clips: Positional[tuple[Path, ...]]
    """Videos, or folders of images."""
    checkpoint: Path
    """Checkpoint directory of a classifier, such as one trained by flavr train with
    configs/classify_ucf101.toml."""
    top: int = 5
    """Number of classes to print for each clip."""


def main(options: Options) -> None:
    """Print a line for each clip: its classes and their probabilities."""
    if missing := [path for path in options.clips if not path.exists()]:
        raise FileNotFoundError(f"{missing[0]} does not exist; name videos or folders of images.")
    found = recognise.recognise(options.checkpoint, list(options.clips), options.top)
    for path, classes in zip(options.clips, found):
        print(f"{path}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in classes))
