# SPDX-License-Identifier: Apache-2.0
"""Scores of an interpolation method, for every predicted frame and on average.

A method maps a sequence to predictions, window by window. Networks, baselines and filters all have
this form, so one table compares them under one protocol.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from flavr_jax.config import Precision
from flavr_jax.data.sequences import Clip, Picture, Sequence
from flavr_jax.data.sources import Average
from flavr_jax.inference.computation import NonFiniteError, cause_of
from flavr_jax.metrics import error, lpips, psnr, sharpness, ssim
from flavr_jax.typing import Windows

__all__ = [
    "METRICS",
    "Method",
    "Metric",
    "Outcome",
    "Sample",
    "mean",
    "means_of_sequences",
    "measure",
    "method_of_network",
    "perceptual_metric",
    "score",
]

Prediction: TypeAlias = Float[Array | np.ndarray, "time height width 3"]
Method: TypeAlias = Callable[[Sequence], Iterable[Prediction]]
"""Yields the predicted frames of each window of a sequence, in [0, 1] but not clamped."""
Metric: TypeAlias = Callable[[Prediction, Prediction], Float[Array, " time"]]

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "psnr_flavr": jax.jit(psnr.psnr_flavr),
        "psnr_uint8": jax.jit(psnr.psnr_uint8),
        "ssim_flavr": jax.jit(ssim.ssim_flavr),
        "ssim_2d": jax.jit(ssim.ssim_2d),
        "error_absolute": jax.jit(error.error_absolute),
        "error_rms": jax.jit(error.error_rms),
        "laplacian_ratio": jax.jit(sharpness.laplacian_ratio),
    }
)
"""Metrics that need no weights, by the name of their function; only LPIPS needs weights."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The prediction of a method for one window.

    Attributes:
        sequence: the window's sequence.
        window: number of the window in it.
        prediction: the frames inside the window's middle interval.
        seconds: computing time per frame, without the time to read the inputs.
    """

    sequence: Sequence
    window: int
    prediction: Float[np.ndarray, "time height width 3"]
    seconds: float

    def truth(self) -> Float[np.ndarray, "time height width 3"]:
        """Read the true frames."""
        indices = self.sequence.targets[self.window]
        return np.stack([self.sequence.read(index) for index in indices]).astype(np.float32) / 255


@dataclasses.dataclass(frozen=True)
class Sample:
    """The scores of one predicted frame.

    Attributes:
        sequence: name of the sequence.
        window: number of the window in it.
        time: of the frame; 0 and 1 are the inputs around the window's middle interval.
        values: scores by metric.
        seconds: computing time.
    """

    sequence: str
    window: int
    time: float
    values: Mapping[str, float]
    seconds: float


def method_of_network(
    predict: Callable[[Windows], Windows], n_outputs: int, precision: Precision | None = None
) -> Method:
    """Wrap a network as a method that yields the predicted frames for a sequence's factor.

    Args:
        predict: the network.
        n_outputs: how many frames it predicts per window.
        precision: what it computes in. If given, NaN or infinity is not scored but raises a
            :class:`flavr_jax.inference.computation.NonFiniteError`.
    """

    def method(sequence: Sequence) -> Iterator[Prediction]:
        step, remainder = divmod(n_outputs + 1, sequence.factor)
        if remainder:
            raise ValueError(
                f"the network predicts {n_outputs} frames (factor {n_outputs + 1}), but "
                f"{sequence.clip.name} is read for factor {sequence.factor}; choose a divisor."
            )
        for window, inputs in enumerate(sequence.windows()):
            frames = predict(jnp.asarray(inputs[None], jnp.float32) / 255)[0, step - 1 :: step]
            if precision is not None and not jnp.isfinite(frames).all():
                subject = f"the prediction for window {window} of {sequence.clip.name}"
                raise NonFiniteError(subject, cause_of(precision))
            yield frames

    return method


def perceptual_metric() -> Metric:
    """Return LPIPS as a metric; it needs the extra ``metrics``.

    Raises:
        ModuleNotFoundError: the extra is not installed.
    """
    return partial(lpips.lpips, lpips.load_weights())


def score(
    method: Method,
    sequences: Iterable[Sequence],
    metrics: Mapping[str, Metric] = METRICS,
    *,
    warm_up: bool = False,
    watch: Iterable[Callable[[Outcome, list[Sample]], None]] = (),
) -> list[Sample]:
    """Score a method on every frame of every sequence.

    Args:
        method: to score.
        sequences: to predict; those without targets get no scores.
        metrics: to measure.
        warm_up: before timing, predict one window for each size of frames, so that the times do not
            include compilation.
        watch: functions that are called with each window's outcome and scores.
    """
    samples: list[Sample] = []
    warm: set[tuple[int, ...]] = set()
    for sequence in sequences:
        shape = sequence.read(sequence.inputs[0]).shape
        if warm_up and shape not in warm:
            jax.block_until_ready(next(iter(method(sequence)), None))
            warm.add(shape)
        for outcome in _outcomes(method, sequence):
            scored = measure(outcome, metrics) if sequence.targets else []
            samples += scored
            for show in watch:
                show(outcome, scored)
    return samples


def measure(outcome: Outcome, metrics: Mapping[str, Metric] = METRICS) -> list[Sample]:
    """Score a window's frames."""
    truth = outcome.truth()
    values = {
        name: np.asarray(metric(outcome.prediction, truth)) for name, metric in metrics.items()
    }
    return [
        Sample(
            outcome.sequence.clip.name,
            outcome.window,
            (index + 1) / outcome.sequence.factor,
            {name: float(value[index]) for name, value in values.items()},
            outcome.seconds,
        )
        for index in range(len(truth))
    ]


def means_of_sequences(samples: Iterable[Sample]) -> dict[str, dict[str, float]]:
    """Return each sequence's averages by metric; "seconds" is one of them."""
    by_sequence: dict[str, list[Sample]] = {}
    for sample in samples:
        by_sequence.setdefault(sample.sequence, []).append(sample)
    return {name: _mean([_row(each) for each in of]) for name, of in by_sequence.items()}


def mean(samples: Iterable[Sample], average: Average = "samples") -> dict[str, float]:
    """Return the averages by metric; "seconds" is one of them.

    Args:
        samples: to average.
        average: whether each frame has the same weight (``samples``) or each sequence.
    """
    if average == "sequences":
        return _mean(list(means_of_sequences(samples).values()))
    return _mean([_row(sample) for sample in samples])


def _outcomes(method: Method, sequence: Sequence) -> Iterator[Outcome]:
    """Yield the outcomes of a sequence's windows; their times exclude reading frames."""
    clip = _TimedClip(sequence.clip)
    predictions = iter(method(dataclasses.replace(sequence, clip=clip)))
    for window in itertools.count():
        clip.seconds, started = 0.0, time.perf_counter()
        prediction = next(predictions, None)
        if prediction is None:
            return
        prediction = np.asarray(prediction, np.float32)
        seconds = time.perf_counter() - started - clip.seconds
        yield Outcome(sequence, window, prediction, seconds / len(prediction))


class _TimedClip:
    """A clip that adds up the time spent reading from it."""

    def __init__(self, clip: Clip) -> None:
        self.name, self.seconds = clip.name, 0.0
        self._clip = clip

    def __len__(self) -> int:
        return len(self._clip)

    def read(self, index: int) -> Picture:
        started = time.perf_counter()
        frame = self._clip.read(index)
        self.seconds += time.perf_counter() - started
        return frame

    def encoded(self, index: int) -> bytes:
        return self._clip.encoded(index)


def _row(sample: Sample) -> dict[str, float]:
    return {**sample.values, "seconds": sample.seconds}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}
