# SPDX-License-Identifier: Apache-2.0
"""Yardsticks for faults that scores on data sets hide: each is one number with a goal.

They measure 8-bit frames as users get them. All need an interpolator; those of ``ON_CLIPS`` also
need the sequences of a data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from flavr_jax.data.sequences import Clip, Picture, Pictures, Sequence
from flavr_jax.evaluation import drawings
from flavr_jax.evaluation.boundaries import score_boundaries
from flavr_jax.evaluation.scoring import mean, method_of_network, score
from flavr_jax.inference import stream
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.metrics.sharpness import laplacian_energy
from flavr_jax.video.frames import TimedFrame

__all__ = [
    "DRAWN",
    "ON_CLIPS",
    "Yardstick",
    "display_deviation",
    "edge_agreement",
    "pulsing",
    "still_deviation",
    "walk_agreement",
]

Frames = Callable[[Pictures, int], Pictures]
"""Interpolates n frames by a factor f to (n − 1) · f + 1, as ``Interpolator`` does."""

_EDGE = 24.0  # levels per pixel; outlines of the drawn figure have more, its flat areas less


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """A measure, what it says, and its goal.

    Attributes:
        measure: function of an interpolator, or of an interpolator and sequences.
        text: what the number is.
        goal: value to reach; None if there is none.
        at_most: whether the goal is an upper limit.
    """

    measure: Callable[..., float]
    text: str
    goal: float | None = None
    at_most: bool = False

    def reached(self, value: float) -> bool | None:
        """Return whether a value reaches the goal; None without a goal."""
        if self.goal is None:
            return None
        return value <= self.goal if self.at_most else value >= self.goal


def display_deviation(interpolate: Frames) -> float:
    """Return the largest change of a static display over a zooming background, in levels of 255."""
    frames, covered = drawings.game()
    made = interpolate(frames, 8)[:, covered].astype(np.int16)
    return float(np.abs(made - frames[0][covered]).max())


def still_deviation(interpolate: Frames) -> float:
    """Return the largest change of a picture that stands still, in levels of 255."""
    changes = []
    for picture in (drawings.game(1)[0][0], drawings.walker(0.0)):
        made = interpolate(np.stack([picture] * 4), 8).astype(np.int16)
        changes.append(np.abs(made - picture).max())
    return float(max(changes))


def pulsing(interpolate: Frames, frames: Pictures | None = None) -> float:
    """Return the Laplacian energy of made frames relative to that of the originals around them.

    Args:
        interpolate: to measure.
        frames: original frames; by default the drawn figure.
    """
    if frames is None:
        frames = np.stack([drawings.walker(float(number)) for number in range(6)])
    made = interpolate(frames, 8)
    energy = np.asarray(laplacian_energy(jnp.asarray(made, jnp.float32) / 255))
    originals = energy[::8]
    return float(np.delete(energy, np.s_[::8]).mean() / originals.mean())


def walk_agreement(network: Interpolator, count: int = 12) -> float:
    """Return how far edges of a walk cycle on twos agree with true in-between drawings.

    The clip has 24 frames per second and shows each drawing twice. It is interpolated as by ``--fps
    24 --dedup``, so that every second frame is made.

    Returns:
        Mean of :func:`edge_agreement` over made frames, where the figure moves.
    """
    rate = 24
    shown = (drawings.walker(float(number // 2)) for number in range(2 * count))
    timed = (
        TimedFrame(one, Fraction(number, rate), Fraction(1, rate))
        for number, one in enumerate(shown)
    )
    options = stream.Options(fps=Fraction(rate), dedup=True, cut="ignore")
    made = list(stream.fetched(stream.interpolate(timed, network, options)))
    scores = []
    for index in range(count - 1):
        before, truth, after = (drawings.walker(index + share) for share in (0.0, 0.5, 1.0))
        moves = _wider(_wider((before != after).any(axis=-1)))
        scores.append(edge_agreement(made[2 * index + 1].pixels, truth, moves))
    return float(np.mean(scores))


def edge_agreement(
    made: Picture, truth: Picture, where: Bool[np.ndarray, "height width"] | None = None
) -> float:
    """Return the F-score of edge pixels, where a distance of one pixel counts as agreement.

    A missing, torn or doubled outline lowers it: 1 is agreement, 0 none.

    Args:
        made: the frame to judge.
        truth: the frame that it should be.
        where: pixels to look at; by default all.
    """
    found, true = _edges(made), _edges(truth)
    right, recalled = found & _wider(true), true & _wider(found)
    if where is not None:
        found, true, right, recalled = (each & where for each in (found, true, right, recalled))
    if not found.any() or not true.any():
        return float(found.any() == true.any())
    precision, recall = right.sum() / found.sum(), recalled.sum() / true.sum()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def sharpness(network: Interpolator, sequences: Iterable[Sequence]) -> float:
    """Return the mean Laplacian energy of predicted frames relative to the true ones."""
    return _means(network, sequences)["laplacian_ratio"]


def half_size(network: Interpolator, sequences: Iterable[Sequence]) -> float:
    """Return PSNR in dB at half the width and height, by means of 2×2 pixels."""
    halves = (
        dataclasses.replace(each, clip=_Half(each.clip), crop=each.crop and _halved(each.crop))
        for each in sequences
    )
    return _means(network, halves)["psnr_flavr"]


def ends(network: Interpolator, sequences: Iterable[Sequence]) -> float:
    """Return PSNR in dB in the first and last interval, with the default way to fill them in."""
    scores = score_boundaries(
        network.predict, network.config.n_outputs, sequences, network.precision
    )
    return mean(scores[network.boundary], "sequences")["psnr_flavr"]


DRAWN: Mapping[str, Yardstick] = MappingProxyType(
    {
        "display": Yardstick(
            display_deviation, "static display over a zooming ground, levels off", 3.0, at_most=True
        ),
        "still": Yardstick(still_deviation, "still picture, levels off", 2.0, at_most=True),
        "pulsing": Yardstick(pulsing, "sharpness of made drawings / originals", 0.95),
        "walk": Yardstick(walk_agreement, "edges of a walk cycle on twos, F-score"),
    }
)
"""Yardsticks on drawn clips, by name."""

ON_CLIPS: Mapping[str, Yardstick] = MappingProxyType(
    {
        "sharpness": Yardstick(sharpness, "sharpness of made frames / true ones", 0.95),
        "half-size": Yardstick(half_size, "PSNR at half size, dB"),
        "ends": Yardstick(ends, "PSNR of first and last interval, dB", 24.0),
    }
)
"""Yardsticks on a data set's sequences, by name."""


class _Half:
    """A clip at half the width and height."""

    def __init__(self, clip: Clip) -> None:
        self.name, self._clip = clip.name, clip

    def __len__(self) -> int:
        return len(self._clip)

    def read(self, index: int) -> Picture:
        frame = self._clip.read(index).astype(np.float32)
        height, width = _halved(frame.shape[:2])
        squares = frame[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
        return np.rint(squares.mean(axis=(1, 3))).astype(np.uint8)

    def encoded(self, index: int) -> bytes:
        raise NotImplementedError


def _halved(size: tuple[int, ...]) -> tuple[int, int]:
    return size[0] // 2, size[1] // 2


def _means(network: Interpolator, sequences: Iterable[Sequence]) -> dict[str, float]:
    method = method_of_network(network.predict, network.config.n_outputs, network.precision)
    return mean(score(method, sequences), "sequences")


def _edges(frame: Picture) -> Bool[np.ndarray, "height width"]:
    """Pixels where the luminance changes by more than ``_EDGE`` levels per pixel."""
    down, across = np.gradient(frame @ np.array([0.299, 0.587, 0.114]))
    return np.hypot(down, across) > _EDGE


def _wider(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels within one pixel of the mask, diagonals included."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.any(
        [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0
    )
