# SPDX-License-Identifier: Apache-2.0
"""Cuts: where one shot ends and the next begins.

A network that interpolates across a cut morphs one picture into another. A missed cut is ugly; a
false one merely repeats a frame. There is a cut between two frames if they differ visibly, if
neither can be rebuilt from moved and relit blocks of the other (as is possible in pans, fast motion
and fades), if that is unusual among the frames around them, and if the picture does not return a
moment later (as after a flash).
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from flavr_jax.timeline.thumbnails import (
    REACH,
    Thumbnail,
    difference,
    mean,
    reduced,
    with_surroundings,
)
from flavr_jax.typing import Frame

__all__ = ["find_cuts", "is_cut", "mismatch"]

# In cells. A block may have moved by a tenth of the picture's width.
_BLOCK, _SHIFT = 4, 5

# Thresholds, chosen by hand on the clips of `flavr evaluate-cuts`; results change little if one
# of them is varied.
_VISIBLE, _STILL = 6.0, 1.0  # differences
_LEAST_CONTRAST = 4.0  # levels of 255; a picture with less is nearly uniform, such as all black
_LEAST_DETAIL = 0.2  # share of a picture's contrast; camera pictures have 0.2 to 0.5 in 4 cells
_SAME_SCENE, _RELATED, _OTHER_SCENE = 0.35, 0.8, 0.87  # mismatches
_UNUSUAL = 1.5  # mismatch × (difference here / usual difference)
_ONE_WAY = 0.7  # |mean change| of luma / mean |change|: 1 if all parts get lighter, or all darker


def find_cuts(frames: Iterable[Frame]) -> Iterator[int]:
    """Yield the number of each frame that begins a new shot, except the first frame, lazily."""
    surroundings = with_surroundings(reduced(frames, lambda frame: frame))
    for number, (_, before, after) in enumerate(surroundings):
        if before and is_cut(before, after):
            yield number


def is_cut(before: Sequence[Thumbnail], after: Sequence[Thumbnail]) -> bool:
    """Return whether a new shot begins with ``after[0]``.

    Args:
        before: up to ``REACH`` frames before the boundary, at least one, in the order of time.
        after: up to ``REACH`` frames after the boundary, at least one.
    """
    changes = [difference(a, b) for a, b in itertools.pairwise([*before, *after])]
    change = changes.pop(len(before) - 1)
    if change < _VISIBLE:
        return False
    # Repeated frames, as in animation on twos, say nothing about the usual motion.
    usual = statistics.median([other for other in changes if other > _STILL] or [0.0])
    first, second = before[-1], after[0]

    def strange(mismatch: float) -> bool:
        if mismatch > _OTHER_SCENE and min(_contrast(first), _contrast(second)) > _LEAST_CONTRAST:
            return True
        return mismatch > _SAME_SCENE and mismatch * change / (1 + usual) > _UNUSUAL

    # The mismatch is the smallest of many numbers, and without any shift it is often small enough.
    return (
        strange(_unexplained(first, second, shift=0))
        and strange(_unexplained(first, second))
        and strange(_unexplained(second, first))
        and not _is_flash(before, after, change)
    )


def mismatch(a: Thumbnail, b: Thumbnail) -> float:
    """Return the error of the better of two reconstructions: ``b`` from ``a``, or ``a`` from ``b``.

    A reconstruction moves and relights blocks of the other picture. The result is 0 if motion and
    light explain the whole difference, and about 1 if blocks of uniform colour would do as well.
    Encoders use the same criterion to decide where a new group of pictures begins.
    """
    return min(_unexplained(a, b), _unexplained(b, a))


def _is_flash(before: Sequence[Thumbnail], after: Sequence[Thumbnail], change: float) -> bool:
    """Return whether the picture only gets lighter or darker, and is back in ``REACH`` frames."""
    # A flash changes light in one direction; a cut makes some parts lighter and others darker.
    step = after[0].luma - before[-1].luma
    if abs(mean(step)) < _ONE_WAY * mean(np.abs(step)):
        return False
    around = [(before[-1], b) for b in after[1:]] + [(a, after[0]) for a in before[:-1]]
    return any(difference(a, b) < change / 2 and mismatch(a, b) < _RELATED for a, b in around)


class _Blocks(NamedTuple):
    """The brightness of a thumbnail's whole blocks.

    Attributes:
        luma: the cells, without rows and columns that fill no block.
        side: height and width of a block in cells.
        mean: of the cells.
        spread: their standard deviation.
        detail: mean absolute distance of the cells from the means of their blocks.
    """

    luma: np.ndarray
    side: tuple[int, int]
    mean: np.floating
    spread: np.floating
    detail: np.floating


# A frame is compared with those around it, in both directions.
@functools.lru_cache(maxsize=4 * REACH)
def _blocks(small: Thumbnail) -> _Blocks:
    rows, columns = (min(_BLOCK, length) for length in small.luma.shape)
    height, width = (n // side for n, side in zip(small.luma.shape, (rows, columns)))
    luma = small.luma[: height * rows, : width * columns]
    blocks = luma.reshape(height, rows, width, columns)
    flat = blocks.mean(axis=(1, 3), keepdims=True)
    return _Blocks(luma, (rows, columns), mean(luma), _spread(luma), mean(np.abs(blocks - flat)))


@functools.lru_cache(maxsize=4 * REACH)
def _contrast(small: Thumbnail) -> float:
    return float(_spread(small.luma))


def _spread(values: np.ndarray) -> np.floating:
    """Return the standard deviation of all values, as ``values.std()`` does, but faster."""
    off = values - mean(values)
    return np.sqrt(mean(off * off))


def _unexplained(first: Thumbnail, second: Thumbnail, shift: int = _SHIFT) -> float:
    """Return the share of the second picture's detail that relit blocks of the first lack.

    The blocks may move by up to ``shift`` cells in each direction.
    """
    source, target = _blocks(first), _blocks(second)
    rows, columns = target.side
    # A factor beyond 4 would turn the noise of a black picture into detail.
    gain = np.clip(target.spread / max(float(source.spread), 1e-3), 0.25, 4.0)
    relit = (source.luma - source.mean) * gain + target.mean
    # All shifts of the source: [shift down, shift across, rows, columns].
    if shift:
        moved = sliding_window_view(np.pad(relit, shift, mode="edge"), target.luma.shape)
    else:
        moved = relit[None, None]
    # Sums of slices: NumPy reduces short axes many times more slowly.
    off = np.abs(moved - target.luma)
    off = functools.reduce(np.add, [off[:, :, row::rows] for row in range(rows)])
    off = functools.reduce(np.add, [off[..., column::columns] for column in range(columns)])
    missing = off / (rows * columns)
    # Drawings have so little detail that any edge coming into view would outweigh it.
    detail = max(target.detail, _LEAST_DETAIL * target.spread)
    # Adding one level keeps noise in flat pictures from counting as a mismatch.
    return float(mean(missing.min(axis=(0, 1))) / (1 + detail))
