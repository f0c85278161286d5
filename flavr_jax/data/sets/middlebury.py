# SPDX-License-Identifier: Apache-2.0
"""Middlebury (Baker et al., 2011): the frame between frames 10 and 11 of a dozen scenes.

FLAVR needs frames 09 to 12 as inputs. Scenes with only two frames (Dimetrodon, Venus, Army …) are
left out. The true frames of the evaluation half are not public: predictions are submitted to the
benchmark.
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
    """Read one sequence with one window from each scene; ``evaluation`` has no targets.

    Raises:
        FileNotFoundError: no scene has the four inputs and, in ``other``, the true frame.
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
        logger.warning("left out, no frames 09 to 12 or no true frame: %s", ", ".join(left_out))
    return sequences
