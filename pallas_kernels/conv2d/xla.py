# SPDX-License-Identifier: Apache-2.0
"""conv2d in forms that XLA runs fast: matrix products for 1×1 kernels, else "same" padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Num

from pallas_kernels.conv2d.reference import pad
from pallas_kernels.core.arguments import Padding
from pallas_kernels.core.epilogue import Activation, finish
from pallas_kernels.core.int8 import Int8Kernel, rounded

__all__ = ["conv2d", "unpadded"]


def conv2d(
    inputs: tuple[Array, ...],
    kernel: Array | Int8Kernel,
    bias: Array | None,
    padding: Padding,
    activation: Activation,
    out_dtype: jnp.dtype,
    residual: Array | None = None,
) -> Array:
    """See :func:`pallas_kernels.conv2d`."""
    kh, kw = kernel.shape[:2]
    if isinstance(kernel, Int8Kernel):
        sums = _in_int8(jnp.concatenate(inputs, axis=-1), kernel, padding)
    elif (kh, kw) == (1, 1):
        # A 1×1 convolution is a matrix product; concatenating its inputs would copy them.
        sums = _pointwise(inputs, kernel[0, 0], out_dtype)
    else:
        sums = _padded(jnp.concatenate(inputs, axis=-1), kernel, padding, out_dtype)
    return finish(sums, bias, residual=residual, activation=activation).astype(out_dtype)


def _in_int8(
    x: Float[Array, "batch height width in_channel"], kernel: Int8Kernel, padding: Padding
) -> Float[Array, "batch height width channel"]:
    """The sums as float32, from products of int8."""
    # Each channel has its own scale, which all images share: flows reach far beyond colours.
    axes = (0, 1, 2)
    stored, of_inputs = rounded(x, axes)
    weights, of_outputs = rounded(kernel.values * of_inputs.reshape(-1, 1), axes)
    return _padded(stored, weights, padding, jnp.dtype(jnp.int32)) * of_outputs[0]


def _padded(x: Array, kernel: Array, padding: Padding, out_dtype: jnp.dtype) -> Array:
    """The convolution of images that are padded to keep their size."""
    if padding == "reflect":
        return unpadded(pad(x, kernel, "reflect"), kernel, out_dtype)
    return _convolved(x, kernel, "SAME", out_dtype)


def unpadded(
    x: Num[Array, "batch height width in_channel"],
    kernel: Num[Array, "kh kw in_channel channel"],
    out_dtype: jnp.dtype,
) -> Num[Array, "batch _height _width channel"]:
    """The convolution where the kernel lies inside the image, at stride 1; odd kernel sizes."""
    if jax.__version_info__ >= (0, 11):
        return _convolved(x, kernel, "VALID", out_dtype)
    # On a CPU, jax 0.10 runs an unpadded convolution up to 5 times slower than a padded one, whose
    # border can be cropped.
    top, left = (size // 2 for size in kernel.shape[:2])
    height, width = x.shape[1:3]
    whole = _convolved(x, kernel, "SAME", out_dtype)
    return whole[:, top : height - top, left : width - left]


def _convolved(x: Array, kernel: Array, padding: str, out_dtype: jnp.dtype) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=out_dtype,
    )


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
