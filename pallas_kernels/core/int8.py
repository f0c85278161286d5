# SPDX-License-Identifier: Apache-2.0
"""8-bit integers: convolutions whose products and sums are integers, as some CPUs multiply fast.

A processor with VNNI or AMX instructions multiplies int8 about four times as fast as float32. Maps
stay in float32 between the operations. A convolution rounds its input to int8 with scales that it
takes from the input itself, adds products exactly in int32, and multiplies the sums by the scales.
So nothing has to be calibrated, and no value is clipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Float32, Int8

__all__ = ["Int8Kernel", "convolved", "in_int8", "rounded", "sums_of_frames"]

_LARGEST = 127


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Kernel:
    """A kernel that multiplies in int8; its inputs and its output are float32.

    Attributes:
        values: ``[kh, kw, kt, in_channel, channel]``, int8; for 2-D convolutions ``[kh, kw,
            in_channel, channel]`` in float32, which is rounded in every call, with the scales of
            its input's channels.
        scales: float32 ``[channel]``: a stored number times its scale is the weight; None if
            ``values`` are float32.
    """

    values: Any  # not Array: trees of shapes hold other objects in place of arrays
    scales: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """``[kt, kh, kw, in_channel, channel]``, or without ``kt``."""
        if self.ndim == 4:
            return self.values.shape
        kh, kw, kt, *channels = self.values.shape
        return (kt, kh, kw, *channels)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.values.ndim

    @property
    def dtype(self) -> np.dtype:
        """Type of the inputs and of the output: float32."""
        return np.dtype(np.float32)

    def map(self, function: Callable[[Array], Array]) -> Int8Kernel:
        """Apply a function that selects or moves weights to a kernel without scales."""
        assert self.scales is None
        return Int8Kernel(function(self.values))


def in_int8(kernel: Array) -> Int8Kernel:
    """Prepare a kernel, on the host, so that nothing is compiled.

    One of 3-D convolutions is rounded here, with a scale for each output channel. One of 2-D
    convolutions is small and is rounded in every call.
    """
    if kernel.ndim == 4:
        return Int8Kernel(kernel)
    values = np.asarray(kernel, np.float32)
    largest = np.abs(values).max(axis=tuple(range(values.ndim - 1)))
    # The scale of a channel whose weights are all zero would be zero.
    scales = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    stored = np.moveaxis(np.rint(values / scales).astype(np.int8), 0, 2)
    return Int8Kernel(jnp.asarray(stored), jnp.asarray(scales))


def rounded(
    x: Float[Array, "..."], axes: tuple[int, ...]
) -> tuple[Int8[Array, "..."], Float32[Array, "..."]]:
    """An array in int8, and the scales by which its stored numbers have to be multiplied.

    Args:
        x: the array. NaN and infinity give scales that are not finite.
        axes: those over which a scale extends; it has the length 1 along them.
    """
    largest = jnp.abs(x).max(axis=axes, keepdims=True)
    scales = jnp.where(largest == 0, 1, largest / _LARGEST)
    stored = jnp.clip(jnp.round(x * (1 / scales)), -_LARGEST, _LARGEST)
    return stored.astype(jnp.int8), scales


def sums_of_frames(
    convolve: Callable[[tuple[Array, ...], Array], Array],
    inputs: tuple[Float[Array, "batch time height width _channel"], ...],
    kernel: Int8Kernel,
) -> Float32[Array, "batch time _height _width channel"]:
    """A 3-D convolution of inputs that are rounded, each sample with a scale of its own.

    Args:
        convolve: the convolution of stored numbers with a kernel ``[kt, kh, kw, in_channel,
            channel]``. It is called for each input, because their magnitudes differ.
        inputs: feature maps, convolved as if concatenated along the channels.
        kernel: the kernel.
    """
    # In the usual order of axes; each convolution restores that of the values, at no cost.
    values, start, total = jnp.moveaxis(kernel.values, 2, 0), 0, jnp.zeros(())
    for x in inputs:
        stored, scale = rounded(x, (1, 2, 3, 4))
        weights = values[..., start : start + x.shape[-1], :]
        total = total + convolve((stored,), weights) * scale
        start += x.shape[-1]
    return total * kernel.scales


def convolved(
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> Array:
    """A 2-D convolution of images, channels last; int32 if both are int8, else of their type."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.int32 if x.dtype == jnp.int8 else None,
    )
