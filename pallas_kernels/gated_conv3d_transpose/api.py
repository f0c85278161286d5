# SPDX-License-Identifier: Apache-2.0
"""Transposed 3-D convolution that doubles height and width, then gate and activation."""

from __future__ import annotations

from jax import Array
from jaxtyping import Float

from pallas_kernels import _dispatch
from pallas_kernels._dispatch import Implementation, Implementations
from pallas_kernels._epilogue import Activation, Inputs, as_tuple, check_channels
from pallas_kernels.gate.api import gate
from pallas_kernels.gated_conv3d_transpose import reference, xla

__all__ = ["conv3d_transpose", "gated_conv3d_transpose"]

IMPLEMENTATIONS: Implementations = {
    "xla": xla.conv3d_transpose,
    "reference": reference.conv3d_transpose,
}


def gated_conv3d_transpose(
    inputs: Inputs,
    kernel: Float[Array, "kt kh kw in_channel channel"],
    bias: Float[Array, " channel"] | None,
    gate_kernel: Float[Array, "channel channel"],
    gate_bias: Float[Array, " channel"],
    *,
    activation: Activation = None,
    implementation: Implementation | None = None,
) -> Float[Array, "batch time height2 width2 channel"]:
    """``activation(gate(conv3d_transpose(inputs, kernel, bias)))``."""
    x = conv3d_transpose(inputs, kernel, bias, implementation=implementation)
    return gate(x, gate_kernel, gate_bias, activation=activation, implementation=implementation)


def conv3d_transpose(
    inputs: Inputs,
    kernel: Float[Array, "kt kh kw in_channel channel"],
    bias: Float[Array, " channel"] | None = None,
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "batch time height2 width2 channel"]:
    """Fractionally strided convolution: kernel 3×4×4, stride 1×2×2, padding 1 on every side.

    Args:
        inputs: ``[batch, time, height, width, channel]`` or a tuple to be joined along channels.
        kernel: the kernel of the equivalent convolution over the input with zeros between its
            pixels. PyTorch's ``ConvTranspose3d`` weight is this one with its taps reversed along
            time, height and width.
        bias: one value an output channel.
        implementation: see :data:`pallas_kernels.Implementation`.

    Raises:
        ValueError: for a kernel of another size, or channels that do not fit.
    """
    arrays = as_tuple(inputs)
    check_channels(arrays, kernel, rank=5)
    if kernel.shape[:3] != (3, 4, 4):
        raise ValueError(f"the kernel spans {kernel.shape[:3]}; only (3, 4, 4) is supported.")
    run = _dispatch.choose("gated_conv3d_transpose", IMPLEMENTATIONS, implementation)
    return run(arrays, kernel, bias)
