# SPDX-License-Identifier: Apache-2.0
"""Any folder of videos or of frames: no official layout, one sequence a shot.

Videos cut from one scene to another; a window across a cut asks for a frame that never was. What
finds the cuts is an argument, for reading clips is one thing and judging them another.
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
"""The numbers of the frames that begin a new scene, from the frames of a clip in order."""

LAYOUT = f"videos ({', '.join(SUFFIXES)}), folders of images, or images"


def read(
    root: Path, factor: int, *, pattern: str = "*", find_cuts: CutFinder | None = None
) -> list[Sequence]:
    """A sequence for each shot long enough to have a window.

    Args:
        root: the folder, or one video.
        factor: every ``factor``-th frame is an input.
        pattern: which entries of the folder count.
        find_cuts: splits clips into shots; without it each is one shot.

    Raises:
        FileNotFoundError: when there is no clip, or none is long enough.
    """
    shortest = 3 * factor + 1
    sequences = []
    for clip in clips(root, pattern):
        for shot in _shots(clip, find_cuts):
            if len(shot) >= shortest:
                sequences.append(regular(shot, factor))
    if not sequences:
        raise FileNotFoundError(
            f"{root} holds no shot of {shortest} frames or more; factor {factor} needs so many."
        )
    return sequences


def clips(root: Path, pattern: str = "*") -> list[VideoClip | ImageClip]:
    """The videos and image folders in a folder by name, or the images in it as one clip.

    Raises:
        FileNotFoundError: when there are none.
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
    """The parts of a clip between cuts, numbered from 0."""
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
