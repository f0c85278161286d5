# SPDX-License-Identifier: Apache-2.0
"""X-TEST of X4K1000FPS (Sim et al., 2021): 15 clips of 33 frames, 4096×2160, extreme motion.

The first and the last frame are the inputs, and seven frames between them are targets. The outer
inputs of a network with four inputs do not exist. As at the ends of any clip, they are mirrored in
time: each outer input is the inner input on the other side.
"""

from __future__ import annotations

from pathlib import Path

from flavr_jax.data.sequences import ImageClip, Sequence, images_of, subfolders

__all__ = ["LAYOUT", "read"]

LAYOUT = "test/Type1/TEST01_003_f0433/0000.png … 0032.png"
_FRAMES = 33


def read(root: Path, factor: int = 8) -> list[Sequence]:
    """Read one sequence with one window from each clip.

    Raises:
        FileNotFoundError: there are no clips.
        ValueError: a clip does not have 33 frames.
    """
    top = root / "test" if (root / "test").is_dir() else root
    sequences = []
    for kind in subfolders(top, layout=LAYOUT):
        for folder in subfolders(kind, layout=LAYOUT):
            clip = ImageClip(f"{kind.name}/{folder.name}", images_of(folder))
            if len(clip) != _FRAMES:
                raise ValueError(
                    f"{folder} holds {len(clip)} images, not {_FRAMES}; the layout is {LAYOUT}."
                )
            step = (_FRAMES - 1) // factor
            targets = tuple(range(step, _FRAMES - 1, step))
            sequences.append(
                Sequence(clip, factor, inputs=(_FRAMES - 1, 0, _FRAMES - 1, 0), targets=(targets,))
            )
    return sequences
