# SPDX-License-Identifier: Apache-2.0
"""Scores of an interpolation method: of every sequence, and their average.

A method maps the frames of a sequence to predictions, window by window. Networks, baselines and
filters are all that, so that one table compares them under one protocol.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from flavr_jax.data.protocols import Protocol, read_sequences
from flavr_jax.inference.windows import BOUNDARIES, extend
from flavr_jax.metrics import psnr
from flavr_jax.typing import Frames, Windows

__all__ = ["Method", "Score", "mean", "method_of_network", "score", "score_boundaries"]

Method: TypeAlias = Callable[
    [Frames, Protocol], Iterable[Float[Array | np.ndarray, "time height width 3"]]
]


@dataclasses.dataclass(frozen=True)
class Score:
    """Means over the windows and times of one sequence, or over sequences; in dB."""

    psnr_flavr: float
    psnr_uint8: float


def method_of_network(predict: Callable[[Windows], Windows], n_outputs: int) -> Method:
    """A network as a method; of the frames that it predicts, those that the protocol asks for."""

    def method(frames: Frames, protocol: Protocol) -> Iterator[Float[Array, "time height width 3"]]:
        step, remainder = divmod(n_outputs + 1, protocol.factor)
        if remainder:
            raise ValueError(
                f"the network predicts {n_outputs} frames (factor {n_outputs + 1}), but protocol "
                f"{protocol.name} asks for factor {protocol.factor}; choose a divisor."
            )
        for inputs, _ in protocol.windows(frames):
            yield predict(jnp.asarray(inputs[None], jnp.float32) / 255)[0, step - 1 :: step]

    return method


def score(method: Method, protocol: Protocol, folder: Path) -> dict[str, Score]:
    """Score a method on each sequence of a folder."""
    scores = {}
    for name, frames in read_sequences(folder, protocol):
        values = [
            _measure(prediction, targets.astype(np.float32) / 255)
            for prediction, (_, targets) in zip(method(frames, protocol), protocol.windows(frames))
        ]
        scores[name] = Score(*(float(value) for value in np.mean(values, axis=(0, 2))))
    return scores


def score_boundaries(
    predict: Callable[[Windows], Windows], n_outputs: int, protocol: Protocol, folder: Path
) -> dict[str, dict[str, Score]]:
    """Scores of the first and last interval of each sequence, by how missing frames are made up.

    For a network of four inputs: one of them is made up, from the three at that end.
    """
    step = (n_outputs + 1) // protocol.factor
    scores: dict[str, dict[str, Score]] = {}
    for name, frames in read_sequences(folder, protocol):
        inputs = frames[:: protocol.factor]
        last = (len(inputs) - 2) * protocol.factor
        for boundary in BOUNDARIES:
            values = []
            for kept, before, start in ((inputs[:3], 1, 0), (inputs[-3:], 0, last)):
                window = np.stack(list(extend(kept, before, 1 - before, boundary)))
                prediction = predict(jnp.asarray(window[None], jnp.float32) / 255)[0]
                targets = frames[start + 1 : start + protocol.factor].astype(np.float32) / 255
                values.append(_measure(prediction[step - 1 :: step], targets))
            scores.setdefault(boundary, {})[name] = Score(
                *(float(value) for value in np.mean(values, axis=(0, 2)))
            )
    return scores


def mean(scores: dict[str, Score]) -> Score:
    """The average over sequences, each counting once, however long."""
    return Score(*np.mean([dataclasses.astuple(one) for one in scores.values()], axis=0).tolist())


@jax.jit
def _measure(
    prediction: Float[Array, "time height width 3"], target: Float[Array, "time height width 3"]
) -> tuple[Float[Array, " time"], Float[Array, " time"]]:
    return psnr.psnr_flavr(prediction, target), psnr.psnr_uint8(prediction, target)
