# SPDX-License-Identifier: Apache-2.0
"""Where one shot ends and the next begins, found while frames stream by.

A network that interpolates across a cut morphs one picture into another: a cut that is missed is
ugly, one that is made up merely repeats a frame. Neighbouring frames are compared as thumbnails
some 48 cells wide. Do they differ at all? Can neither be put together out of blocks of the other,
moved and relit, as pans, fast motion and fades allow? Is that unusual among the frames around? And
is the picture not back a moment later, as after a flash?
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from flavr_jax.typing import Frame

__all__ = [
    "REACH",
    "Thumbnail",
    "difference",
    "is_cut",
    "is_repeat",
    "mismatch",
    "motion",
    "thumbnail",
]

REACH = 4
"""How many frames on either side of a boundary are looked at."""

_CELLS = 48  # of a thumbnail's longer side
_SAMPLES = 4  # pixels read a cell, in each direction: to read all of a 4K frame would take longer
_BLOCK, _SHIFT = 4, 5  # cells: a block may have moved a tenth of the picture's width

# Set by hand on the clips that scripts/evaluate_cuts.py was run on; none is sharp.
_VISIBLE, _STILL = 6.0, 1.0  # differences
_LEAST_CONTRAST = 4.0  # levels of 255: below it a picture is black, or white
_LEAST_DETAIL = 0.2  # of a picture's contrast; camera pictures have 0.2 to 0.5 of it in 4 cells
_SAME_SCENE, _RELATED, _OTHER_SCENE = 0.35, 0.8, 0.87  # mismatches
_UNUSUAL = 1.5  # mismatch times how many times larger than around it the difference is
_ONE_WAY = 0.7  # of a change in luma: the part that is the same sign everywhere
_SQUARE, _WORST = 8, 100  # samples; one square in so many counts
_NOISE, _UNSEEN = 6.0, 1.0  # motion that encoding the same picture twice can make; or any picture
_AGAINST_MOTION = 0.35

# RGB → luma and two colour differences (BT.601; any such weights would do here).
_LUMA_CHROMA = np.array(
    [[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]], np.float32
)


@dataclasses.dataclass(frozen=True, eq=False)
class Thumbnail:
    """A frame reduced to what shots are told apart by.

    Attributes:
        cells: mean luma and chroma of each cell, in levels of 255.
        samples: every so-many-th pixel, in which small motion can still be seen.
    """

    cells: Float[np.ndarray, "rows columns 3"]
    samples: Float[np.ndarray, "_rows _columns 3"]

    @property
    def luma(self) -> Float[np.ndarray, "rows columns"]:
        """The cells' brightness."""
        return self.cells[..., 0]


def thumbnail(pixels: Frame) -> Thumbnail:
    """A frame's thumbnail; what is transparent counts as black."""
    step = max(1, max(pixels.shape[:2]) // (_CELLS * _SAMPLES))
    samples = pixels[::step, ::step].astype(np.float32)
    samples *= 255 / np.iinfo(pixels.dtype).max
    if samples.shape[-1] == 4:
        samples = samples[..., :3] * (samples[..., 3:] / 255)
    height, width = samples.shape[:2]
    side = min(-(-max(height, width) // _CELLS), height, width)
    return Thumbnail(_square_means(samples, side) @ _LUMA_CHROMA, samples)


def difference(a: Thumbnail, b: Thumbnail) -> float:
    """Mean absolute difference in levels of 255, summed over luma and both chroma."""
    return float(np.abs(a.cells - b.cells).mean(axis=(0, 1)).sum())


def mismatch(a: Thumbnail, b: Thumbnail) -> float:
    """How badly either picture is put together out of the other's blocks.

    0 where motion and a change of light explain the difference; about 1 where flat blocks would do
    as well, which is what an encoder asks before it begins a new group of pictures.
    """
    return min(_unexplained(a.luma, b.luma), _unexplained(b.luma, a.luma))


def is_cut(before: Sequence[Thumbnail], after: Sequence[Thumbnail]) -> bool:
    """Whether a new shot begins with ``after[0]``.

    Args:
        before: up to ``REACH`` frames before the boundary, at least one, in the order of time.
        after: likewise behind it.
    """
    changes = [difference(a, b) for a, b in itertools.pairwise([*before, *after])]
    change = changes.pop(len(before) - 1)
    if change < _VISIBLE:
        return False
    usual = statistics.median([other for other in changes if other > _STILL] or [0.0])
    strangeness = mismatch(before[-1], after[0])
    contrast = float(min(before[-1].luma.std(), after[0].luma.std()))
    unlike = strangeness > _OTHER_SCENE and contrast > _LEAST_CONTRAST
    unusual = strangeness > _SAME_SCENE and strangeness * change / (1 + usual) > _UNUSUAL
    return (unlike or unusual) and not _is_flash(before, after, change)


def motion(a: Thumbnail, b: Thumbnail) -> float:
    """Mean absolute difference in levels of 255, of the places that differ most."""
    height, width = a.samples.shape[:2]
    side = min(_SQUARE, height, width)
    squares = _square_means(np.abs(a.samples - b.samples), side).mean(axis=-1).ravel()
    worst = max(1, squares.size // _WORST)
    return float(np.partition(squares, -worst)[-worst:].mean())


def is_repeat(before: Sequence[Thumbnail], after: Sequence[Thumbnail]) -> bool:
    """Whether ``after[0]`` shows the same picture as the frame before it, but for compression.

    What is slow everywhere is no repeat: motion has to stop for a moment. The arguments are those
    of :func:`is_cut`.
    """
    moved = [motion(a, b) for a, b in itertools.pairwise([*before, *after])]
    here = moved.pop(len(before) - 1)
    return here < _UNSEEN or here < min(_NOISE, _AGAINST_MOTION * max(moved, default=0.0))


def _is_flash(before: Sequence[Thumbnail], after: Sequence[Thumbnail], change: float) -> bool:
    """Whether the picture only lights up or darkens, and is back within ``REACH`` frames."""
    step = after[0].luma - before[-1].luma
    if abs(step.mean()) < _ONE_WAY * np.abs(step).mean():
        return False
    around = [(before[-1], b) for b in after[1:]] + [(a, after[0]) for a in before[:-1]]
    return any(difference(a, b) < change / 2 and mismatch(a, b) < _RELATED for a, b in around)


def _square_means(pixels: np.ndarray, side: int) -> np.ndarray:
    """Means of squares of pixels [height, width, channel]; what is left over is not used."""
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    whole = pixels[: rows * side, : columns * side]
    return whole.reshape(rows, side, columns, side, -1).mean(axis=(1, 3))


def _unexplained(source: np.ndarray, target: np.ndarray) -> float:
    """The share of ``target``'s detail that is not in ``source``, relit and moved by blocks."""
    rows, columns = (min(_BLOCK, length) for length in target.shape)
    whole = tuple(
        slice(length // side * side) for length, side in zip(target.shape, (rows, columns))
    )
    source, target = source[whole], target[whole]
    gain = np.clip(target.std() / max(float(source.std()), 1e-3), 0.25, 4.0)
    relit = (source - source.mean()) * gain + target.mean()
    moved = sliding_window_view(np.pad(relit, _SHIFT, mode="edge"), target.shape)
    blocks = (target.shape[0] // rows, rows, target.shape[1] // columns, columns)
    missing = np.abs(moved - target).reshape(*moved.shape[:2], *blocks).mean(axis=(3, 5))
    flat = target.reshape(blocks).mean(axis=(1, 3), keepdims=True)
    # Drawings are so flat that any edge that comes into view would outweigh their detail.
    detail = max(np.abs(target.reshape(blocks) - flat).mean(), _LEAST_DETAIL * target.std())
    return float(missing.min(axis=(0, 1)).mean() / (1 + detail))
