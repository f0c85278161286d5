# SPDX-License-Identifier: Apache-2.0
"""The definition of the transposed convolution: zeros between the pixels, then a convolution."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels._epilogue import finish

__all__ = ["conv3d_transpose"]


def conv3d_transpose(inputs: tuple[Array, ...], kernel: Array, bias: Array | None) -> Array:
    """See :func:`pallas_kernels.gated_conv3d_transpose.api.conv3d_transpose`."""
    sums = lax.conv_general_dilated(
        jnp.concatenate(inputs, axis=-1),
        kernel,
        window_strides=(1, 1, 1),
        padding=[(1, 1), (2, 2), (2, 2)],
        lhs_dilation=(1, 2, 2),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return finish(sums, bias)
