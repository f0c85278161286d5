# SPDX-License-Identifier: Apache-2.0
"""Measurements for storing feature maps in 8 bits: their largest magnitudes, and PSNR lost.

The type is float8_e4m3fn, which spans 17 octaves with three mantissa bits. The exact scale
therefore matters little as long as nothing is clipped, so a scale leaves room above the largest
magnitude seen in calibration. Rounding is what matters: its relative error is up to 1/16.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr, quantized
from flavr_jax.quantization.clips import Example

__all__ = ["Measure", "PsnrLoss", "largest_magnitudes", "psnr_losses"]

# Mean squared error of rounding pixels to 8 bits, as a file does. Without it, a prediction that is
# more exact than a file, such as that of a still picture, would show a large but invisible loss.
_ROUNDING_ERROR = 1 / 255**2 / 12

_Predict: TypeAlias = Callable[[flavr.Parameters, Array], Array]


@dataclasses.dataclass(frozen=True)
class PsnrLoss:
    """Loss of PSNR against float32 for each clip, in dB, measured in two ways.

    Attributes:
        actual: the difference of PSNR. Over a few windows it varies and may be negative, because
            rounding errors may add to the network's own errors or cancel them.
        independent: the loss that errors of the same size cause if they are uncorrelated with the
            network's own errors.
    """

    actual: Mapping[str, float]
    independent: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean over clips, for the one of both measures whose mean is larger."""
        return max(
            float(np.mean(list(by_clip.values()))) for by_clip in (self.actual, self.independent)
        )

    @property
    def worst(self) -> float:
        """Loss of the clip that loses most."""
        return self.of(self.worst_clip)

    @property
    def worst_clip(self) -> str:
        """Name of the clip that loses most."""
        return max(self.actual, key=self.of)

    def of(self, clip: str) -> float:
        """Return the larger of both measures for a clip."""
        return max(self.actual[clip], self.independent[clip])

    def minus(self, other: PsnrLoss) -> PsnrLoss:
        """Subtract another loss that is part of this one, assuming that losses add up."""
        return PsnrLoss(
            {clip: lost - other.actual[clip] for clip, lost in self.actual.items()},
            {clip: lost - other.independent[clip] for clip, lost in self.independent.items()},
        )


Measure: TypeAlias = Callable[[Mapping[str, float]], PsnrLoss]
"""The loss of a network, given the scales of the feature maps that are stored in 8 bits."""


def largest_magnitudes(
    config: ModelConfig,
    params: flavr.Parameters,
    windows: Iterable[Float[np.ndarray, "n_inputs height width 3"]],
) -> dict[str, float]:
    """Return each feature map's largest magnitude on any of the windows, in order of computation.

    Raises:
        ValueError: some feature map is infinite or NaN.
    """
    run = jax.jit(functools.partial(quantized.ranges, config))
    found = dict.fromkeys(quantized.feature_maps(config), 0.0)
    for window in windows:
        met = jax.device_get(run(params, jnp.asarray(window)[None]))
        # Not Python's max, which may pass over a NaN.
        found = {name: float(np.maximum(found[name], met[name])) for name in found}
    if wrong := [name for name, value in found.items() if not np.isfinite(value)]:
        raise ValueError(
            f"the network's {', '.join(wrong)} is infinite or NaN on calibration clips, so it has "
            "no scale; check the checkpoint with `flavr evaluate`."
        )
    return found


def psnr_losses(
    config: ModelConfig, params: flavr.Parameters, examples: Sequence[Example]
) -> Measure:
    """Return a function that measures PSNR lost, for the scales of the maps in 8 bits.

    Each call compiles the network anew, because the program depends on the set of maps. It is freed
    after the call: dozens of programs would exceed the number of memory mappings that a process may
    have.

    Args:
        config: the network.
        params: in float32.
        examples: the windows that losses are measured on.
    """
    # bfloat16 is slow on a CPU. Float32 can stand in for it: bfloat16 loses only a hundredth of
    # what 8 bits lose.
    on_cpu = jax.default_backend() == "cpu"
    narrow = params if on_cpu else jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    with jax.default_matmul_precision("highest"):  # a GPU would take TF32 for float32
        run = _new_program(config)
        exact = [_predict(config, run, params, each) for each in examples]

    def measure(scales: Mapping[str, float]) -> PsnrLoss:
        packed = quantized.pack(config, narrow, scales)
        run = _new_program(config)
        lost: dict[str, list[tuple[float, float]]] = {}
        for each, wanted in zip(examples, exact):
            of_window = _lost(_predict(config, run, packed, each), wanted, each.truth)
            lost.setdefault(each.clip, []).append(of_window)
        means = {clip: np.mean(pairs, axis=0).tolist() for clip, pairs in lost.items()}
        return PsnrLoss(*({clip: pair[n] for clip, pair in means.items()} for n in (0, 1)))

    return measure


def _new_program(config: ModelConfig) -> _Predict:
    """Return the network as a new jitted function.

    JAX keeps compiled programs as long as the function object that they belong to, so dropping the
    function frees its program.
    """
    return jax.jit(functools.partial(flavr.apply, config))


def _predict(
    config: ModelConfig, run: _Predict, params: flavr.Parameters, example: Example
) -> Float[np.ndarray, "between height width 3"]:
    """Return the predicted frames for which an example has true frames."""
    step = config.factor // (len(example.truth) + 1)
    outputs = run(params, jnp.asarray(example.inputs)[None])
    return np.asarray(outputs[0, step - 1 :: step])


def _lost(narrow: np.ndarray, exact: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the actual and the independent loss of a window in dB; see :class:`PsnrLoss`."""

    def error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))

    own = error(exact, truth) + _ROUNDING_ERROR
    actual = 10 * np.log10((error(narrow, truth) + _ROUNDING_ERROR) / own).mean()
    independent = 10 * np.log10(1 + error(narrow, exact) / own).mean()
    if np.isnan(independent):  # no comparison with NaN is true, so it would exceed no limit
        return math.inf, math.inf
    return float(actual), float(independent)
