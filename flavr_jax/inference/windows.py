# SPDX-License-Identifier: Apache-2.0
"""Frames beyond a clip's ends, so that its first and last interval have a full window too.

The network reads frames on both sides of an interval. At a clip's ends some of them do not exist
and are synthesised from those that do. The official code skips these intervals instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeAlias

import numpy as np

from flavr_jax.typing import Frame

__all__ = ["BOUNDARIES", "Boundary", "extend"]

Boundary: TypeAlias = Literal["mirror", "duplicate", "extrapolate"]
"""How frames beyond a clip's end are synthesised; see :data:`BOUNDARIES`."""


def _mirror(end: list[Frame], step: int) -> Frame:
    return end[min(step, len(end) - 1)]


def _duplicate(end: list[Frame], step: int) -> Frame:
    return end[0]


def _extrapolate(end: list[Frame], step: int) -> Frame:
    if len(end) == 1:
        return end[0]  # a single frame has no change to continue
    first, second = end[0].astype(np.float32), end[1].astype(np.float32)
    most = np.iinfo(end[0].dtype).max
    return np.clip(np.rint(first + step * (first - second)), 0, most).astype(end[0].dtype)


BOUNDARIES: dict[Boundary, Callable[[list[Frame], int], Frame]] = {
    "mirror": _mirror,
    "duplicate": _duplicate,
    "extrapolate": _extrapolate,
}
"""Functions that synthesise the frame ``step`` ≥ 1 frames beyond an end from the frames there.

Frames are given from the end inwards. ``mirror`` reflects the clip about its end frame,
``duplicate`` repeats that frame, and ``extrapolate`` continues each pixel's change linearly.
"""


def extend(
    frames: Iterable[Frame], before: int, after: int, boundary: Boundary = "extrapolate"
) -> Iterator[Frame]:
    """Yield ``before`` synthesised frames, ``frames``, and ``after`` synthesised ones, lazily.

    At most ``max(before, after) + 1`` frames are in memory.
    """
    make = BOUNDARIES[boundary]
    iterator = iter(frames)
    # The frames before the first can be made only when `before` frames after it are known.
    head = [frame for _, frame in zip(range(before + 1), iterator)]
    if not head:
        return
    for step in range(before, 0, -1):
        yield make(head, step)
    tail: deque[Frame] = deque(maxlen=after + 1)
    for part in (head, iterator):
        for frame in part:
            tail.appendleft(frame)  # the outermost comes first, as in BOUNDARIES
            yield frame
    end = list(tail)
    for step in range(1, after + 1):
        yield make(end, step)
