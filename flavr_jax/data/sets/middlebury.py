# SPDX-License-Identifier: Apache-2.0
"""Middlebury (Baker et al., 2011): the frame between frames 10 and 11 of a dozen scenes.

FLAVR is given frames 09 to 12. Scenes of two frames only (Dimetrodon, Venus, Army …) have no such
window and are left out. The truth of the evaluation half is not public: predictions are handed in.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from flavr_jax.data.sequences import ImageClip, Sequence, subfolders

__all__ = ["LAYOUTS", "read"]

logger = logging.getLogger(__name__)

LAYOUTS = {
    "other": "other-data/Urban2/frame09.png … frame12.png, other-gt-interp/Urban2/frame10i11.png",
    "evaluation": "eval-data/Urban/frame09.png … frame12.png",
}


def read(root: Path, half: Literal["other", "evaluation"]) -> list[Sequence]:
    """One sequence of a single window a scene; those of ``evaluation`` have no targets.

    Raises:
        FileNotFoundError: when there are no scenes, or none with the four inputs and the truth.
    """
    layout = LAYOUTS[half]
    sequences, left_out = [], []
    for folder in subfolders(root / layout.split("/")[0], layout=layout):
        inputs = [folder / f"frame{number:02d}.png" for number in range(9, 13)]
        truth = root / "other-gt-interp" / folder.name / "frame10i11.png"
        if not all(path.is_file() for path in inputs) or (half == "other" and not truth.is_file()):
            left_out.append(folder.name)
        elif half == "other":
            clip = ImageClip(folder.name, (*inputs[:2], truth, *inputs[2:]))
            sequences.append(Sequence(clip, 2, inputs=(0, 1, 3, 4), targets=((2,),)))
        else:
            clip = ImageClip(folder.name, tuple(inputs))
            sequences.append(Sequence(clip, 2, inputs=(0, 1, 2, 3), targets=()))
    if not sequences:
        raise FileNotFoundError(
            f"{root} has no scene with frames 09 to 12; the layout is {layout}."
        )
    if left_out:
        logger.warning("left out, without frames 09 to 12 or truth: %s", ", ".join(left_out))
    return sequences
