# SPDX-License-Identifier: Apache-2.0
"""The definition of conv3d: join, convolve, finish."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels._epilogue import Activation, finish

__all__ = ["conv3d"]


def conv3d(
    inputs: tuple[Array, ...],
    kernel: Array,
    bias: Array | None,
    stride: tuple[int, int, int],
    scale: Array | None,
    residual: Array | None,
    activation: Activation,
) -> Array:
    """See :func:`pallas_kernels.conv3d`."""
    sums = lax.conv_general_dilated(
        jnp.concatenate(inputs, axis=-1),
        kernel,
        window_strides=stride,
        padding=[(size // 2, size // 2) for size in kernel.shape[:3]],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return finish(sums, bias, scale, residual, activation)
