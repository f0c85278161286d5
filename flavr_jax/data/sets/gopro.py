# SPDX-License-Identifier: Apache-2.0
"""GoPro (Nah et al., 2017): 33 clips of 240 frames a second, 1280×720.

FLAVR's protocol: every 4th or 8th frame is an input, and the 3 or 7 frames between the two middle
inputs are targets; a window begins at every input. It needs the release GOPRO_Large_all, which has
all frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flavr_jax.data.sequences import ImageClip, Sequence, images_of, regular, subfolders

__all__ = ["LAYOUT", "read"]

LAYOUT = "train/GOPR0372_07_00/000047.png and test/GOPR0384_11_00/000001.png (GOPRO_Large_all)"


def read(root: Path, split: Literal["train", "test"], factor: int) -> list[Sequence]:
    """Read the clips of a split.

    Raises:
        FileNotFoundError: there are no folders, or one holds no images.
    """
    sequences = []
    for folder in subfolders(root / split, layout=LAYOUT):
        frames = images_of(folder)
        if not frames:
            raise FileNotFoundError(f"{folder} holds no images; the layout read is {LAYOUT}.")
        sequences.append(regular(ImageClip(folder.name, frames), factor))
    return sequences
