# SPDX-License-Identifier: Apache-2.0
"""gated_conv3d_transpose on Hopper's tensor cores: four 3×2×2 convolutions in one launch.

Each output pixel (2·y + p, 2·x + q) is a 3×2×2 convolution of the input with every second tap of
the kernel. The four phases (p, q) are tiles of one kernel, stored interleaved. The gate is that of
:func:`pallas_kernels.hopper.launch.gated`.
"""

from __future__ import annotations

from jax import Array

from pallas_kernels.core.arguments import GatedArguments
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.hopper import launch
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.gradients import Gemm

__all__ = ["gated_conv3d_transpose", "why_not"]

# In each phase two taps in height and width, of which the first is at −1 + phase.
_GEOMETRY = Geometry((3, 4, 4), (1, 1, 1), phases=2)


def why_not(arguments: GatedArguments) -> str | None:
    """Why this cannot run here on these arguments; None if it can."""
    return launch.why_not(arguments.inputs, arguments.kernel)


def gated_conv3d_transpose(arguments: GatedArguments) -> FeatureMap:
    """See :func:`pallas_kernels.gated_conv3d_transpose`."""
    return launch.gated(arguments, _as_gemm)


def _as_gemm(inputs: tuple[FeatureMap, ...], kernel: Array | QuantizedKernel) -> Gemm:
    """The convolution as :func:`implicit_gemm` runs it; the size is that of one phase."""
    _, time, height, width, _ = inputs[0].values.shape
    return Gemm(inputs, kernel, _GEOMETRY, (time, height, width))
