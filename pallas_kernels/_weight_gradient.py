# SPDX-License-Identifier: Apache-2.0
"""A convolution's gradient with respect to its kernel, as one 2-D convolution for XLA.

XLA runs 3-D convolutions of 16 bits with channels outermost, which moves every array twice, and
tries out each convolution of another shape when it compiles. So a convolution over time, height and
width becomes a single 2-D one over more channels: either those of all frames, of which the pairs of
frames that a temporal tap joins are kept, or those of the frames under the temporal taps.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels._work import Geometry

__all__ = ["weight_gradient"]

# Fewer channels than a tile of the tensor cores has rows: then products with frames that no tap
# joins cost less than a tile that is half empty.
_FEW_CHANNELS = 64
_MOST_FRAMES = 4


def weight_gradient(inputs: tuple[Array, ...], gradient: Array, geometry: Geometry) -> Array:
    """The gradient of :func:`implicit_gemm`'s weights, float32.

    Args:
        inputs: ``[batch, time, height, width, channel]``, joined along channels.
        gradient: of the output: ``[batch, time, height, width, out_channel]``.
        geometry: which pixels meet which weights.

    Returns:
        ``[*kernel, channel, out_channel]``.
    """
    x = jnp.concatenate(inputs, axis=-1)
    if geometry.phases == 1:
        return _of_strided(x, gradient, geometry)
    # The output of a transposed convolution is what the strided one, its transpose, reads.
    low = tuple(
        size - 1 - scale * before
        for size, scale, before in zip(geometry.kernel, (1, 2, 2), geometry.low)
    )
    back = Geometry(geometry.kernel, (low[0], low[1], low[2]), stride=2)
    return jnp.swapaxes(_of_strided(gradient, x, back)[::-1, ::-1, ::-1], 3, 4)


def _of_strided(x: Array, gradient: Array, geometry: Geometry) -> Array:
    frames, few = x.shape[1], min(x.shape[-1], gradient.shape[-1]) < _FEW_CHANNELS
    if few and geometry.kernel[0] > 1 and frames <= _MOST_FRAMES:
        return _with_all_frames(x, gradient, geometry)
    return _with_frames_under_taps(x, gradient, geometry)


def _with_all_frames(x: Array, gradient: Array, geometry: Geometry) -> Array:
    """Every frame of the input with every one of the output; a tap takes the pairs that it joins.

    float32 ``[*kernel, channel, out_channel]``.
    """
    taps, first = geometry.kernel[0], geometry.low[0]
    times = x.shape[1], gradient.shape[1]
    pairs = _over_space(_frames_in_channels(x), _frames_in_channels(gradient), geometry)
    pairs = pairs.reshape(*pairs.shape[:2], times[0], -1, times[1], gradient.shape[-1])

    def of_tap(tap: int) -> Array:
        met = [
            pairs[:, :, time + tap - first, :, time].astype(jnp.float32)
            for time in range(times[1])
            if 0 <= time + tap - first < times[0]
        ]
        return functools.reduce(jnp.add, met) if met else jnp.zeros_like(pairs[:, :, 0, :, 0])

    return jnp.stack([of_tap(tap) for tap in range(taps)]).astype(jnp.float32)


def _frames_in_channels(x: Array) -> Array:
    batch, time, height, width, channels = x.shape
    return jnp.moveaxis(x, 1, 3).reshape(batch, height, width, time * channels)


def _with_frames_under_taps(x: Array, gradient: Array, geometry: Geometry) -> Array:
    """Every frame of the output with the frames that its taps meet, which may be zeros.

    float32 ``[*kernel, channel, out_channel]``.
    """
    taps, first = geometry.kernel[0], geometry.low[0]
    batch, time, *size, channels = gradient.shape
    high = time + taps - 1 - first - x.shape[1]
    x = jnp.pad(x, ((0, 0), (first, high), *((0, 0),) * 3))
    stack = jnp.concatenate([x[:, tap : tap + time] for tap in range(taps)], axis=-1)
    found = _over_space(
        stack.reshape(batch * time, *stack.shape[2:]),
        gradient.reshape(batch * time, *size, channels),
        geometry,
    )
    found = found.reshape(*found.shape[:2], taps, -1, channels)
    return jnp.moveaxis(found, 2, 0).astype(jnp.float32)


def _over_space(x: Array, gradient: Array, geometry: Geometry) -> Array:
    """The gradient of a 2-D kernel: ``[kh, kw, channel, out_channel]``."""
    _, *size = geometry.kernel
    stride, shape = geometry.stride, (x.shape[-1], gradient.shape[-1])
    if size == [1, 1]:
        x = x[:, ::stride, ::stride].reshape(-1, shape[0])
        product = jnp.matmul(
            x.T, gradient.reshape(-1, shape[1]), preferred_element_type=jnp.float32
        )
        return product[None, None]
    padding = [
        (low, (many - 1) * stride + taps - low - few)
        for low, taps, few, many in zip(geometry.low[1:], size, x.shape[1:3], gradient.shape[1:3])
    ]

    def convolve(kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    (found,) = jax.linear_transpose(convolve, jax.ShapeDtypeStruct((*size, *shape), x.dtype))(
        gradient
    )
    return found
