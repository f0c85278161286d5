# SPDX-License-Identifier: Apache-2.0
"""8-bit floating point: kernels that multiply in float8_e4m3fn or whose output is stored in it.

A stored number times its scale is the value. A feature map has one scale. A kernel has one scale
for each output channel, which includes the scales of its inputs: a sum of products of stored
numbers times the scale of its output channel is the result of the convolution.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, Float32

__all__ = ["E4M3", "LARGEST", "QuantizedKernel", "quantize", "quantize_kernel"]

E4M3 = jnp.float8_e4m3fn
"""Four exponent bits and three mantissa bits; has NaN but no infinity."""

LARGEST = 448.0
"""The largest number of :data:`E4M3`; :func:`quantize` clips to it."""

if TYPE_CHECKING:
    Leaf: TypeAlias = Array
else:
    Leaf = Any  # trees of shapes or shardings hold other objects in place of arrays


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuantizedKernel:
    """A kernel that multiplies in 8 bits, or whose output is stored in 8 bits, or both.

    Attributes:
        values: float8_e4m3fn ``[*size, channel, in_channel]``; if it multiplies in 16 bits, the
            plain kernel ``[*size, in_channel, channel]``.
        scales: float32 ``[channel]``, factors of the sums of products of stored numbers; None if it
            multiplies in 16 bits.
        dequantized: the same kernel in 16 bits, ``[*size, in_channel, channel]``, from which gates
            are computed; None if it multiplies in 16 bits.
        out_scale: float32 scale of an output stored in float8_e4m3fn; None for a 16-bit output.
    """

    values: Leaf
    scales: Leaf | None
    dequantized: Leaf | None
    out_scale: Leaf | None

    @property
    def in_16_bits(self) -> Array:
        """The kernel in 16 bits, for inputs in stored units: ``[*size, in_channel, channel]``."""
        return self.values if self.dequantized is None else self.dequantized

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as ``[*size, in_channel, channel]``, even if ``values`` is transposed."""
        return self.in_16_bits.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.in_16_bits.ndim

    @property
    def dtype(self) -> jnp.dtype:
        """Dtype of the products' operands."""
        return self.values.dtype

    @property
    def out_dtype(self) -> jnp.dtype:
        """Dtype in which the output is stored."""
        return self.in_16_bits.dtype if self.out_scale is None else jnp.dtype(E4M3)

    @property
    def in_float32(self) -> Array:
        """The kernel in float32, for inputs in stored units: ``[*size, in_channel, channel]``."""
        if self.scales is None:
            return self.values.astype(jnp.float32)
        # Stored [out, in] for WGMMA; the other implementations want [in, out].
        return jnp.swapaxes(self.values.astype(jnp.float32), -1, -2) * self.scales

    def store(self, output: Array) -> Array:
        """Convert the output of a convolution to the dtype in which it is stored."""
        if self.out_scale is None:
            return output.astype(self.out_dtype)
        return quantize(output, self.out_scale)


def quantize(x: Array, scale: Float[Array, "*channel"] | float) -> Array:
    """``x / scale`` in float8_e4m3fn, clipped to ±448, since a cast of larger values gives NaN."""
    stored = jnp.clip(x / scale, -LARGEST, LARGEST).astype(E4M3)
    # On a GPU, XLA leaves out a conversion that the same program undoes.
    return lax.optimization_barrier(stored)


def quantize_kernel(
    kernel: Float[Array, "*size in_channel channel"],
    in_scales: Float[Array, " in_channel"] | None,
    out_scale: Float[Array, ""] | float | None,
    dtype: DTypeLike = jnp.bfloat16,
) -> QuantizedKernel:
    """Quantise a kernel for :func:`pallas_kernels.conv3d` and the gated convolutions.

    Args:
        kernel: kernel of any of these operations.
        in_scales: for each input channel, the scale of the feature map that it belongs to; all
            these maps are stored in float8_e4m3fn. None to multiply in 16 bits.
        out_scale: scale of the output, to store it in float8_e4m3fn; None to store it in 16 bits.
        dtype: 16-bit dtype of whatever is not in 8 bits.
    """
    if out_scale is not None:
        out_scale = jnp.asarray(out_scale, jnp.float32)
    if in_scales is None:
        return QuantizedKernel(kernel.astype(dtype), None, None, out_scale)
    values, scales, dequantized = _in_8_bits(kernel, in_scales, jnp.dtype(dtype))
    return QuantizedKernel(values, scales, dequantized, out_scale)


@functools.partial(jax.jit, static_argnums=2)
def _in_8_bits(
    kernel: Float[Array, "*size in_channel channel"],
    in_scales: Float[Array, " in_channel"],
    dtype: jnp.dtype,
) -> tuple[
    Float[Array, "*size channel in_channel"],
    Float32[Array, " channel"],
    Float[Array, "*size in_channel channel"],
]:
    """Values, scales and the dequantised kernel."""
    # Fold in the scales of the inputs before rounding, so that one factor per output channel is
    # enough.
    folded = kernel.astype(jnp.float32) * in_scales[:, None]
    largest = jnp.abs(folded).max(axis=range(kernel.ndim - 1))
    # The scale of a channel whose weights are all zero would be zero.
    scales = jnp.where(largest > 0, largest / LARGEST, 1.0)
    # WGMMA takes 8-bit operands only with the contracted axis, the input channels, innermost.
    values = jnp.swapaxes(quantize(folded, scales), -1, -2)
    dequantized = jnp.swapaxes(values.astype(jnp.float32), -1, -2) * scales
    return values, scales, dequantized.astype(dtype)
