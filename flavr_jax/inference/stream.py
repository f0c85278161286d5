# SPDX-License-Identifier: Apache-2.0
"""Interpolation of a clip of any length, frame by frame, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from jax import Array

from flavr_jax.inference.windows import extend
from flavr_jax.typing import Frame

if TYPE_CHECKING:
    from flavr_jax.inference.interpolator import Interpolator

__all__ = ["interpolate"]


def interpolate(
    frames: Iterable[Frame], interpolator: Interpolator, factor: int, *, batch: int = 1
) -> Iterator[Frame]:
    """Lazily, ``(n − 1) · factor + 1`` frames for n; the given ones pass through unchanged.

    Factors beyond the network's own are made by passing its output through it again.

    Args:
        frames: uint8 RGB, all of one size.
        interpolator: the network.
        factor: how many times the frame rate grows; 1 changes nothing.
        batch: intervals computed at once: more is faster on a GPU and takes more memory.

    Raises:
        ValueError: for a factor that cannot be made, before any frame is read.
    """
    stream: Iterator[Frame] = iter(frames)
    for step in interpolator.passes(factor):
        stream = _one_pass(stream, interpolator, step, batch)
    return stream


def _one_pass(
    frames: Iterator[Frame], interpolator: Interpolator, factor: int, batch: int
) -> Iterator[Frame]:
    """One run through the network; while a batch computes, the one before is handed out."""
    n_inputs = interpolator.config.n_inputs
    before = (n_inputs - 2) // 2
    after = n_inputs - 2 - before
    run: list[Frame] = []  # consecutive frames; all but the last n_inputs − 1 begin a window
    started: deque[tuple[list[Frame], Array]] = deque()
    for frame in extend(frames, before, after, interpolator.boundary):
        run.append(frame)
        if len(run) == n_inputs - 1 + batch:
            started.append((run[before:], interpolator.between(np.stack(run), factor)))
            run = run[batch:]
            if len(started) > 1:
                yield from _finish(*started.popleft())
    if len(run) >= n_inputs:
        started.append((run[before:], interpolator.between(np.stack(run), factor)))
    for first_frames, computation in started:
        yield from _finish(first_frames, computation)
    if run:
        yield run[-1 - after]


def _finish(frames: list[Frame], computation: Array) -> Iterator[Frame]:
    """Each interval's first frame and the frames inside it, once they are computed."""
    for first, between in zip(frames, np.asarray(computation)):
        yield first
        yield from between
