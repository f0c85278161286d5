# SPDX-License-Identifier: Apache-2.0
"""Transposed 3-D convolution (height and width doubled), gate and activation as one operation."""

from __future__ import annotations

from jax import Array
from jaxtyping import Float

from pallas_kernels.conv3d.api import PackedKernel, unless_packed
from pallas_kernels.core import dispatch
from pallas_kernels.core.arguments import GatedArguments, on_arrays
from pallas_kernels.core.dispatch import Candidate, Implementation
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.feature_map import FeatureMap, Inputs
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.gated_conv3d.api import gated_arguments
from pallas_kernels.gated_conv3d_transpose import mosaic_gpu, reference, xla

__all__ = ["gated_conv3d_transpose"]

IMPLEMENTATIONS: dict[Implementation, Candidate[GatedArguments, FeatureMap]] = {
    "mosaic_gpu": Candidate(mosaic_gpu.gated_conv3d_transpose, unless_packed(mosaic_gpu.why_not)),
    "xla": Candidate(on_arrays(xla.gated_conv3d_transpose)),
    "reference": Candidate(on_arrays(reference.gated_conv3d_transpose), unless_packed()),
}


def gated_conv3d_transpose(
    inputs: Inputs,
    kernel: Float[Array, "kt kh kw in_channel channel"] | PackedKernel | QuantizedKernel,
    bias: Float[Array, " channel"] | None,
    gate_kernel: Float[Array, "channel channel"],
    gate_bias: Float[Array, " channel"],
    *,
    activation: Activation = None,
    with_totals: bool = False,
    implementation: Implementation | None = None,
) -> FeatureMap:
    """``activation(gate(transposed convolution of inputs + bias))``.

    The convolution has a 3×4×4 kernel, stride 1×2×2, and padding 1 on every side.

    Args:
        inputs: ``[batch, time, height, width, channel]``, or a tuple of such arrays or feature
            maps, which is convolved as if concatenated along the channels. Inputs with ``totals``
            need one pass less.
        kernel: the kernel of the equivalent convolution over the input with zeros between its
            pixels. PyTorch's ``ConvTranspose3d`` weight has the taps reversed along time, height
            and width.
        bias: one value per output channel.
        gate_kernel: ``kernel`` of :func:`pallas_kernels.gate`.
        gate_bias: ``bias`` of :func:`pallas_kernels.gate`.
        activation: applied last.
        with_totals: see :func:`pallas_kernels.conv3d`.
        implementation: see :data:`pallas_kernels.Implementation`.

    Returns:
        ``[batch, time, 2·height, 2·width, channel]`` as ``values``.

    Raises:
        ValueError: the kernel has another size, or channels do not match.
        NotImplementedError: the named implementation cannot run here.
    """
    arguments = gated_arguments(
        inputs, kernel, bias, (gate_kernel, gate_bias), None, activation, with_totals
    )
    if kernel.shape[:3] != (3, 4, 4):
        raise ValueError(f"the kernel spans {kernel.shape[:3]}; only (3, 4, 4) is supported.")
    return dispatch.call("gated_conv3d_transpose", IMPLEMENTATIONS, implementation, arguments)
