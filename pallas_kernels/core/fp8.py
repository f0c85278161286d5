# SPDX-License-Identifier: Apache-2.0
"""8-bit floating point: kernels that multiply in float8_e4m3fn or whose output is stored in it.

The value of a stored number is the number times its scale. A feature map has one scale; a kernel
has one for each output channel, into which the scales of its inputs are folded, so that sums of
products of stored numbers need one factor a channel and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Float32

__all__ = ["E4M3", "LARGEST", "QuantizedKernel", "quantize", "quantize_kernel"]

E4M3 = jnp.float8_e4m3fn
"""Four bits of exponent and three of mantissa; finite numbers and NaN, no infinity."""

LARGEST = 448.0
"""The largest number of :data:`E4M3`; larger ones are clipped to it."""

if TYPE_CHECKING:
    Leaf: TypeAlias = Array
else:
    Leaf = Any  # trees of shapes and of shardings have other things in the place of arrays


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuantizedKernel:
    """A kernel that multiplies in 8 bits, or whose output is stored in them, or both.

    Attributes:
        values: float8_e4m3fn ``[*size, channel, in_channel]``; or, if products are of 16 bits, the
            kernel itself, ``[*size, in_channel, channel]``.
        scales: float32 ``[channel]``, the factors of sums of products of stored numbers; None where
            products are of 16 bits.
        dequantized: the same kernel in 16 bits, ``[*size, in_channel, channel]``, from which gates
            are computed; None where products are of 16 bits.
        out_scale: float32, the scale of the output, which is stored in float8_e4m3fn; None for an
            output of 16 bits.
    """

    values: Leaf
    scales: Leaf | None
    dequantized: Leaf | None
    out_scale: Leaf | None

    @property
    def in_16_bits(self) -> Array:
        """The kernel of 16 bits, for inputs as they are stored."""
        return self.values if self.dequantized is None else self.dequantized

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as ``[*size, in_channel, channel]``, whatever the order of ``values``."""
        return self.in_16_bits.shape

    @property
    def ndim(self) -> int:
        """Axes of the kernel."""
        return self.in_16_bits.ndim

    @property
    def dtype(self) -> jnp.dtype:
        """Type that it multiplies in."""
        return self.values.dtype

    @property
    def out_dtype(self) -> jnp.dtype:
        """Type that the output is stored in."""
        return self.in_16_bits.dtype if self.out_scale is None else jnp.dtype(E4M3)

    @property
    def in_float32(self) -> Array:
        """Float32 kernel for inputs as they are stored: ``[*size, in_channel, channel]``."""
        if self.scales is None:
            return self.values.astype(jnp.float32)
        # Stored [out, in] for WGMMA; the other implementations want [in, out].
        return jnp.swapaxes(self.values.astype(jnp.float32), -1, -2) * self.scales

    def store(self, output: Array) -> Array:
        """The output of a convolution in the type in which it is stored."""
        if self.out_scale is None:
            return output.astype(self.out_dtype)
        return quantize(output, self.out_scale)


def quantize(x: Array, scale: Float[Array, "*channel"] | float) -> Array:
    """``x / scale`` in float8_e4m3fn, clipped to ±448, because a cast would make NaN of more."""
    return jnp.clip(x / scale, -LARGEST, LARGEST).astype(E4M3)


def quantize_kernel(
    kernel: Float[Array, "*size in_channel channel"],
    in_scales: Float[Array, " in_channel"] | None,
    out_scale: Float[Array, ""] | float | None,
    dtype: DTypeLike = jnp.bfloat16,
) -> QuantizedKernel:
    """Quantise a kernel for :func:`pallas_kernels.conv3d` and the gated convolutions.

    Args:
        kernel: of any of these operations.
        in_scales: scale of the feature map that each input channel comes from, all stored in
            float8_e4m3fn. None for products in 16 bits.
        out_scale: of the output, to be stored in float8_e4m3fn; None for 16 bits.
        dtype: the type of 16 bits.
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
    # Scales of the inputs are folded in before rounding: products then need one factor a channel.
    folded = kernel.astype(jnp.float32) * in_scales[:, None]
    largest = jnp.abs(folded).max(axis=range(kernel.ndim - 1))
    # A channel without weights would divide by zero.
    scales = jnp.where(largest > 0, largest / LARGEST, 1.0)
    # WGMMA takes 8-bit operands only with the summed axis, the input channels, innermost.
    values = jnp.swapaxes(quantize(folded, scales), -1, -2)
    dequantized = jnp.swapaxes(values.astype(jnp.float32), -1, -2) * scales
    return values, scales, dequantized.astype(dtype)
