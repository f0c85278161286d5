# SPDX-License-Identifier: Apache-2.0
"""Structural similarity (Wang et al., 2004), one value per frame.

Two variants are in use in this field. FLAVR's tables, and those compared with them, show
``ssim_flavr``, which has one 3-D window over height, width and colour. ``ssim_2d`` measures each
colour by itself, as the definition does, and gives lower values. Both clamp frames to [0, 1] and
repeat their edges.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

__all__ = ["ssim_2d", "ssim_flavr"]

_RADIUS = 5  # of the window, in pixels
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2  # keep the quotients finite where frames are flat


def ssim_flavr(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    """Return SSIM with a window of 11³ and repeated edges, FLAVR's ``ssim_matlab``."""
    return _ssim(prediction, target, _mean_3d)


def ssim_2d(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
) -> Float[Array, "*frames"]:
    """Return SSIM with a window of 11² on each colour and repeated edges, FLAVR's 2-D variant."""
    return _ssim(prediction, target, _mean_2d)


def _ssim(
    prediction: Float[Array, "*frames height width 3"],
    target: Float[Array, "*frames height width 3"],
    mean: Callable[[Array], Array],
) -> Float[Array, "*frames"]:
    x, y = jnp.clip(prediction, 0.0, 1.0), jnp.clip(target, 0.0, 1.0)
    mean_x, mean_y = mean(x), mean(y)
    variance_x = mean(x * x) - mean_x**2
    variance_y = mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return (luminance * structure).mean(axis=(-3, -2, -1))


def _gaussian() -> np.ndarray:
    weights = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * _SIGMA**2))
    return weights / weights.sum()


def _mean_2d(frames: Float[Array, "*frames height width 3"]) -> Float[Array, "*frames _h _w 3"]:
    edges = [(0, 0)] * (frames.ndim - 3) + [(_RADIUS, _RADIUS), (_RADIUS, _RADIUS), (0, 0)]
    down = _smooth(jnp.pad(frames, edges, mode="edge"), -3)
    # Without the barrier, XLA would compute the first pass again for every term of the second.
    return _smooth(lax.optimization_barrier(down), -2)


def _mean_3d(frames: Float[Array, "*frames height width 3"]) -> Float[Array, "*frames _h _w 3"]:
    # With edges repeated, a window of 11 along three colours is a weighted sum of the three.
    nearest = np.clip(np.arange(3)[:, None] + np.arange(-_RADIUS, _RADIUS + 1), 0, 2)
    mixture = np.zeros((3, 3))
    for colour in range(3):
        # Indices repeat at the edges, and add.at adds up all their weights.
        np.add.at(mixture[colour], nearest[colour], _gaussian())
    mixed = jnp.stack(
        [sum(float(mixture[to, of]) * frames[..., of] for of in range(3)) for to in range(3)], -1
    )
    return _mean_2d(mixed)


def _smooth(frames: Array, axis: int) -> Array:
    """Apply the Gaussian window along one axis, without padding."""
    # A sum of shifts is faster than a convolution with so few channels.
    axis += frames.ndim
    length = frames.shape[axis] - 2 * _RADIUS
    total = jnp.zeros(())
    for shift, weight in enumerate(_gaussian()):
        total = total + float(weight) * lax.slice_in_dim(frames, shift, shift + length, axis=axis)
    return total
