# SPDX-License-Identifier: Apache-2.0
"""Any folder of videos or images: users' own clips, one sequence for each shot.

A window across a cut has no true middle frame, so clips are split at cuts. The function that finds
cuts is an argument, because data modules import nothing from the timeline package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from flavr_jax.data.sequences import (
    Clip,
    ImageClip,
    Picture,
    Sequence,
    images_of,
    regular,
)
from flavr_jax.data.sets.video_clip import SUFFIXES, VideoClip

__all__ = ["LAYOUT", "CutFinder", "clips", "read"]

CutFinder: TypeAlias = Callable[[Iterable[Picture]], Iterable[int]]
"""Function from a clip's frames, in order, to the numbers of the frames that begin a new shot."""

LAYOUT = f"videos ({', '.join(SUFFIXES)}), folders of images, or images"


def read(
    root: Path, factor: int, *, pattern: str = "*", find_cuts: CutFinder | None = None
) -> list[Sequence]:
    """Read a sequence from each shot that is long enough for a window.

    Args:
        root: folder of clips, or one video file.
        factor: every ``factor``-th frame is an input.
        pattern: glob pattern of the entries to read.
        find_cuts: function that finds cuts; None takes each clip as one shot.

    Raises:
        FileNotFoundError: there are no clips, or none is long enough.
    """
    shortest = 3 * factor + 1
    sequences = []
    for clip in clips(root, pattern):
        for shot in _shots(clip, find_cuts):
            if len(shot) >= shortest:
                sequences.append(regular(shot, factor))
    if not sequences:
        raise FileNotFoundError(
            f"{root} holds no shot of {shortest} frames or more, which factor {factor} needs; "
            "choose a smaller factor or longer clips."
        )
    return sequences


def clips(root: Path, pattern: str = "*") -> list[VideoClip | ImageClip]:
    """Find the videos and folders of images in ``root``, or take its images as one clip.

    Raises:
        FileNotFoundError: there are no clips.
    """
    if root.is_file():
        return [VideoClip(root.stem, root)]
    entries = sorted(root.glob(pattern)) if root.is_dir() else []
    found: list[VideoClip | ImageClip] = []
    for entry in entries:
        if entry.is_dir() and (frames := images_of(entry)):
            found.append(ImageClip(entry.name, frames))
        elif entry.suffix.lower() in SUFFIXES:
            found.append(VideoClip(entry.stem, entry))
    if not found and root.is_dir() and pattern == "*" and (frames := images_of(root)):
        found.append(ImageClip(root.name, frames))
    if not found:
        which = "" if pattern == "*" else f" named {pattern}"
        raise FileNotFoundError(f"{root} holds no clips{which}; the layout read is {LAYOUT}.")
    return found


def _shots(clip: VideoClip | ImageClip, find_cuts: CutFinder | None) -> Iterator[Clip]:
    """Split a clip at its cuts; parts are numbered from 0."""
    cuts = [] if find_cuts is None else list(find_cuts(map(clip.read, range(len(clip)))))
    if not cuts:
        yield clip
        return
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(clip)], strict=True)):
        name = f"{clip.name}-{number:03d}"
        if isinstance(clip, VideoClip):
            yield clip.shot(name, start, stop)
        else:
            yield ImageClip(name, clip.paths[start:stop])
