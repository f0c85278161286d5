# SPDX-License-Identifier: Apache-2.0
"""Dithering of interpolated frames like the originals around them, so that they do not flicker.

A GIF of a photograph consists of dots in a few colours. A network averages the dots away, and
alternating dotted and smooth frames would flicker. Interpolated frames are therefore dithered by
error diffusion in the originals' colours, and where nothing moves they get the originals' dots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import av
import numpy as np

from flavr_jax.typing import Frame

__all__ = ["PalettePicture", "is_dithered", "with_still_dots"]

_COLOURS = 256
# Share of pixels that lie between two equal neighbours of another colour: 0.1 to 0.4 in visibly
# dithered pictures, below 0.01 in drawings and in smooth pictures of few colours.
_BETWEEN = 0.05
_SAME = 16  # largest change, in levels of 255, that a network makes to pixels that do not move


@dataclasses.dataclass(frozen=True, eq=False)
class PalettePicture:
    """A frame of a GIF.

    Attributes:
        indices: the picture as palette indices.
        pixels: the picture before dithering, in BGRA; None if it is not needed.
        original: whether it comes from the source.
    """

    indices: av.VideoFrame
    pixels: np.ndarray | None
    original: bool


def with_still_dots(pictures: Iterable[PalettePicture]) -> Iterator[PalettePicture]:
    """Yield the pictures; interpolated ones get the originals' dots where nothing moves.

    Error diffusion carries rounding errors from moving parts into still ones; without this, dots
    there would change from frame to frame.
    """
    before: PalettePicture | None = None
    made: list[PalettePicture] = []
    for picture in pictures:
        if not picture.original or picture.pixels is None:
            made.append(picture)
            continue
        if before is not None and before.pixels is not None:
            same = (before.pixels == picture.pixels).all(axis=-1)
            for between in made:
                _copy_dots(before, between, same)
        yield from made
        yield picture
        before, made = picture, []
    yield from made


def _copy_dots(source: PalettePicture, target: PalettePicture, where: np.ndarray) -> None:
    """Copy the palette indices of a picture into another where their colours are nearly equal.

    Args:
        source: an original.
        target: an interpolated picture.
        where: mask of pixels that are equal in this original and the next.
    """
    if source.pixels is None or target.pixels is None:
        return
    apart = np.abs(source.pixels.astype(np.int16) - target.pixels).max(axis=-1)
    where = where & (apart <= _SAME)
    target.indices.make_writable()
    height, width = where.shape
    ours, theirs = (
        np.frombuffer(memoryview(one.indices.planes[0]), np.uint8).reshape(height, -1)[:, :width]
        for one in (target, source)
    )
    ours[where] = theirs[where]


def is_dithered(pixels: Frame) -> bool:
    """Return whether a picture has few colours, mixed by dithering."""
    # Pack each colour into one number, so that colours compare in one step.
    # Up to four channels of 16 bits fit into 64.
    dots = pixels.reshape(-1, pixels.shape[-1]).astype(np.uint64)
    codes = (dots << (np.arange(dots.shape[-1], dtype=np.uint64) * 16)).sum(axis=-1)
    if np.unique(codes).size > _COLOURS or min(pixels.shape[:2]) < 3:
        return False
    image = codes.reshape(pixels.shape[:2])
    inside = image[1:-1, 1:-1]
    left, right, above, below = image[1:-1, :-2], image[1:-1, 2:], image[:-2, 1:-1], image[2:, 1:-1]
    between = ((left == right) & (inside != left)) | ((above == below) & (inside != above))
    return bool(between.mean() > _BETWEEN)
