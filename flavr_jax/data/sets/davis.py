# SPDX-License-Identifier: Apache-2.0
"""DAVIS (Perazzi et al., 2016): 24 frames a second, 854×480, large and complex motion.

FLAVR is given every second frame and asked for the others, in the centre 480×840 pixels.
"""

from __future__ import annotations

from pathlib import Path

from flavr_jax.data.sequences import ImageClip, Sequence, images_of, regular, subfolders

__all__ = ["LAYOUT", "read"]

LAYOUT = "JPEGImages/480p/blackswan/00000.jpg and ImageSets/2016/val.txt, or folders of frames"
# The releases of 2016 and 2017 keep their lists in different places.
_LISTS = ("ImageSets/2016/val.txt", "ImageSets/480p/val.txt", "ImageSets/2017/val.txt")


def read(root: Path, factor: int = 2) -> list[Sequence]:
    """The 20 sequences of the 2016 validation set, or every folder of frames of a plain folder.

    Raises:
        FileNotFoundError: when neither is there, or a sequence has no frames.
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
    """Sequence names, each once: lists name sequences, or (in 2016) an image and a mask a line."""
    first = (line.split()[0] for line in listing.read_text().splitlines() if line.strip())
    return list(dict.fromkeys(Path(entry).parent.name or entry for entry in first))
