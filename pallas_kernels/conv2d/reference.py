# SPDX-License-Identifier: Apache-2.0
"""The definition of conv2d: concatenate, pad, convolve, apply the epilogue."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Num

from pallas_kernels.core.arguments import Padding
from pallas_kernels.core.epilogue import Activation, finish

__all__ = ["conv2d", "pad"]


def pad(
    x: Num[Array, "batch height width channel"], kernel: Num[Array, "..."], padding: Padding
) -> Num[Array, "batch padded_height padded_width channel"]:
    """``x`` with ``kernel // 2`` more pixels on each side, zeros or mirrored."""
    kh, kw = kernel.shape[:2]
    mode = "reflect" if padding == "reflect" else "constant"
    return jnp.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)), mode=mode)


def conv2d(
    inputs: tuple[Array, ...],
    kernel: Array,
    bias: Array | None,
    padding: Padding,
    activation: Activation,
    out_dtype: jnp.dtype,
    residual: Array | None = None,
) -> Array:
    """See :func:`pallas_kernels.conv2d`."""
    # The sums have out_dtype, because a float32 output must not be rounded to 16 bits first.
    sums = lax.conv_general_dilated(
        pad(jnp.concatenate(inputs, axis=-1), kernel, padding),
        kernel,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=out_dtype,
    )
    return finish(sums, bias, residual=residual, activation=activation).astype(out_dtype)
