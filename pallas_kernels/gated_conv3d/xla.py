# SPDX-License-Identifier: Apache-2.0
"""gated_conv3d for XLA in two steps, the convolution and the gate."""

from __future__ import annotations

from jax import Array

from pallas_kernels.conv3d import xla
from pallas_kernels.conv3d.winograd import TapsAtPoints
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.int8 import Int8Kernel
from pallas_kernels.gate.reference import gate

__all__ = ["gated_conv3d"]


def gated_conv3d(
    inputs: tuple[Array, ...],
    kernel: Array | TapsAtPoints | Int8Kernel,
    bias: Array | None,
    gate_kernel: Array,
    gate_bias: Array,
    residual: Array | None,
    activation: Activation,
) -> Array:
    """See :func:`pallas_kernels.gated_conv3d`."""
    x = xla.conv3d(inputs, kernel, bias)
    return gate(x, gate_kernel, gate_bias, residual=residual, activation=activation)
