# SPDX-License-Identifier: Apache-2.0
"""A convolution's gradient with respect to its kernel: by a kernel of its own, or for XLA.

The kernel (``_weight_kernel.py``) multiplies 64 channels by 64. Where there are 32, two neighbours
in width count as one pixel of 64: of the products of neighbours with neighbours, taps take those
that are as far apart as they are.

XLA takes what the kernel cannot, as one 2-D convolution: 3-D ones of 16 bits it runs with channels
outermost, which moves every array twice, and it tries out each convolution of another shape when it
compiles. The 2-D convolution is over the channels of all frames, of which the pairs of frames that
a tap in time joins are kept, or over those of the frames under the taps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.core import device
from pallas_kernels.core.jax_versions import CAN_TRANSPOSE
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.weight_gradient.kernel import CHANNELS, MOST_FRAMES, weight_sums

__all__ = ["weight_gradient"]

# With so few, or as few on average, more channels make up for products that no tap joins (measured
# on an H200 with cuDNN 9).
_FEW_CHANNELS = 64
_MOST_PAIRED = 4


def weight_gradient(inputs: tuple[Array, ...], gradient: Array, geometry: Geometry) -> Array:
    """The gradient of :func:`implicit_gemm`'s weights, float32.

    Args:
        inputs: ``[batch, time, height, width, channel]``, joined along channels.
        gradient: of the output: ``[batch, time, height, width, out_channel]``.
        geometry: which pixels meet which weights.

    Returns:
        ``[*kernel, channel, out_channel]``.
    """
    if not _has_kernel(gradient) or any(x.shape[-1] % CHANNELS for x in inputs):
        inputs = (jnp.concatenate(inputs, axis=-1),)
    if geometry.phases == 1:
        found = [_of_strided(x, gradient, geometry) for x in inputs]
        return jnp.concatenate(found, axis=3)
    # The output of a transposed convolution is what the strided one, its transpose, reads.
    low = tuple(
        size - 1 - scale * before
        for size, scale, before in zip(geometry.kernel, (1, 2, 2), geometry.low)
    )
    back = Geometry(geometry.kernel, (low[0], low[1], low[2]), stride=2)
    found = [_of_strided(gradient, x, back)[::-1, ::-1, ::-1] for x in inputs]
    return jnp.swapaxes(jnp.concatenate(found, axis=4), 3, 4)


def _has_kernel(gradient: Array) -> bool:
    """Whether there is a kernel for this device and type."""
    return CAN_TRANSPOSE and device.why_not() is None and gradient.dtype.itemsize == 2


def _of_strided(x: Array, gradient: Array, geometry: Geometry) -> Array:
    """Of a convolution that is not transposed."""
    if _has_kernel(gradient):
        suited = _for_kernel(x, gradient, geometry)
        if suited is not None:
            return suited()
    frames, few = x.shape[1], x.shape[-1] * gradient.shape[-1] <= _FEW_CHANNELS**2
    if few and geometry.kernel[0] > 1 and frames <= _MOST_PAIRED:
        return _with_all_frames(x, gradient, geometry)
    return _with_frames_under_taps(x, gradient, geometry)


def _for_kernel(x: Array, gradient: Array, geometry: Geometry) -> Callable[[], Array] | None:
    """The gradient by the kernel, or None where that cannot run."""
    (kt, *taps), (_, *low), stride = geometry.kernel, geometry.low, geometry.stride
    depth, channels = x.shape[-1], gradient.shape[-1]
    if x.shape[1] != gradient.shape[1] or x.shape[1] > MOST_FRAMES or kt > 3:
        return None
    if stride == 2:
        fits = 2 * depth % CHANNELS == channels % CHANNELS == 0
        usual = taps in ([3, 3], [4, 4]) and low == [1, 1]
        return functools.partial(_met_twice, x, gradient, geometry) if fits and usual else None
    if taps != [3, 3]:
        return None
    if depth % CHANNELS == channels % CHANNELS == 0:
        return functools.partial(weight_sums, x, gradient, geometry.kernel, geometry.low, 1)
    fits = 2 * depth % CHANNELS == 2 * channels % CHANNELS == x.shape[3] % 2 == 0
    return (
        functools.partial(_of_neighbours, x, gradient, geometry) if fits and low[1] == 1 else None
    )


def _neighbours(x: Array) -> Array:
    """Two neighbours in width as one pixel of twice the channels."""
    return x.reshape(*x.shape[:3], x.shape[3] // 2, 2 * x.shape[4])


def _met_twice(x: Array, gradient: Array, geometry: Geometry) -> Array:
    """Of stride 2, from neighbours in width of the input: tap 2 · t + n − 1 is neighbour n of t."""
    (kt, kh, kw), channels = geometry.kernel, (x.shape[-1], gradient.shape[-1])
    # Four taps in height, so that both phases of rows have two.
    taps = (kt, 4, kw // 2 + 1)
    sums = weight_sums(_neighbours(x), gradient, taps, geometry.low, 2)
    return sums.reshape(kt, 4, 2 * taps[2], *channels)[:, :kh, 1 : 1 + kw]


def _of_neighbours(x: Array, gradient: Array, geometry: Geometry) -> Array:
    """Of three taps in width, from neighbours of both."""
    kt, kh, kw = geometry.kernel
    both = _neighbours(x), _neighbours(gradient)
    sums = weight_sums(*both, geometry.kernel, geometry.low, 1)
    sums = sums.reshape(kt, kh, kw, 2, x.shape[-1], 2, gradient.shape[-1])
    return jnp.stack([_of_tap(sums, tap + 1) for tap in range(kw)], axis=2)


def _of_tap(sums: Array, apart: int) -> Array:
    """The products of pixels that are so far apart, of ``[…, tap, 2, channel, 2, channel]``.

    Of tap t, neighbours n of the input and m of the gradient are 2 · t + n − m apart.
    """
    places = (((apart - n + m) / 2, n, m) for n in (0, 1) for m in (0, 1))
    met = [sums[..., int(tap), n, :, m, :] for tap, n, m in places if tap == int(tap)]
    return functools.reduce(jnp.add, met)


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
    low = geometry.low[1:]
    even = x.shape[2] % 2 == gradient.shape[2] % 2 == 0
    if even and stride == 1 and size[1] > 1 and max(shape) <= _FEW_CHANNELS // 2:
        return _over_neighbours(x, gradient, (size[0], size[1]), low)
    return _over_pixels(x, gradient, (size[0], size[1]), low, stride)


def _over_neighbours(
    x: Array, gradient: Array, size: tuple[int, int], low: tuple[int, int]
) -> Array:
    """As :func:`_over_pixels`, of neighbours in width: tensor cores like 64 channels, not 32."""
    before = (low[1] + 1) // 2
    shift = 2 * before - low[1]
    taps = (size[1] + shift) // 2 + 1
    wide, wide_gradient = (
        y.reshape(*y.shape[:2], y.shape[2] // 2, 2 * y.shape[3]) for y in (x, gradient)
    )
    sums = _over_pixels(wide, wide_gradient, (size[0], taps), (low[0], before), 1)
    sums = sums.reshape(size[0], taps, 2, x.shape[-1], 2, gradient.shape[-1])
    return jnp.stack([_of_tap(sums, tap + shift) for tap in range(size[1])], axis=1)


def _over_pixels(
    x: Array, gradient: Array, size: tuple[int, int], low: tuple[int, int], stride: int
) -> Array:
    """The gradient of a 2-D kernel: ``[kh, kw, channel, out_channel]``."""
    shape = (*size, x.shape[-1], gradient.shape[-1])
    padding = [
        (before, (many - 1) * stride + taps - before - have)
        for before, taps, have, many in zip(low, size, x.shape[1:3], gradient.shape[1:3])
    ]

    def convolve(kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    (found,) = jax.linear_transpose(convolve, jax.ShapeDtypeStruct(shape, x.dtype))(gradient)
    return found
