# SPDX-License-Identifier: Apache-2.0
"""The transposed convolution as sub-pixel phases, which avoids products with inserted zeros.

Along one axis, even outputs use taps 0 and 2 on the inputs i−1 and i; odd outputs use taps 1 and 3
on i and i+1. So each of the four phases is a 2×2 convolution of the input in space, and the phases
are interleaved afterwards.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from pallas_kernels.conv3d.winograd import TapsAtPoints
from pallas_kernels.conv3d.xla import conv_frames
from pallas_kernels.core.epilogue import Activation, finish
from pallas_kernels.gate.reference import gate

__all__ = ["conv3d_transpose", "gated_conv3d_transpose"]


def gated_conv3d_transpose(
    inputs: tuple[Array, ...],
    kernel: Array | TapsAtPoints,
    bias: Array | None,
    gate_kernel: Array,
    gate_bias: Array,
    residual: Array | None,
    activation: Activation,
) -> Array:
    """See :func:`pallas_kernels.gated_conv3d_transpose`."""
    x = conv3d_transpose(inputs, kernel, bias)
    return gate(x, gate_kernel, gate_bias, residual=residual, activation=activation)


def conv3d_transpose(
    inputs: tuple[Array, ...], kernel: Array | TapsAtPoints, bias: Array | None
) -> Array:
    """Kernel 3×4×4, stride 1×2×2, padding 1: ``[b, t, 2·height, 2·width, channel]``."""
    batch, time, height, width, _ = inputs[0].shape
    # Phase 0 has taps at i−1 and i and so needs padding before; phase 1 has taps at i and i+1 and
    # needs it after.
    rows = [
        jnp.stack(
            [
                conv_frames(inputs, kernel[:, p::2, q::2], (1, 1), ((1 - p, p), (1 - q, q)))
                for q in (0, 1)
            ],
            axis=4,
        )
        for p in (0, 1)
    ]
    # [b, t, h, 2, w, 2, c] → [b, t, 2h, 2w, c]
    sums = jnp.stack(rows, axis=3).reshape(batch, time, 2 * height, 2 * width, -1)
    return finish(sums, bias)
