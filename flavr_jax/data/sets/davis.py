# SPDX-License-Identifier: Apache-2.0
"""DAVIS (Perazzi et al., 2016): 24 frames a second, 854×480, large and complex motion.

FLAVR's protocol: every second frame is an input, the frames between are targets; the centre crop is
480 pixels high and 840 wide.
"""

from __future__ import annotations

from pathlib import Path

from flavr_jax.data.sequences import ImageClip, Sequence, images_of, regular, subfolders

__all__ = ["LAYOUT", "read"]

LAYOUT = "JPEGImages/480p/blackswan/00000.jpg and ImageSets/2016/val.txt, or folders of frames"
# The releases of 2016 and 2017 keep their lists in different places.
_LISTS = ("ImageSets/2016/val.txt", "ImageSets/480p/val.txt", "ImageSets/2017/val.txt")


def read(root: Path, factor: int = 2) -> list[Sequence]:
    """Read the 20 sequences of the 2016 validation set, or all folders of frames in ``root``.

    Raises:
        FileNotFoundError: there are no folders of frames, or one is empty.
    """
    frames = root / "JPEGImages" / "480p"
    listing = next((root / path for path in _LISTS if (root / path).is_file()), None)
    if frames.is_dir() and listing is not None:
        folders = [frames / name for name in _names(listing)]
    else:
        folders = subfolders(frames if frames.is_dir() else root, layout=LAYOUT)
    sequences = []
    for folder in folders:
        paths = images_of(folder) if folder.is_dir() else ()
        if not paths:
            raise FileNotFoundError(f"{folder} holds no frames; the layout read is {LAYOUT}.")
        sequences.append(regular(ImageClip(folder.name, paths), factor))
    return sequences


def _names(listing: Path) -> list[str]:
    """Read the sequence names from a list, without repetitions.

    A line is a sequence name or, in the 2016 release, the paths of an image and its mask.
    """
    first = (line.split()[0] for line in listing.read_text().splitlines() if line.strip())
    return list(dict.fromkeys(Path(entry).parent.name or entry for entry in first))
