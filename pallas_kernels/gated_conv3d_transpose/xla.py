# SPDX-License-Identifier: Apache-2.0
"""The transposed convolution as sub-pixel phases, which avoids products with inserted zeros.

Along one axis, even outputs use taps 0 and 2 on the inputs i−1 and i; odd outputs use taps 1 and 3
on i and i+1. So each of the four phases is a 2×2 convolution of the input in space, and the phases
are interleaved afterwards.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int8, Int32

from pallas_kernels.conv3d.winograd import TapsAtPoints
from pallas_kernels.conv3d.xla import conv_frames
from pallas_kernels.core.epilogue import Activation, finish
from pallas_kernels.core.int8 import Int8Kernel, sums_of_frames
from pallas_kernels.gate.reference import gate

__all__ = ["conv3d_transpose", "gated_conv3d_transpose"]


def gated_conv3d_transpose(
    inputs: tuple[Array, ...],
    kernel: Array | TapsAtPoints | Int8Kernel,
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
    inputs: tuple[Array, ...], kernel: Array | TapsAtPoints | Int8Kernel, bias: Array | None
) -> Array:
    """Kernel 3×4×4, stride 1×2×2, padding 1: ``[b, t, 2·height, 2·width, channel]``."""
    if isinstance(kernel, Int8Kernel):
        phases = _from_int8(inputs, kernel)
    else:
        # Phase 0 has taps at i−1 and i and so needs padding before; phase 1 has taps at i and i+1
        # and needs it after.
        phases = [
            [
                conv_frames(inputs, kernel[:, p::2, q::2], (1, 1), ((1 - p, p), (1 - q, q)))
                for q in (0, 1)
            ]
            for p in (0, 1)
        ]
    batch, time, height, width, _ = inputs[0].shape
    rows = [jnp.stack(row, axis=4) for row in phases]
    # [b, t, h, 2, w, 2, c] → [b, t, 2h, 2w, c]
    sums = jnp.stack(rows, axis=3).reshape(batch, time, 2 * height, 2 * width, -1)
    return finish(sums, bias)


def _from_int8(
    inputs: tuple[Float[Array, "batch time height width _channel"], ...], kernel: Int8Kernel
) -> list[list[Float[Array, "batch time height width channel"]]]:
    """The four phases, from products of int8."""
    batch, time, height, width, _ = inputs[0].shape
    sums = sums_of_frames(_together, inputs, kernel)
    sums = sums.reshape(batch, time, height + 1, width + 1, 2, 2, -1)
    return [[sums[:, :, p : p + height, q : q + width, p, q] for q in (0, 1)] for p in (0, 1)]


def _together(
    inputs: tuple[Int8[Array, "batch time height width in_channel"], ...],
    kernel: Int8[Array, "3 4 4 in_channel channel"],
) -> Int32[Array, "batch time rows columns_and_phases channel"]:
    """The four phases as the output channels of one convolution, which is faster than four.

    It computes one more row and column than a phase has, because phase 0 begins one pixel earlier.
    """
    channels = kernel.shape[-1]
    taps = kernel.reshape(3, 2, 2, 2, 2, *kernel.shape[3:])  # [time, row, p, column, q, in, out]
    taps = taps.transpose(0, 1, 3, 5, 2, 4, 6).reshape(3, 2, 2, kernel.shape[3], -1)
    # XLA would not use its fast int8 convolution if this padded both ends itself.
    ends = ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0))
    beyond = tuple(jnp.pad(x, ends) for x in inputs)
    sums = conv_frames(beyond, taps, (1, 1), ((1, 0), (1, 0)))
    return sums.reshape(*sums.shape[:3], -1, channels)
