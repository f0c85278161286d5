# SPDX-License-Identifier: Apache-2.0
"""Reads an output back to check it.

Original frames should be unchanged, and interpolated frames should not flicker among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import numpy as np

from flavr_jax.typing import Frame
from flavr_jax.video.frames import FrameSource, Origin, TimedFrame
from flavr_jax.video.pixels.orientation import upright
from flavr_jax.video.stills.images import displayed, is_linear, without_headroom

__all__ = ["Comparison", "compare", "recorded"]

_LEVELS = 255


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Differences between an output and its source, in levels of 0 to 255.

    Attributes:
        originals: how many originals were compared.
        difference: the largest mean absolute difference between an original and its output.
        flicker: the largest amount by which the mean colour of an interpolated frame lies outside
            the range between the mean colours of the originals before and after it.
        flicker_at: time of that frame in seconds.
    """

    originals: int
    difference: float
    flicker: float
    flicker_at: Fraction

    def __str__(self) -> str:
        return (
            f"{self.originals} originals differ from the source by at most {self.difference:.3f} "
            "levels of 255 (mean of a frame); the mean colour of made frames leaves that of the "
            f"originals around them by at most {self.flicker:.3f} levels, at "
            f"{float(self.flicker_at):.3f} s"
        )


def recorded(frames: Iterable[TimedFrame], origins: list[int | None]) -> Iterator[TimedFrame]:
    """Yield frames and append their source indices to ``origins``; None if interpolated."""
    for frame in frames:
        origin = frame.original.opaque if frame.original is not None else None
        origins.append(origin.index if isinstance(origin, Origin) else None)
        yield frame


def compare(source: FrameSource, output: FrameSource, origins: list[int | None]) -> Comparison:
    """Compare an output with its source, frame by frame.

    Args:
        source: the clip that the originals came from.
        output: the clip that was written.
        origins: source indices of the frames that were written, from ``recorded``.

    Raises:
        ValueError: the output has fewer or more frames than were written, as a GIF or a WebP may
            have.
    """
    originals = _by_index(source)
    count, difference, flicker, flicker_at = 0, 0.0, 0.0, Fraction(0)
    before: np.ndarray | None = None
    made: list[tuple[np.ndarray, Fraction]] = []
    read = 0
    for read, frame in enumerate(output, 1):
        if is_linear(output.info) and not is_linear(source.info):
            frame = displayed(frame)
        index = origins[read - 1] if read <= len(origins) else None
        mean = _scaled(frame.pixels).mean(axis=(0, 1))
        if index is None:
            made.append((mean, frame.pts))
            continue
        count += 1
        original = _shown(source, output, originals(index))
        difference = max(
            difference, float(np.abs(_scaled(original) - _scaled(frame.pixels)).mean())
        )
        for colour, pts in made:
            if before is None:
                continue
            # How far the colour lies above or below both neighbours; negative in between.
            above, below = colour - np.maximum(before, mean), np.minimum(before, mean) - colour
            beyond = float(np.maximum(above, below).max())
            if beyond > flicker:
                flicker, flicker_at = beyond, pts
        before, made = mean, []
    if read != len(origins):
        raise ValueError(
            f"The output has {read} frames, but {len(origins)} were written; formats that leave "
            "frames out cannot be verified."
        )
    return Comparison(count, difference, flicker, flicker_at)


def _by_index(source: FrameSource) -> Callable[[int], TimedFrame]:
    """Return a function that reads forward to the frame of a given index.

    An index below the previous one restarts reading at the first frame.
    """
    frames = iter(source)
    at, current = -1, None

    def frame(index: int) -> TimedFrame:
        nonlocal frames, at, current
        if index < at:
            frames, at = iter(source), -1
        while at < index or current is None:
            at, current = at + 1, next(frames)
        return current

    return frame


def _shown(source: FrameSource, output: FrameSource, frame: TimedFrame) -> Frame:
    """Return an original's pixels in the output's orientation and range."""
    matrix = source.info.display_matrix
    if matrix is not None and output.info.display_matrix is None:
        frame = upright(matrix, frame)
    if source.info.colour.headroom and not output.info.colour.headroom:
        frame = without_headroom(source.info.colour, frame)
    if is_linear(source.info) and not is_linear(output.info):
        frame = displayed(frame)
    return frame.pixels


def _scaled(pixels: Frame) -> np.ndarray:
    """Return RGB in levels of 0 to 255."""
    return pixels[..., :3] * np.float32(_LEVELS / np.iinfo(pixels.dtype).max)
