# SPDX-License-Identifier: Apache-2.0
"""gated_conv3d_transpose on Hopper's tensor cores: four 3×2×2 convolutions in one launch.

The output pixels (2·y + p, 2·x + q) of a phase (p, q) are a 3×2×2 convolution of the input with
every second tap of the kernel. One launch computes the tiles of all four phases and stores them
interleaved. :func:`pallas_kernels.hopper.launch.gated` applies the gate.
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

# Each phase has two taps in height and width, the first of which reads pixel −1 + phase.
_GEOMETRY = Geometry((3, 4, 4), (1, 1, 1), phases=2)


def why_not(arguments: GatedArguments) -> str | None:
    """Reason why this cannot run here on these arguments; None if it can."""
    return launch.why_not(arguments.inputs, arguments.kernel)


def gated_conv3d_transpose(arguments: GatedArguments) -> FeatureMap:
    """See :func:`pallas_kernels.gated_conv3d_transpose`."""
    return launch.gated(arguments, _as_gemm)


def _as_gemm(inputs: tuple[FeatureMap, ...], kernel: Array | QuantizedKernel) -> Gemm:
    """The convolution as :func:`implicit_gemm` runs it; the size is that of one phase."""
    _, time, height, width, _ = inputs[0].values.shape
    return Gemm(inputs, kernel, _GEOMETRY, (time, height, width))
