# SPDX-License-Identifier: Apache-2.0
"""Distances between predicted and true frames, weighted by time.

A window supervises the times at which its truth is known: an 8× network learns from 8×, 4× and
2× footage at once. Every window counts the same, however many of its times are known.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from flavr_jax.typing import Windows

__all__ = ["charbonnier", "l1"]


def l1(
    prediction: Windows, target: Windows, weights: Float[Array, "batch time"]
) -> Float[Array, ""]:
    """Mean absolute difference; the paper's loss."""
    return _average(jnp.abs(prediction - target), weights)


def charbonnier(
    prediction: Windows,
    target: Windows,
    weights: Float[Array, "batch time"],
    *,
    epsilon: float = 1e-3,
) -> Float[Array, ""]:
    """Mean of √(difference² + ε²): L1 with a rounded tip, so that small errors settle.

    References:
        Charbonnier et al. 1994, https://doi.org/10.1109/ICIP.1994.413553
    """
    difference = prediction - target
    return _average(jnp.sqrt(difference * difference + epsilon**2), weights)


def _average(
    distance: Float[Array, "batch time height width 3"], weights: Float[Array, "batch time"]
) -> Float[Array, ""]:
    """The mean over windows of the weighted mean over times; an unknown time has weight 0."""
    of_frame = distance.mean(axis=(2, 3, 4))
    known = weights > 0
    # A target without truth may be anything, even NaN: choose, do not multiply.
    total = jnp.where(known, weights * of_frame, 0.0).sum(axis=1)
    return (total / jnp.maximum(weights.sum(axis=1), 1e-6)).mean()
