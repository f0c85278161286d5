# SPDX-License-Identifier: Apache-2.0
"""3-D convolution, gate, residual and activation as one operation."""

from __future__ import annotations

from jax import Array
from jaxtyping import Float

from pallas_kernels.conv3d.api import PackedKernel, unless_packed
from pallas_kernels.core import dispatch
from pallas_kernels.core.arguments import GatedArguments, on_arrays
from pallas_kernels.core.dispatch import Candidate, Implementation
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.feature_map import (
    FeatureMap,
    Inputs,
    as_maps,
    check_channels,
    for_kernel,
)
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.gated_conv3d import mosaic_gpu, reference, xla

__all__ = ["gated_arguments", "gated_conv3d"]

IMPLEMENTATIONS: dict[Implementation, Candidate[GatedArguments, FeatureMap]] = {
    "mosaic_gpu": Candidate(mosaic_gpu.gated_conv3d, unless_packed(mosaic_gpu.why_not)),
    "xla": Candidate(on_arrays(xla.gated_conv3d)),
    "reference": Candidate(on_arrays(reference.gated_conv3d), unless_packed()),
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
    :func:`pallas_kernels.gate`. Inputs with ``totals`` need one pass less.
    """
    arguments = gated_arguments(
        inputs, kernel, bias, (gate_kernel, gate_bias), residual, activation, with_totals
    )
    if any(size % 2 == 0 for size in kernel.shape[:3]):
        raise ValueError(f"the kernel spans {kernel.shape[:3]}; sizes must be odd.")
    return dispatch.call("gated_conv3d", IMPLEMENTATIONS, implementation, arguments)


def gated_arguments(
    inputs: Inputs,
    kernel: Float[Array, "kt kh kw in_channel channel"] | PackedKernel | QuantizedKernel,
    bias: Float[Array, " channel"] | None,
    gate: tuple[Float[Array, "channel channel"], Float[Array, " channel"]],
    residual: Float[Array, "batch time height width channel"] | FeatureMap | None,
    activation: Activation,
    with_totals: bool,
) -> GatedArguments:
    """Check and collect the arguments of a gated convolution, transposed or not.

    Raises:
        ValueError: channels do not match, or the kernel cannot multiply an input's dtype.
    """
    maps = as_maps(inputs)
    check_channels(maps, kernel, rank=5)
    maps, residual = for_kernel(maps, residual, kernel)
    return GatedArguments(
        inputs=maps,
        kernel=kernel,
        bias=bias,
        gate_kernel=gate[0],
        gate_bias=gate[1],
        residual=residual,
        activation=activation,
        with_totals=with_totals,
    )
