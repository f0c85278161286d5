# SPDX-License-Identifier: Apache-2.0
"""Frames beyond a clip's ends, so that its first and last interval have a full window too.

The network reads frames on both sides of an interval. At a clip's ends some of them do not exist
and are synthesised from those that do. The official code skips these intervals instead.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flavr_jax.typing import Frame
from flavr_jax.video.pixels.picture import Resident

__all__ = ["BOUNDARIES", "Boundary", "Located", "extend"]

Boundary: TypeAlias = Literal["mirror", "duplicate", "extrapolate"]
"""How frames beyond a clip's end are synthesised; see :data:`BOUNDARIES`."""


class Located:
    """A frame of windows, which is uploaded once, when the first window that holds it is computed.

    The device keeps it as long as a window may need it.
    """

    def __init__(self, upload: Callable[[], Resident]) -> None:
        self._upload = upload

    @functools.cached_property
    def resident(self) -> Resident:
        """The frame on the device."""
        return self._upload()

    def continued(self, before: Located, step: int) -> Located:
        """Return the frame ``step`` further if every pixel goes on to change as from ``before``."""

        def upload() -> Resident:
            first, second = self.resident, before.resident
            # Frames made by an earlier pass may lie on different devices.
            earlier = jax.device_put(second.pixels, first.pixels.sharding)
            pixels = _continued(first.pixels, earlier, step)
            return Resident(pixels, first.opaque and second.opaque)

        return Located(upload)


Item = TypeVar("Item", Frame, Located)


@functools.partial(jax.jit, static_argnums=2)
def _continued(first: Array, second: Array, step: int) -> Array:
    # Sums of 16-bit integers times a few steps are exact in float32.
    change = first.astype(jnp.float32) - second.astype(jnp.float32)
    most = jnp.iinfo(first.dtype).max
    return jnp.clip(first.astype(jnp.float32) + step * change, 0, most).astype(first.dtype)


def _mirror(end: list[Item], step: int) -> Item:
    return end[min(step, len(end) - 1)]


def _duplicate(end: list[Item], step: int) -> Item:
    return end[0]


def _extrapolate(end: list[Item], step: int) -> Item:
    if len(end) == 1:
        return end[0]  # a single frame has no change to continue
    first, second = end[:2]
    if isinstance(first, Located):
        return first.continued(second, step)
    return np.asarray(_continued(first, second, step))


BOUNDARIES: dict[Boundary, Callable[[list, int], Any]] = {
    "mirror": _mirror,
    "duplicate": _duplicate,
    "extrapolate": _extrapolate,
}
"""Functions that synthesise the frame ``step`` ≥ 1 frames beyond an end from the frames there.

Frames are given from the end inwards. ``mirror`` reflects the clip about its end frame,
``duplicate`` repeats that frame, and ``extrapolate`` continues each pixel's change linearly.
"""


def extend(
    frames: Iterable[Item], before: int, after: int, boundary: Boundary = "duplicate"
) -> Iterator[Item]:
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
    tail: deque[Item] = deque(maxlen=after + 1)
    for part in (head, iterator):
        for frame in part:
            tail.appendleft(frame)  # the outermost comes first, as in BOUNDARIES
            yield frame
    end = list(tail)
    for step in range(1, after + 1):
        yield make(end, step)
