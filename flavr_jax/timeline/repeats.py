# SPDX-License-Identifier: Apache-2.0
"""Repeated frames, and the cadence in which film and animation repeat them.

Animation is drawn "on twos" or "on threes", and film is converted to 30 or 60 frames per second by
showing some frames twice. A repeat is seldom an exact copy, because compression changes it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from flavr_jax.timeline.thumbnails import REACH, Thumbnail, square_means

__all__ = ["CADENCE_REACH", "LONGEST_CADENCE", "LONGEST_RUN", "even_time", "is_repeat", "motion"]

LONGEST_RUN = 5
"""Most equal frames in a row that a cadence can have (12 pictures/s in 60); a longer run is a rest,
in which the picture really stands still."""

LONGEST_CADENCE = 5
"""Most pictures in one period: 24 pictures in 30 frames repeat every fourth, 25 every fifth."""

CADENCE_REACH = 2 * LONGEST_CADENCE
"""Pictures on either side that are searched for a cadence: its period has to occur twice."""

# Motion is measured in the hundredth of all squares of 8×8 samples that differ most, so that a
# small object moving over a still background is found.
_SQUARE, _WORST = 8, 100
_UNSEEN = 1.0  # motion that nobody sees, in levels of 255
_NOISE = 6.0  # largest apparent motion that encoding the same picture twice can cause
_AGAINST_MOTION = 0.35  # a repeat has less than this share of the largest motion nearby


def is_repeat(before: Sequence[Thumbnail], after: Sequence[Thumbnail]) -> bool:
    """Return whether ``after[0]`` repeats the frame before it, apart from compression.

    Slow but steady motion is no repeat: the motion has to stop for a moment.

    Args:
        before: up to ``REACH`` frames before the boundary, at least one, in the order of time.
        after: up to ``REACH`` frames after the boundary, at least one.
    """
    moved = [motion(a, b) for a, b in itertools.pairwise([*before, *after])]
    here = moved.pop(len(before) - 1)
    return here < _UNSEEN or here < min(_NOISE, _AGAINST_MOTION * max(moved, default=0.0))


# A boundary is compared with those around it, so each pair of frames is asked for several times.
@functools.lru_cache(maxsize=4 * REACH)
def motion(a: Thumbnail, b: Thumbnail) -> float:
    """Return the mean absolute difference, in levels of 255, where two frames differ most."""
    height, width = a.samples.shape[:2]
    side = min(_SQUARE, height, width)
    squares = square_means(np.abs(a.samples - b.samples), side).mean(axis=-1).ravel()
    worst = max(1, squares.size // _WORST)
    return float(np.partition(squares, -worst)[-worst:].mean())


def even_time(starts: Sequence[Fraction], index: int) -> Fraction:
    """Return when a picture is due if the pictures of a cadence are spread evenly in time.

    Film at 30 frames per second shows new pictures at frames 0, 1, 2, 3, 5, 6, 7, 8, 10, …; they
    were taken at 0, 1.25, 2.5, 3.75, 5, …. A picture is never due before it is first shown. Without
    a cadence, it is due when it is first shown.

    Args:
        starts: when consecutive pictures of one shot are first shown, in seconds.
        index: index of the picture among them.
    """
    lengths = [after - before for before, after in itertools.pairwise(starts)]
    first = max(0, min(index - LONGEST_CADENCE, len(lengths) - CADENCE_REACH))
    part = lengths[first : first + CADENCE_REACH]
    for period in range(1, min(LONGEST_CADENCE, len(part) // 2) + 1):
        mean = sum(part, Fraction(0)) / len(part)
        # A tenth allows for Matroska's rounding to milliseconds and still tells 4 frames from 5.
        if all(abs(a - b) < mean / 10 for a, b in zip(part, part[period:])):
            if period == 1:
                break  # the pictures are evenly spaced already
            whole = part[: len(part) // period * period]
            mean = sum(whole, Fraction(0)) / len(whole)
            around = enumerate(starts[first : first + len(part) + 1], first)
            # The latest estimate, because no picture may be due before it is first shown.
            return max(start + mean * (index - other) for other, start in around)
    return starts[index]
