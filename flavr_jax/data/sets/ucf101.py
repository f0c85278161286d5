# SPDX-License-Identifier: Apache-2.0
"""The UCF101 interpolation set with four inputs (Xu et al., 2019), 320×240.

FLAVR's protocol: frames 0, 1, 2 and 3 are inputs, the frame between 1 and 2 is the target; the
centre crop is 224×224.
"""

from __future__ import annotations

from pathlib import Path

from flavr_jax.data.sequences import ImageClip, Sequence, subfolders

__all__ = ["LAYOUT", "read"]

LAYOUT = "1/frame0.png, frame1.png, framet.png, frame2.png, frame3.png"
_FRAMES = ("frame0.png", "frame1.png", "framet.png", "frame2.png", "frame3.png")


def read(root: Path) -> list[Sequence]:
    """Read one sequence with one window from each folder.

    Raises:
        FileNotFoundError: a folder lacks one of the five frames.
    """
    sequences = []
    for folder in subfolders(root, layout=LAYOUT):
        paths = tuple(folder / name for name in _FRAMES)
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder} lacks {', '.join(missing)}; the layout read is {LAYOUT}."
            )
        clip = ImageClip(folder.name, paths)
        sequences.append(Sequence(clip, 2, inputs=(0, 1, 3, 4), targets=((2,),)))
    return sequences
