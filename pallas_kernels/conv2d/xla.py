# SPDX-License-Identifier: Apache-2.0
"""conv2d in forms that XLA runs fast: matrix products for 1×1 kernels, else "same" padding."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from pallas_kernels.conv2d.reference import pad
from pallas_kernels.core.arguments import Padding
from pallas_kernels.core.epilogue import Activation, finish

__all__ = ["conv2d"]


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
    kh, kw = kernel.shape[:2]
    # A 1×1 convolution is a matrix product; concatenating its inputs would copy them.
    if (kh, kw) == (1, 1):
        sums = _pointwise(inputs, kernel[0, 0], out_dtype)
        return finish(sums, bias, residual=residual, activation=activation).astype(out_dtype)
    x = jnp.concatenate(inputs, axis=-1)
    height, width = x.shape[1:3]
    if padding == "reflect":
        x = pad(x, kernel, "reflect")
    sums = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=((kh // 2, kh // 2), (kw // 2, kw // 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=out_dtype,
    )
    if padding == "reflect":
        # Crop the zero padding around the mirrored border. It is there because on a CPU, jax 0.10
        # runs an unpadded convolution 5 times slower than a padded one.
        sums = sums[:, kh // 2 : kh // 2 + height, kw // 2 : kw // 2 + width]
    return finish(sums, bias, residual=residual, activation=activation).astype(out_dtype)


def _pointwise(
    inputs: tuple[Float[Array, "batch height width _"], ...],
    kernel: Float[Array, "depth channel"],
    out_dtype: jnp.dtype,
) -> Float[Array, "batch height width channel"]:
    """A 1×1 convolution as a sum of one matrix product per input, without concatenating them."""
    sums, start = None, 0
    for x in inputs:
        part = kernel[start : start + x.shape[-1]]
        product = jnp.matmul(x, part, preferred_element_type=out_dtype)
        sums = product if sums is None else sums + product
        start += x.shape[-1]
    assert sums is not None
    return sums
