# SPDX-License-Identifier: Apache-2.0
"""The definition of conv3d: concatenate, convolve, apply the epilogue."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.core.epilogue import Activation, finish

__all__ = ["conv3d"]


def conv3d(
    inputs: tuple[Array, ...],
    kernel: Array,
    bias: Array | None = None,
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    pad_time: bool = True,
    scale: Array | None = None,
    residual: Array | None = None,
    activation: Activation = None,
) -> Array:
    """See :func:`pallas_kernels.conv3d`."""
    kt, kh, kw = kernel.shape[:3]
    pad = kt // 2 if pad_time else 0
    sums = lax.conv_general_dilated(
        jnp.concatenate(inputs, axis=-1),
        kernel,
        window_strides=stride,
        padding=[(pad, pad), (kh // 2, kh // 2), (kw // 2, kw // 2)],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return finish(sums, bias, scale, residual, activation)
