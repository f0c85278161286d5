# SPDX-License-Identifier: Apache-2.0
"""GoPro (Nah et al., 2017): 33 clips of 240 frames a second, 1280×720.

FLAVR takes every 4th or 8th frame and asks for the 3 or 7 between the two middle ones; windows
begin at every input. The release meant is GOPRO_Large_all, the one that keeps all frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flavr_jax.data.sequences import ImageClip, Sequence, images_of, regular, subfolders

__all__ = ["LAYOUT", "read"]

LAYOUT = "train/GOPR0372_07_00/000047.png and test/GOPR0384_11_00/000001.png (GOPRO_Large_all)"


def read(root: Path, split: Literal["train", "test"], factor: int) -> list[Sequence]:
    """The clips of a split.

    Raises:
        FileNotFoundError: when the folders are not there, or one holds no images.
    """
    sequences = []
    for folder in subfolders(root / split, layout=LAYOUT):
        frames = images_of(folder)
        if not frames:
            raise FileNotFoundError(f"{folder} holds no images; the layout read is {LAYOUT}.")
        sequences.append(regular(ImageClip(folder.name, frames), factor))
    return sequences
