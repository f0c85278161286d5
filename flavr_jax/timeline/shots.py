# SPDX-License-Identifier: Apache-2.0
"""Where the shots of a clip begin, for whoever cuts clips up rather than plays them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

from flavr_jax.timeline.keys import find_keys
from flavr_jax.typing import Frame
from flavr_jax.video.frames import TimedFrame

__all__ = ["find_cuts"]


def find_cuts(frames: Iterable[Frame]) -> Iterator[int]:
    """Numbers of the frames that begin a new shot, the first excepted, lazily."""
    timed = (TimedFrame(frame, Fraction(n), Fraction(1)) for n, frame in enumerate(frames))
    for number, key in enumerate(find_keys(timed, cuts=True, repeats=False)):
        if number > 0 and key.link == "cut":
            yield number
