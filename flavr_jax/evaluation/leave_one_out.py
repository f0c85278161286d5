# SPDX-License-Identifier: Apache-2.0
"""Quality of interpolation on a clip without a reference: leave a frame out and make it again.

The network reads every second frame around the one that is left out, so it has to bridge twice the
usual motion. The scores are therefore lower than those of the frames that it makes for the clip;
they show where it is weak.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from PIL import Image

from flavr_jax.evaluation.scoring import METRICS, Metric
from flavr_jax.inference.passes import Network
from flavr_jax.timeline import keys
from flavr_jax.typing import Frame
from flavr_jax.video.frames import TimedFrame
from flavr_jax.video.stills import exr

__all__ = ["SCORES", "THUMBNAIL", "Moment", "Shot", "moments", "shots"]

SCORES: Mapping[str, Metric] = {
    "PSNR": METRICS["psnr_uint8"],
    "SSIM": METRICS["ssim_2d"],
}
"""Metrics of a report that need no weights, by the name that is shown."""

THUMBNAIL = 320
"""Longer side of the pictures of a moment, in pixels."""

_EQUAL = 99.0  # dB that stand for equal frames, whose PSNR is infinite


@dataclasses.dataclass(frozen=True, eq=False)
class Moment:
    """A frame that was left out and made again.

    Attributes:
        pts: its time in seconds.
        shot: number of its shot, from 0.
        scores: of the made frame, by metric.
        average: PSNR of the mean of the frames before and after, the simplest way to make it.
        pictures: thumbnails of the frame before, the made one, the true one and the one after.
    """

    pts: Fraction
    shot: int
    scores: dict[str, float]
    average: float
    pictures: tuple[Frame, Frame, Frame, Frame]


@dataclasses.dataclass(frozen=True)
class Shot:
    """Scores of a shot.

    Attributes:
        number: from 0.
        start: time of its first scored frame in seconds.
        count: scored frames.
        means: by metric.
        worst: by metric; the highest value of LPIPS, the lowest of others.
        average: mean PSNR of the average of two frames.
    """

    number: int
    start: Fraction
    count: int
    means: dict[str, float]
    worst: dict[str, float]
    average: float


def moments(
    frames: Iterable[TimedFrame],
    network: Network,
    scores: Mapping[str, Metric] = SCORES,
    *,
    every: int = 1,
    linear: bool = False,
) -> Iterator[Moment]:
    """Yield the frames that can be left out, made again and scored, lazily.

    These are frames with enough context in their shot: 3 frames on either side for 4 inputs.

    Args:
        frames: of a clip.
        network: makes halves of intervals.
        scores: metrics.
        every: leave out every n-th of them only; the others are only read.
        linear: whether the frames are linear light encoded as ACEScct, which the network reads;
            scores and pictures are of the colours that are shown.
    """
    count = network.config.n_inputs
    reach = count - 1
    window: deque[TimedFrame] = deque(maxlen=2 * reach + 1)
    shot, number = -1, 0
    for key in keys.find_keys(frames, cuts=True, repeats=False):
        if key.link == "cut":
            window.clear()
            shot += 1
        window.append(key.frame)
        if len(window) < 2 * reach + 1:
            continue
        number += 1
        if (number - 1) % every == 0:
            yield _moment(list(window), shot, network, scores, linear=linear)


def _moment(
    window: list[TimedFrame],
    shot: int,
    network: Network,
    scores: Mapping[str, Metric],
    *,
    linear: bool,
) -> Moment:
    """Make the middle frame of a window from every second frame around it."""
    middle = len(window) // 2
    resident = [network.upload(frame.picture) for frame in window[::2]]
    pictures = [window[middle + step].pixels for step in (-1, 0, 1)]
    pictures.append(np.asarray(network.between(resident, 2))[0, 0])
    before, truth, after, made = (
        _rgb(exr.displayed(pixels) if linear else pixels) for pixels in pictures
    )
    values = {name: metric(_unit(made), _unit(truth)) for name, metric in scores.items()}
    mean = (_unit(before) + _unit(after)) / 2
    return Moment(
        window[middle].pts,
        shot,
        {name: min(float(value[0]), _EQUAL) for name, value in values.items()},
        min(float(SCORES["PSNR"](mean, _unit(truth))[0]), _EQUAL),
        (_small(before), _small(made), _small(truth), _small(after)),
    )


def shots(found: Iterable[Moment]) -> list[Shot]:
    """Return the scores of each shot."""
    by_shot: dict[int, list[Moment]] = {}
    for moment in found:
        by_shot.setdefault(moment.shot, []).append(moment)
    result = []
    for number, of in by_shot.items():
        columns = {name: [each.scores[name] for each in of] for name in of[0].scores}
        means = {name: float(np.mean(values)) for name, values in columns.items()}
        worst = {n: max(v) if n == "LPIPS" else min(v) for n, v in columns.items()}
        average = float(np.mean([each.average for each in of]))
        result.append(Shot(number, of[0].pts, len(of), means, worst, average))
    return result


def _small(pixels: np.ndarray) -> np.ndarray:
    """Return a thumbnail: a report of hundreds of frames keeps four of them for each."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _rgb(pixels: Frame) -> np.ndarray:
    """Return 8-bit RGB."""
    shift = 8 * (pixels.dtype.itemsize - 1)
    return (pixels[..., :3] >> shift).astype(np.uint8)


def _unit(pixels: Frame) -> jnp.ndarray:
    """Return one frame [1, height, width, 3] in [0, 1]."""
    return jnp.asarray(pixels[None], jnp.float32) / 255
