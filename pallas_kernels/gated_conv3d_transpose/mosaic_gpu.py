# SPDX-License-Identifier: Apache-2.0
"""gated_conv3d_transpose on Hopper's tensor cores: four 3×2×2 convolutions in one launch.

Each output pixel (2·y + p, 2·x + q) is a 3×2×2 convolution of the input with every second tap of
the kernel. The four phases (p, q) are tiles of one kernel, stored interleaved.
"""

from __future__ import annotations

from typing import Any

from jax import Array

from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.hopper import launch
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.gradients import differentiable_scaled, gate_scale

__all__ = ["gated_conv3d_transpose", "why_not"]

_GEOMETRY = Geometry((3, 4, 4), (1, 1, 1), phases=2)


def why_not(inputs: tuple[FeatureMap, ...], kernel: Array | QuantizedKernel, *_: Any) -> str | None:
    """Why this cannot run here on these arguments; None if it can."""
    return launch.why_not(inputs, kernel)


def gated_conv3d_transpose(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    bias: Array | None,
    gate_kernel: Array,
    gate_bias: Array,
    activation: Activation,
    with_totals: bool,
) -> FeatureMap:
    """See :func:`pallas_kernels.gated_conv3d_transpose`, whose gradient ``_gradients.py`` has."""

    def forward(inputs: Any, kernel: Any, bias: Any, gate: Any, residual: None) -> FeatureMap:
        scale, offset = launch.gate(inputs, kernel, bias, gate, phases=2)
        return launch.convolve(
            *_as_gemm(inputs, kernel),
            scale=scale,
            offset=offset,
            activation=activation,
            totals=with_totals,
        )

    gate = (gate_kernel, gate_bias)
    if isinstance(kernel, QuantizedKernel):
        return forward(inputs, kernel, bias, gate, None)
    run = differentiable_scaled(forward, _as_gemm, gate_scale, activation)
    return run(inputs, kernel, bias, gate, None)


def _as_gemm(
    inputs: tuple[FeatureMap, ...], kernel: Any
) -> tuple[tuple[FeatureMap, ...], Any, Geometry, tuple[int, int, int]]:
    """Inputs, kernel, geometry and output size for :func:`launch.convolve`."""
    _, time, height, width, _ = inputs[0].values.shape
    return inputs, kernel, _GEOMETRY, (time, height, width)
