# SPDX-License-Identifier: Apache-2.0
"""The layers of FLAVR; no other part of flavr_jax imports pallas_kernels.

A layer holds parameters, calls an operation of pallas_kernels with them, and computes in their
dtype. Options that all layers of a network share are in :class:`LayerOptions`. What other modules
need of pallas_kernels is listed here too.
"""

from flavr_jax.models.layers.conv2d import Conv2d, Fusion
from flavr_jax.models.layers.conv3d import (
    Call,
    Conv3d,
    FactorisedConv3d,
    Gate,
    TransposedConv3d,
    TrilinearConv3d,
    watching,
    watching_gates,
)
from flavr_jax.models.layers.options import LayerOptions, normalise
from pallas_kernels import (
    LARGEST,
    Convolved,
    FeatureMap,
    Implementation,
    Int8Kernel,
    activate,
    assume_hopper,
    enlarge,
    explain,
    pack_kernel,
    quantize_kernel,
    refine,
    sample,
    unfolded,
    warp,
    warp_and_mix,
    why_not_int8,
)

__all__ = [
    "LARGEST",
    "Call",
    "Conv2d",
    "Conv3d",
    "Convolved",
    "FactorisedConv3d",
    "FeatureMap",
    "Fusion",
    "Gate",
    "Implementation",
    "Int8Kernel",
    "LayerOptions",
    "TransposedConv3d",
    "TrilinearConv3d",
    "activate",
    "assume_hopper",
    "enlarge",
    "explain",
    "normalise",
    "pack_kernel",
    "quantize_kernel",
    "refine",
    "sample",
    "unfolded",
    "warp",
    "warp_and_mix",
    "watching",
    "watching_gates",
    "why_not_int8",
]
