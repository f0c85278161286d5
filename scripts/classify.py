# SPDX-License-Identifier: Apache-2.0
"""Say what happens in clips: ``scripts/classify.py clip.mp4 --checkpoint CLASSIFIER``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from flavr_jax import cli
from flavr_jax.inference import recognise


@dataclasses.dataclass(frozen=True)
class Options:
    """Print the likeliest classes of clips."""

    clips: Positional[tuple[Path, ...]]
    """Videos, or folders of images."""
    checkpoint: Path
    """A classifier that scripts/train.py configs/classify_ucf101.toml made."""
    top: int = 5
    """How many classes a clip."""


def main(options: Options) -> None:
    """Print a line a clip."""
    if missing := [path for path in options.clips if not path.exists()]:
        raise FileNotFoundError(f"{missing[0]} does not exist; name videos or folders of images.")
    found = recognise.recognise(options.checkpoint, list(options.clips), options.top)
    for path, classes in zip(options.clips, found):
        print(f"{path}: " + ", ".join(f"{name} {chance:.1%}" for name, chance in classes))


if __name__ == "__main__":
    cli.run(main, Options)
