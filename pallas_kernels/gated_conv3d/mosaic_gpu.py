# SPDX-License-Identifier: Apache-2.0
"""gated_conv3d on Hopper's tensor cores: the gate is known before the convolution runs.

Its scale follows from sums over the input (see ``_gate_kernel.py``), so it goes into the epilogue
with bias, residual and activation, and the output is written once.
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

__all__ = ["gated_conv3d", "why_not"]


def why_not(inputs: tuple[FeatureMap, ...], kernel: Array | QuantizedKernel, *_: Any) -> str | None:
    """Why this cannot run here on these arguments; None if it can."""
    if max(kernel.shape[:3]) > 3:
        return f"it has kernels of 1 or 3 taps an axis, and got {kernel.shape[:3]}"
    return launch.why_not(inputs, kernel)


def gated_conv3d(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    bias: Array | None,
    gate_kernel: Array,
    gate_bias: Array,
    residual: FeatureMap | None,
    activation: Activation,
    with_totals: bool,
) -> FeatureMap:
    """See :func:`pallas_kernels.gated_conv3d`, whose gradient ``_gradients.py`` has."""

    def forward(inputs: Any, kernel: Any, bias: Any, gate: Any, residual: Any) -> FeatureMap:
        scale, offset = launch.gate(inputs, kernel, bias, gate)
        return launch.convolve(
            *_as_gemm(inputs, kernel),
            scale=scale,
            offset=offset,
            residual=residual,
            activation=activation,
            totals=with_totals,
        )

    gate = (gate_kernel, gate_bias)
    if isinstance(kernel, QuantizedKernel):
        return forward(inputs, kernel, bias, gate, residual)
    run = differentiable_scaled(forward, _as_gemm, gate_scale, activation)
    return run(inputs, kernel, bias, gate, residual)


def _as_gemm(
    inputs: tuple[FeatureMap, ...], kernel: Any
) -> tuple[tuple[FeatureMap, ...], Any, Geometry, tuple[int, int, int]]:
    """Inputs, kernel, geometry and output size for :func:`launch.convolve`."""
    kt, kh, kw = kernel.shape[:3]
    _, time, height, width, _ = inputs[0].values.shape
    geometry = Geometry((kt, kh, kw), (kt // 2, kh // 2, kw // 2))
    return inputs, kernel, geometry, (time, height, width)
