# SPDX-License-Identifier: Apache-2.0
"""Convolution and gating operations for 3-D networks on video, each with several implementations.

Every operation takes channels-last arrays and an ``implementation``. None means the fastest one
that runs on the default device and these arguments. A name from :data:`Implementation` means that
one, or an error if it cannot run. :func:`explain` lists the choices and their reasons.
"""

from pallas_kernels.conv2d.api import conv2d
from pallas_kernels.conv3d.api import PackedKernel, conv3d, pack_kernel
from pallas_kernels.core.device import assume_hopper, interpret, why_not_int8
from pallas_kernels.core.dispatch import Choice, Implementation, explain
from pallas_kernels.core.epilogue import Activation, activate
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.core.fp8 import LARGEST, QuantizedKernel, quantize_kernel
from pallas_kernels.core.int8 import Int8Kernel
from pallas_kernels.gate.api import gate
from pallas_kernels.gated_conv3d.api import gated_conv3d
from pallas_kernels.gated_conv3d_transpose.api import gated_conv3d_transpose
from pallas_kernels.sample.api import sample
from pallas_kernels.warp.api import Convolved, refine, warp, warp_and_mix
from pallas_kernels.warp.reference import enlarge, unfolded

__all__ = [
    "LARGEST",
    "Activation",
    "Choice",
    "Convolved",
    "FeatureMap",
    "Implementation",
    "Int8Kernel",
    "PackedKernel",
    "QuantizedKernel",
    "activate",
    "assume_hopper",
    "conv2d",
    "conv3d",
    "enlarge",
    "explain",
    "gate",
    "gated_conv3d",
    "gated_conv3d_transpose",
    "interpret",
    "pack_kernel",
    "quantize_kernel",
    "refine",
    "sample",
    "unfolded",
    "warp",
    "warp_and_mix",
    "why_not_int8",
]
