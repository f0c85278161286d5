# SPDX-License-Identifier: Apache-2.0
"""The definition of gated_conv3d: convolve, then gate."""

from __future__ import annotations

from jax import Array

from pallas_kernels.conv3d import reference
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.gate.reference import gate

__all__ = ["gated_conv3d"]


def gated_conv3d(
    inputs: tuple[Array, ...],
    kernel: Array,
    bias: Array | None,
    gate_kernel: Array,
    gate_bias: Array,
    residual: Array | None,
    activation: Activation,
) -> Array:
    """See :func:`pallas_kernels.gated_conv3d`."""
    x = reference.conv3d(inputs, kernel, bias)
    return gate(x, gate_kernel, gate_bias, residual=residual, activation=activation)
