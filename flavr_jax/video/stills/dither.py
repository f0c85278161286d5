# SPDX-License-Identifier: Apache-2.0
"""Made frames among dithered originals: the same dots, so that the texture does not pulse.

A GIF of a photograph consists of dots in a few colours. A network averages the dots away, and when
dotted and smooth frames alternate, they flicker. So made frames are dithered by error diffusion in
the originals' own colours, and where nothing moves they get the originals' dots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import av
import numpy as np

from flavr_jax.typing import Frame

__all__ = ["PalettePicture", "is_dithered", "with_still_dots"]

_COLOURS = 256
# Part of the dots that lie between two equal ones of another colour: 0.1 to 0.4 where a picture is
# dithered visibly, below 0.01 in drawings and in smooth pictures of few colours.
_BETWEEN = 0.05
_SAME = 16  # the most levels of 255 by which a network changes what stands still


@dataclasses.dataclass(frozen=True, eq=False)
class PalettePicture:
    """A frame of a GIF.

    Attributes:
        indices: the picture in numbers of the palette.
        pixels: the picture before that, in BGRA; None where it is not needed.
        original: whether it comes from the source.
    """

    indices: av.VideoFrame
    pixels: np.ndarray | None
    original: bool


def with_still_dots(pictures: Iterable[PalettePicture]) -> Iterator[PalettePicture]:
    """Yield the pictures; made ones get the originals' dots where nothing moves.

    Error diffusion carries rounding errors from moving parts into still ones, whose dots would
    change from frame to frame.
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
    """Copy the palette numbers of a picture into another where both had nearly equal colours.

    Args:
        source: an original.
        target: a made picture.
        where: dots that stand still from the original to the next.
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
    """Return whether a picture has few colours, mixed as dots."""
    # One number for each colour, so that colours compare in one step.
    dots = pixels.reshape(-1, pixels.shape[-1]).astype(np.uint64)
    codes = (dots << (np.arange(dots.shape[-1], dtype=np.uint64) * 16)).sum(axis=-1)
    if np.unique(codes).size > _COLOURS or min(pixels.shape[:2]) < 3:
        return False
    image = codes.reshape(pixels.shape[:2])
    inside = image[1:-1, 1:-1]
    left, right, above, below = image[1:-1, :-2], image[1:-1, 2:], image[:-2, 1:-1], image[2:, 1:-1]
    between = ((left == right) & (inside != left)) | ((above == below) & (inside != above))
    return bool(between.mean() > _BETWEEN)
