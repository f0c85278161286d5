# SPDX-License-Identifier: Apache-2.0
"""Scores of a clip's first and last interval, where the network's window lacks a frame.

The missing frame is synthesised; the scores compare the ways to do that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np

from flavr_jax.config import Precision
from flavr_jax.data.sequences import Sequence
from flavr_jax.evaluation.scoring import METRICS, Outcome, Sample, measure
from flavr_jax.inference.computation import NonFiniteError, cause_of
from flavr_jax.inference.windows import BOUNDARIES, Boundary, extend
from flavr_jax.typing import Windows

__all__ = ["score_boundaries"]

_KEPT = 3  # inputs that exist; the fourth is synthesised from them


def score_boundaries(
    predict: Callable[[Windows], Windows],
    n_outputs: int,
    sequences: Iterable[Sequence],
    precision: Precision = "fp32",
) -> dict[Boundary, list[Sample]]:
    """Score a network of four inputs on the end intervals of sequences, for each boundary.

    Args:
        predict: the network.
        n_outputs: how many frames it predicts per window.
        sequences: to predict.
        precision: what the network computes in, for an error message.

    Raises:
        ValueError: a sequence is too short, or lacks the frames inside its end intervals.
        NonFiniteError: a prediction is NaN or infinite.
    """
    metrics = {name: METRICS[name] for name in ("psnr_flavr", "psnr_uint8")}
    scores: dict[Boundary, list[Sample]] = {boundary: [] for boundary in BOUNDARIES}
    for sequence in sequences:
        # An 8× network predicts seven frames; a 2× sequence knows only the middle one.
        step = (n_outputs + 1) // sequence.factor
        for before, numbers, inside in _ends(sequence):
            kept = [sequence.read(number) for number in numbers]
            ends = Sequence(
                sequence.clip, sequence.factor, tuple(numbers), (inside,), sequence.crop
            )
            for boundary, samples in scores.items():
                window = np.stack(list(extend(kept, before, 1 - before, boundary)))
                prediction = predict(jnp.asarray(window[None], jnp.float32) / 255)[0]
                frames = np.asarray(prediction[step - 1 :: step], np.float32)
                if not np.isfinite(frames).all():
                    subject = f"the prediction at an end of {sequence.clip.name}"
                    raise NonFiniteError(subject, cause_of(precision))
                samples += measure(Outcome(ends, 0, frames, 0.0), metrics)
    return scores


def _ends(sequence: Sequence) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Return for each end: number of frames missing before it, inputs, and target frames."""
    inputs, factor = sequence.inputs, sequence.factor
    gaps = {after - before for before, after in itertools.pairwise(inputs)}
    if len(inputs) < _KEPT or gaps != {factor}:
        raise ValueError(
            f"{sequence.clip.name} has no end intervals with known frames; compare boundaries on "
            "sequences of frames that were all filmed, such as davis-2x."
        )
    first, last = inputs[0], inputs[-2]
    return [
        (1, inputs[:_KEPT], tuple(range(first + 1, first + factor))),
        (0, inputs[-_KEPT:], tuple(range(last + 1, last + factor))),
    ]
