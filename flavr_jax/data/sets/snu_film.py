# SPDX-License-Identifier: Apache-2.0
"""SNU-FILM (Choi et al., 2020): 310 triplets at each of four sizes of motion.

The lists name two inputs and the frame between them. FLAVR adds two outer inputs at three times the
distance from the target. Triplets without such frames are left out, as in FLAVR's code.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, TypeAlias

from flavr_jax.data.sequences import ImageClip, Sequence

__all__ = ["DISTANCES", "LAYOUT", "Level", "read"]

logger = logging.getLogger(__name__)

Level: TypeAlias = Literal["easy", "medium", "hard", "extreme"]
LAYOUT = "test-easy.txt … test-extreme.txt beside test/GOPRO_test/… and test/YouTube_test/…"
DISTANCES: dict[Level, int] = {"easy": 1, "medium": 2, "hard": 4, "extreme": 8}
"""Number of frames from an inner input to the target."""


def read(root: Path, level: Level) -> list[Sequence]:
    """Read one sequence with one window from each triplet.

    Raises:
        FileNotFoundError: the list is missing, or no triplet has all its frames.
    """
    listing = root / f"test-{level}.txt"
    if not listing.is_file():
        raise FileNotFoundError(f"{listing} is missing; the layout read is {LAYOUT}.")
    near = DISTANCES[level]
    triplets = [line.split() for line in listing.read_text().splitlines() if line.strip()]
    sequences = []
    for _, middle, _ in triplets:
        truth = _below_root(root, middle)
        paths = tuple(
            truth.with_name(f"{int(truth.stem) + shift:0{len(truth.stem)}d}{truth.suffix}")
            for shift in (-3 * near, -near, 0, near, 3 * near)
        )
        if int(truth.stem) >= 3 * near and all(path.is_file() for path in paths):
            clip = ImageClip(f"{truth.parent.name}/{truth.stem}", paths)
            sequences.append(Sequence(clip, 2, inputs=(0, 1, 3, 4), targets=((2,),)))
    if not sequences:
        raise FileNotFoundError(
            f"{root} has none of the {len(triplets)} samples of {listing.name} with its outer "
            f"inputs; the layout read is {LAYOUT}."
        )
    if len(sequences) < len(triplets):
        missing = len(triplets) - len(sequences)
        logger.warning("%d of %d triplets have no outer inputs", missing, len(triplets))
    return sequences


def _below_root(root: Path, entry: str) -> Path:
    """Return the path below ``root`` of a list's entry.

    Entries begin with folders of the list's author; the part from ``test`` on is kept.
    """
    parts = Path(entry).parts
    return root.joinpath(*parts[parts.index("test") if "test" in parts else 0 :])
