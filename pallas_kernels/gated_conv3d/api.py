# SPDX-License-Identifier: Apache-2.0
"""3-D convolution, then the gate, the residual and the activation, as one operation."""

from __future__ import annotations

from jax import Array
from jaxtyping import Float

from pallas_kernels._dispatch import Implementation
from pallas_kernels._epilogue import Activation, Inputs
from pallas_kernels.conv3d.api import conv3d
from pallas_kernels.gate.api import gate

__all__ = ["gated_conv3d"]


def gated_conv3d(
    inputs: Inputs,
    kernel: Float[Array, "kt kh kw in_channel channel"],
    bias: Float[Array, " channel"] | None,
    gate_kernel: Float[Array, "channel channel"],
    gate_bias: Float[Array, " channel"],
    *,
    residual: Float[Array, "batch time height width channel"] | None = None,
    activation: Activation = None,
    implementation: Implementation | None = None,
) -> Float[Array, "batch time height width channel"]:
    """``activation(gate(conv3d(inputs, kernel, bias)) + residual)`` at stride 1.

    Arguments and errors are those of :func:`pallas_kernels.conv3d` and
    :func:`pallas_kernels.gate`.
    """
    x = conv3d(inputs, kernel, bias, implementation=implementation)
    return gate(
        x,
        gate_kernel,
        gate_bias,
        residual=residual,
        activation=activation,
        implementation=implementation,
    )
