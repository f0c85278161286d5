# SPDX-License-Identifier: Apache-2.0
"""gated_conv3d on Hopper's tensor cores, in one pass: see ``hopper/launch.py``."""

from __future__ import annotations

from jax import Array

from pallas_kernels.core.arguments import GatedArguments
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.hopper import launch
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.gradients import Gemm

__all__ = ["gated_conv3d", "why_not"]


def why_not(arguments: GatedArguments) -> str | None:
    """Reason why this cannot run here on these arguments; None if it can."""
    size = arguments.kernel.shape[:3]
    if max(size) > 3:  # `gate_ahead` has border sums for these sizes only
        return f"it has kernels of 1 or 3 taps an axis, and got {size}"
    return launch.why_not(arguments.inputs, arguments.kernel)


def gated_conv3d(arguments: GatedArguments) -> FeatureMap:
    """See :func:`pallas_kernels.gated_conv3d`."""
    return launch.gated(arguments, _as_gemm)


def _as_gemm(inputs: tuple[FeatureMap, ...], kernel: Array | QuantizedKernel) -> Gemm:
    """The convolution as :func:`implicit_gemm` runs it."""
    kt, kh, kw = kernel.shape[:3]
    _, time, height, width, _ = inputs[0].values.shape
    # Odd kernel sizes with half of them as padding keep the size of the input.
    geometry = Geometry((kt, kh, kw), (kt // 2, kh // 2, kw // 2))
    return Gemm(inputs, kernel, geometry, (time, height, width))
