# SPDX-License-Identifier: Apache-2.0
"""The epilogue: elementwise operations on a convolution's sums before they are stored."""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["LEAKY_SLOPE", "Activation", "activate", "finish"]

Activation: TypeAlias = Literal["relu", "leaky_relu"] | None
"""``leaky_relu`` has the slope 0.2 below zero."""

LEAKY_SLOPE = 0.2


def activate(x: Array, activation: Activation) -> Array:
    """Apply the named activation; None is the identity."""
    if activation is None:
        return x
    if activation == "relu":
        return jax.nn.relu(x)
    return jnp.where(x >= 0, x, LEAKY_SLOPE * x)


def finish(
    sums: Array,
    bias: Array | None = None,
    scale: Array | None = None,
    residual: Array | None = None,
    activation: Activation = None,
) -> Array:
    """``activation((sums + bias) · scale + residual)``.

    Args:
        sums: ``[batch, …, channel]``.
        bias: ``[channel]``.
        scale: ``[batch, channel]``, one factor per sample and channel.
        residual: same shape as ``sums``, or of fewer samples, each for as many of ``sums``.
        activation: applied last.
    """
    if bias is not None:
        sums = sums + bias
    if scale is not None:
        # Batch and channel keep their axes; the axes between them broadcast.
        inner = (1,) * (sums.ndim - 2)
        sums = sums * scale.reshape(scale.shape[0], *inner, scale.shape[1])
    if residual is not None:
        shared = sums.shape[0] // residual.shape[0]
        sums = sums + (residual if shared == 1 else jnp.repeat(residual, shared, axis=0))
    return activate(sums, activation)
