# SPDX-License-Identifier: Apache-2.0
"""Frames reduced to some 48 cells along the longer side, enough to find cuts and repeats.

Both searches judge a boundary between two frames by comparing it with the boundaries around it.
:func:`with_surroundings` therefore yields each frame with ``REACH`` thumbnails on either side.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from flavr_jax.typing import Frame
from flavr_jax.video.frames import Picture, sampled, sampled_planes

__all__ = [
    "REACH",
    "Thumbnail",
    "difference",
    "mean",
    "reduced",
    "square_means",
    "thumbnail",
    "thumbnails",
    "with_surroundings",
]

REACH = 4
"""Frames compared on either side of a boundary."""

_CELLS = 48  # along the longer side
_TOGETHER = 4  # frames reduced at a time
_SAMPLES = 4  # pixels read per cell in each direction; reading all of a 4K frame is slow

# RGB → luma and two colour differences by BT.601; detection is not sensitive to the matrix.
_LUMA_CHROMA = np.array(
    [[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]], np.float32
)

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small copy of a frame.

    Attributes:
        cells: mean luma and chroma of each cell, in levels of 255.
        few: every n-th pixel; None if it was not asked for.
    """

    cells: Float[np.ndarray, "rows columns 3"]
    few: Frame | None = None

    @functools.cached_property
    def samples(self) -> Float[np.ndarray, "_rows _columns 3"]:
        """``few`` as RGB in levels of 255; it shows small motion that the means of cells hide."""
        assert self.few is not None
        return _levels(self.few)

    @property
    def luma(self) -> Float[np.ndarray, "rows columns"]:
        """The cells' brightness."""
        return self.cells[..., 0]


def thumbnail(picture: Frame | Picture) -> Thumbnail:
    """Return a frame's thumbnail; transparent parts count as black."""
    return thumbnails([picture])[0]


def thumbnails(pictures: Sequence[Frame | Picture], *, few: bool = True) -> list[Thumbnail]:
    """Return the thumbnails of frames of one size and type; transparent parts count as black.

    Args:
        pictures: the frames.
        few: whether ``Thumbnail.few`` is needed. Without it, opaque planes are averaged before they
            become RGB, which takes about a tenth of the time. Colours outside RGB's range are then
            clipped in the mean of a cell, not in each pixel.
    """
    step = max(1, max(pictures[0].shape[:2]) // (_CELLS * _SAMPLES))
    if not few and pictures[0].shape[-1] == 3:
        planar = sampled_planes(pictures, step)
        if planar is not None:
            return [Thumbnail(cells) for cells in _cells_of_planes(*planar)]
    pixels = sampled(pictures, step)
    # Sums of 8-bit integers are exact, and need no copy in float32.
    exact = pixels.dtype == np.uint8 and pixels.shape[-1] == 3
    means = square_means(pixels if exact else _levels(pixels), _side(*pixels.shape[1:3]))
    cells = np.ascontiguousarray(means) @ _LUMA_CHROMA
    return [Thumbnail(*each) for each in zip(cells, pixels)]


def _side(height: int, width: int) -> int:
    """Return the side of a cell in pixels that are read."""
    return min(-(-max(height, width) // _CELLS), height, width)


def _cells_of_planes(
    decode: Callable[[list[np.ndarray]], list[np.ndarray]], planes: list[np.ndarray]
) -> Float[np.ndarray, "time rows columns 3"]:
    """Return the cells of opaque pictures.

    Args:
        decode: turns float32 samples of planes into RGB from 0 to 1.
        planes: samples ``[time, row, column]`` of each plane.
    """
    side = _side(*planes[0].shape[1:])
    means = [square_means(plane[..., None], side)[..., 0] for plane in planes]
    colours = np.stack(decode(means), axis=-1)
    return 255 * np.clip(colours, 0, 1) @ _LUMA_CHROMA


def _levels(few: np.ndarray) -> Float[np.ndarray, "... rows columns 3"]:
    """Return pixels as RGB in levels of 255; transparent parts count as black."""
    levels = few.astype(np.float32) * np.float32(255 / np.iinfo(few.dtype).max)
    if levels.shape[-1] == 4:
        levels = levels[..., :3] * (levels[..., 3:] / 255)
    return levels


# A boundary is compared with those around it, so each pair of frames is asked for several times.
@functools.lru_cache(maxsize=4 * REACH)
def difference(a: Thumbnail, b: Thumbnail) -> float:
    """Return the mean absolute difference in levels of 255, summed over luma and both chroma."""
    return float(np.abs(a.cells - b.cells).mean(axis=(0, 1)).sum())


def mean(values: np.ndarray) -> np.floating:
    """Return the mean of all values, as ``values.mean()`` does, but faster if they are few."""
    return np.add.reduce(values, axis=None) / values.size


def square_means(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return means over squares of ``[…, height, width, channel]``; incomplete ones are cut."""
    rows, columns = pixels.shape[-3] // side, pixels.shape[-2] // side
    whole = pixels[..., : rows * side, : columns * side, :]
    # Sums of slices: NumPy reduces short axes many times more slowly.
    kind = np.uint32 if pixels.dtype in (np.uint8, np.uint16) else pixels.dtype
    sums = whole[..., ::side, :, :].astype(kind)
    for row in range(1, side):
        sums += whole[..., row::side, :, :]
    sums = functools.reduce(np.add, [sums[..., column::side, :] for column in range(side)])
    return sums.astype(np.float32) / np.float32(side * side)


def reduced(
    items: Iterable[Item], picture: Callable[[Item], Frame | Picture], *, few: bool = True
) -> Iterator[tuple[Item, Thumbnail]]:
    """Yield each item with its thumbnail, lazily; a few are read ahead.

    Args:
        items: frames of one size and type, or objects that hold one.
        picture: returns an item's picture.
        few: see :func:`thumbnails`.
    """
    items = iter(items)
    while several := list(itertools.islice(items, _TOGETHER)):
        yield from zip(several, thumbnails([picture(item) for item in several], few=few))


def with_surroundings(
    items: Iterable[tuple[Item, Thumbnail]],
) -> Iterator[tuple[Item, list[Thumbnail], list[Thumbnail]]]:
    """Yield each item with the thumbnails before it and those from it onwards, lazily.

    ``REACH`` items are read ahead.

    Args:
        items: from :func:`reduced`, in the order of time.

    Yields:
        The item, up to ``REACH`` thumbnails before it, and up to ``REACH`` beginning with its own.
    """
    before: deque[Thumbnail] = deque(maxlen=REACH)
    ahead: deque[tuple[Item, Thumbnail]] = deque()

    def first() -> tuple[Item, list[Thumbnail], list[Thumbnail]]:
        around = list(before), [small for _, small in ahead]
        item, small = ahead.popleft()
        before.append(small)
        return item, *around

    for item in items:
        ahead.append(item)
        if len(ahead) == REACH:
            yield first()
    while ahead:
        yield first()
