# SPDX-License-Identifier: Apache-2.0
"""Numbers of 8 bits: kernels that multiply in float8_e4m3fn or whose output is stored in it.

A stored number times its scale is what it stands for. A feature map has one scale; a kernel has one
for each output channel, into which the scales of what it is applied to are folded, so that products
of stored numbers need one factor a channel and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

__all__ = ["E4M3", "LARGEST", "QuantizedKernel", "quantize", "quantize_kernel"]

E4M3 = jnp.float8_e4m3fn
"""Four bits of exponent and three of mantissa; finite numbers and NaN."""

LARGEST = 448.0
"""The largest number that it holds; larger ones become this one."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuantizedKernel:
    """A kernel that multiplies in 8 bits, or whose output is stored in them, or both.

    Attributes:
        values: float8_e4m3fn ``[*size, channel, in_channel]``; or, if products are of 16 bits, the
            kernel itself, ``[*size, in_channel, channel]``.
        scales: float32 ``[channel]``, what sums of products of stored numbers are multiplied by;
            None where products are of 16 bits.
        means: the same kernel in 16 bits, ``[*size, in_channel, channel]``, for gates; None where
            products are of 16 bits.
        out_scale: float32, the scale of the output, which is stored in float8_e4m3fn; None for an
            output of 16 bits.
    """

    # Not Array: trees of shapes have other things in the place of arrays.
    values: Any
    scales: Any
    means: Any
    out_scale: Any

    @property
    def plain(self) -> Array:
        """The kernel of 16 bits for inputs as they are stored."""
        return self.values if self.means is None else self.means

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel, ``[*size, in_channel, channel]``."""
        return self.plain.shape

    @property
    def ndim(self) -> int:
        """Axes of the kernel."""
        return self.plain.ndim

    @property
    def dtype(self) -> jnp.dtype:
        """What is multiplied."""
        return self.values.dtype

    @property
    def out_dtype(self) -> jnp.dtype:
        """What the output is stored in."""
        return self.plain.dtype if self.out_scale is None else jnp.dtype(E4M3)

    @property
    def in_float32(self) -> Array:
        """What the stored inputs are multiplied by: ``[*size, in_channel, channel]``."""
        if self.scales is None:
            return self.values.astype(jnp.float32)
        return jnp.swapaxes(self.values.astype(jnp.float32), -1, -2) * self.scales

    def store(self, output: Array) -> Array:
        """The output of a convolution as it is stored."""
        if self.out_scale is None:
            return output.astype(self.out_dtype)
        return quantize(output, self.out_scale)


def quantize(x: Array, scale: Float[Array, "*channel"] | float) -> Array:
    """``x / scale`` in float8_e4m3fn; numbers that it cannot hold become its largest."""
    return jnp.clip(x / scale, -LARGEST, LARGEST).astype(E4M3)


def quantize_kernel(
    kernel: Float[Array, "*size in_channel channel"],
    in_scales: Float[Array, " in_channel"] | None,
    out_scale: Float[Array, ""] | float | None,
    dtype: DTypeLike = jnp.bfloat16,
) -> QuantizedKernel:
    """A kernel in the form that :func:`pallas_kernels.conv3d` and its like compute in 8 bits by.

    Args:
        kernel: of any of these operations.
        in_scales: of the feature maps that it will be applied to, all stored in float8_e4m3fn: one
            number an input channel. None for products in 16 bits.
        out_scale: of the output, to be stored in float8_e4m3fn; None for 16 bits.
        dtype: what is of 16 bits.
    """
    if out_scale is not None:
        out_scale = jnp.asarray(out_scale, jnp.float32)
    if in_scales is None:
        return QuantizedKernel(kernel.astype(dtype), None, None, out_scale)
    values, scales, means = _in_8_bits(kernel, in_scales, jnp.dtype(dtype))
    return QuantizedKernel(values, scales, means, out_scale)


@functools.partial(jax.jit, static_argnums=2)
def _in_8_bits(kernel: Array, in_scales: Array, dtype: jnp.dtype) -> tuple[Array, Array, Array]:
    """Values, scales and means."""
    folded = kernel.astype(jnp.float32) * in_scales[:, None]
    largest = jnp.abs(folded).max(axis=range(kernel.ndim - 1))
    scales = jnp.where(largest > 0, largest / LARGEST, 1.0)
    values = jnp.swapaxes(quantize(folded, scales), -1, -2)
    means = jnp.swapaxes(values.astype(jnp.float32), -1, -2) * scales
    return values, scales, means.astype(dtype)
