# SPDX-License-Identifier: Apache-2.0
"""What a convolution does to its sums before it stores them, and checks that all share."""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

__all__ = ["Activation", "Inputs", "activate", "as_tuple", "check_channels", "finish"]

Activation: TypeAlias = Literal["relu", "leaky_relu"] | None
"""``leaky_relu`` has the slope 0.2 below zero."""

Inputs: TypeAlias = Float[Array, "batch *in_size in_channel"] | tuple[Array, ...]
"""One array, or several that count as one joined along its channels."""

LEAKY_SLOPE = 0.2


def as_tuple(inputs: Inputs) -> tuple[Array, ...]:
    """The arrays to be joined along channels, also when there is only one."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def activate(x: Array, activation: Activation) -> Array:
    """The activation of that name; None is the identity."""
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
        scale: ``[batch, channel]``, one factor a sample and channel.
        residual: of the shape of ``sums``.
        activation: applied last.
    """
    if bias is not None:
        sums = sums + bias
    if scale is not None:
        inner = (1,) * (sums.ndim - 2)
        sums = sums * scale.reshape(scale.shape[0], *inner, scale.shape[1])
    if residual is not None:
        sums = sums + residual
    return activate(sums, activation)


def check_channels(inputs: tuple[Array, ...], kernel: Array, rank: int) -> None:
    """Raises a ValueError where the inputs do not fit ``kernel`` ([…, in, out])."""
    for x in inputs:
        if x.ndim != rank or x.shape[:-1] != inputs[0].shape[:-1]:
            raise ValueError(
                f"the inputs have the shapes {[x.shape for x in inputs]}; they must be "
                f"{rank}-dimensional and agree in every axis but the last, the channels."
            )
    channels = sum(x.shape[-1] for x in inputs)
    if kernel.ndim != rank or kernel.shape[-2] != channels:
        raise ValueError(
            f"the kernel has the shape {kernel.shape}, but the inputs have {channels} channels; "
            f"it must be {rank}-dimensional with {channels} as its last axis but one."
        )
