# SPDX-License-Identifier: Apache-2.0
"""Adobe240 (Su et al., 2017): hand-held video, 240 frames a second, 1280×720.

The data set is released as videos; FLAVR's code first extracts windows of 25 frames from them. This
module reads both forms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flavr_jax.data.sequences import Sequence
from flavr_jax.data.sets import folder

__all__ = ["LAYOUT", "read"]

LAYOUT = (
    "train/…/*.png and test/…/*.png (extracted frames, a folder a clip), or "
    "original_high_fps_videos/*.mov, with test_list.txt and train_list.txt naming the videos"
)


def read(root: Path, split: Literal["train", "test"], factor: int = 8) -> list[Sequence]:
    """Read a split: extracted frames if there are any, else the videos of the split's list.

    Without a list, all videos are read.

    Raises:
        FileNotFoundError: there are neither frames nor videos, or a listed video is missing.
    """
    if (root / split).is_dir():
        return folder.read(root / split, factor)
    videos = root / "original_high_fps_videos"
    if not videos.is_dir():
        raise FileNotFoundError(f"{root} is not Adobe240; the layout read is {LAYOUT}.")
    sequences = folder.read(videos, factor)
    listing = root / f"{split}_list.txt"
    if not listing.is_file():
        return sequences
    wanted = {Path(name).stem for name in listing.read_text().split()}
    if missing := sorted(wanted - {sequence.clip.name for sequence in sequences}):
        raise FileNotFoundError(f"{videos} lacks {', '.join(missing)}, which {listing} names.")
    return [sequence for sequence in sequences if sequence.clip.name in wanted]
