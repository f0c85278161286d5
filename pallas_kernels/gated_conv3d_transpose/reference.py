# SPDX-License-Identifier: Apache-2.0
"""The definition of the transposed convolution: insert zeros between pixels, then convolve."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.core.epilogue import Activation, finish
from pallas_kernels.gate.reference import gate

__all__ = ["conv3d_transpose", "gated_conv3d_transpose"]


def gated_conv3d_transpose(
    inputs: tuple[Array, ...],
    kernel: Array,
    bias: Array | None,
    gate_kernel: Array,
    gate_bias: Array,
    residual: Array | None,
    activation: Activation,
) -> Array:
    """See :func:`pallas_kernels.gated_conv3d_transpose`."""
    x = conv3d_transpose(inputs, kernel, bias)
    return gate(x, gate_kernel, gate_bias, residual=residual, activation=activation)


def conv3d_transpose(inputs: tuple[Array, ...], kernel: Array, bias: Array | None) -> Array:
    """Kernel 3×4×4, stride 1×2×2, padding 1: ``[b, t, 2·height, 2·width, channel]``."""
    sums = lax.conv_general_dilated(
        jnp.concatenate(inputs, axis=-1),
        kernel,
        window_strides=(1, 1, 1),
        # A transposed padding of 1 with 4 taps is a padding of 4 − 1 − 1 = 2 after zero insertion.
        padding=[(1, 1), (2, 2), (2, 2)],
        lhs_dilation=(1, 2, 2),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return finish(sums, bias)
