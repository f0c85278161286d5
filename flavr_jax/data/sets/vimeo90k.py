# SPDX-License-Identifier: Apache-2.0
"""Vimeo-90K septuplets (Xue et al., 2019): 91,701 clips of seven frames, 448×256.

FLAVR's protocol: frames 1, 3, 5 and 7 are inputs, frame 4 is the target.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flavr_jax.data.sequences import ImageClip, Sequence, regular

__all__ = ["LAYOUT", "read"]

LAYOUT = "sequences/00001/0001/im1.png … im7.png beside sep_trainlist.txt and sep_testlist.txt"


def read(root: Path, split: Literal["train", "test"]) -> list[Sequence]:
    """Read the septuplets in the official list of a split, in its order.

    Raises:
        FileNotFoundError: the list is missing or empty.
    """
    listing = root / f"sep_{split}list.txt"
    if not listing.is_file():
        raise FileNotFoundError(f"{listing} is missing; the layout read is {LAYOUT}.")
    names = listing.read_text().split()
    if not names:
        raise FileNotFoundError(f"{listing} names no clips; the layout read is {LAYOUT}.")
    return [regular(_septuplet(root, name), 2) for name in names]


def _septuplet(root: Path, name: str) -> ImageClip:
    folder = root / "sequences" / name
    return ImageClip(name, tuple(folder / f"im{number}.png" for number in range(1, 8)))
