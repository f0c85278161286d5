# SPDX-License-Identifier: Apache-2.0
"""3-D convolution, then the gate, the residual and the activation, as one operation."""

from __future__ import annotations

from jax import Array
from jaxtyping import Float

from pallas_kernels.conv3d.api import PackedKernel, unless_packed
from pallas_kernels.core import dispatch
from pallas_kernels.core.dispatch import Candidate, Implementation, Implementations
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.feature_map import (
    FeatureMap,
    Inputs,
    as_maps,
    check_channels,
    for_kernel,
    on_values,
)
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.gated_conv3d import mosaic_gpu, reference, xla

__all__ = ["gated_conv3d"]

IMPLEMENTATIONS: Implementations = {
    "mosaic_gpu": Candidate(mosaic_gpu.gated_conv3d, unless_packed(mosaic_gpu.why_not)),
    "xla": Candidate(on_values(xla.gated_conv3d)),
    "reference": Candidate(on_values(reference.gated_conv3d), unless_packed()),
}


def gated_conv3d(
    inputs: Inputs,
    kernel: Float[Array, "kt kh kw in_channel channel"] | PackedKernel | QuantizedKernel,
    bias: Float[Array, " channel"] | None,
    gate_kernel: Float[Array, "channel channel"],
    gate_bias: Float[Array, " channel"],
    *,
    residual: Float[Array, "batch time height width channel"] | FeatureMap | None = None,
    activation: Activation = None,
    with_totals: bool = False,
    implementation: Implementation | None = None,
) -> FeatureMap:
    """``activation(gate(conv3d(inputs, kernel, bias)) + residual)`` at stride 1.

    Arguments and errors are those of :func:`pallas_kernels.conv3d` and
    :func:`pallas_kernels.gate`. Inputs that know their totals spare a pass over them.
    """
    maps = as_maps(inputs)
    check_channels(maps, kernel, rank=5)
    if any(size % 2 == 0 for size in kernel.shape[:3]):
        raise ValueError(f"the kernel spans {kernel.shape[:3]}; sizes must be odd.")
    maps, residual = for_kernel(maps, residual, kernel)
    return dispatch.call(
        "gated_conv3d",
        IMPLEMENTATIONS,
        implementation,
        maps,
        kernel,
        bias,
        gate_kernel,
        gate_bias,
        residual,
        activation,
        with_totals,
    )
