# SPDX-License-Identifier: Apache-2.0
"""A convolution's gradient with respect to its weights: by a GPU kernel, or by XLA.

The GPU kernel (``kernel.py``) multiplies 64 channels by 64. With 32 channels, two neighbouring
columns are treated as one pixel of 64 channels. Of the products of pairs with pairs, each tap then
takes those of columns at the distance that it spans.

XLA computes all other cases, as one 2-D convolution. It would run 16-bit 3-D convolutions with
channels outermost, which transposes every array twice, and autotune each new shape at compile time.
The 2-D convolution either has all frames concatenated along the channels, and its result is reduced
to the pairs of frames that a temporal tap connects; or it has the frames under each temporal tap
concatenated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Float32

from pallas_kernels.core import device
from pallas_kernels.core.jax_versions import CAN_TRANSPOSE
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.weight_gradient.kernel import weight_sums
from pallas_kernels.hopper.weight_gradient.problem import CHANNELS, MAX_FRAMES

__all__ = ["weight_gradient"]

# With so few channels (geometric mean of input and output) and frames, larger matrices make up for
# the products that no tap uses (measured on an H200 with cuDNN 9).
_FEW_CHANNELS = 64
_FEW_FRAMES = 4


def weight_gradient(
    inputs: tuple[Float[Array, "batch in_time in_height in_width _"], ...],
    gradient: Float[Array, "batch time height width channel"],
    geometry: Geometry,
) -> Float32[Array, "kt kh kw in_channel channel"]:
    """The gradient of :func:`implicit_gemm`'s weights, float32.

    Args:
        inputs: ``[batch, time, height, width, channel]`` arrays, convolved as if concatenated
            along the channels.
        gradient: gradient of the output, ``[batch, time, height, width, out_channel]``.
        geometry: kernel, padding, stride and phases.

    Returns:
        ``[*kernel, channel, out_channel]``.
    """
    transposed = geometry.phases == 2
    if transposed:
        # A transposed convolution is the transpose of a strided one that reads its output and
        # writes its input. So input and gradient swap roles, and the taps are flipped.
        low = tuple(
            size - 1 - scale * before
            for size, scale, before in zip(geometry.kernel, (1, 2, 2), geometry.low)
        )
        geometry = Geometry(geometry.kernel, (low[0], low[1], low[2]), stride=2)

    def of(x: Array) -> tuple[Array, Array, Geometry]:
        return (gradient, x, geometry) if transposed else (x, gradient, geometry)

    # The kernel handles inputs separately if it can take each; XLA needs one call for all.
    if any(_by_kernel(*of(x)) is None for x in inputs):
        inputs = (jnp.concatenate(inputs, axis=-1),)
    found = [_untransposed(*of(x)) for x in inputs]
    if not transposed:
        return jnp.concatenate(found, axis=3)
    flipped = jnp.concatenate(found, axis=4)[::-1, ::-1, ::-1]
    return jnp.swapaxes(flipped, 3, 4)


def _has_kernel(gradient: Array) -> bool:
    """True if the kernel runs on this device and for this dtype."""
    return CAN_TRANSPOSE and device.why_not() is None and gradient.dtype.itemsize == 2


def _untransposed(
    x: Float[Array, "batch in_time in_height in_width depth"],
    gradient: Float[Array, "batch time height width channel"],
    geometry: Geometry,
) -> Float32[Array, "kt kh kw depth channel"]:
    """The weight gradient of a convolution that is not transposed."""
    by_kernel = _by_kernel(x, gradient, geometry)
    if by_kernel is not None:
        return by_kernel()
    frames, few = x.shape[1], x.shape[-1] * gradient.shape[-1] <= _FEW_CHANNELS**2
    if few and geometry.kernel[0] > 1 and frames <= _FEW_FRAMES:
        return _with_all_frames(x, gradient, geometry)
    return _with_frames_under_taps(x, gradient, geometry)


def _by_kernel(x: Array, gradient: Array, geometry: Geometry) -> Callable[[], Array] | None:
    """A function that runs the GPU kernel, or None if the kernel cannot compute this gradient."""
    (kt, *taps), (_, *low), stride = geometry.kernel, geometry.low, geometry.stride
    depth, channels = x.shape[-1], gradient.shape[-1]
    # Tiles span the clip.
    if not _has_kernel(gradient) or max(x.shape[1], gradient.shape[1]) > MAX_FRAMES:
        return None
    # By stride and vertical taps, the temporal ones whose sums fit into registers. A single tap in
    # space and time is a matrix product, which XLA computes as fast.
    temporal = {
        1: {1: (2, 3, 4), 3: (1, 2, 3), 5: (1,), 7: (1,)},
        2: {3: (1, 2, 3), 4: (1, 2, 3)},
    }
    if kt not in temporal[stride].get(taps[0], ()):
        return None
    if stride == 2:
        fits = 2 * depth % CHANNELS == channels % CHANNELS == 0
        usual = taps in ([3, 3], [4, 4]) and low == [1, 1]
        run = functools.partial(_strided_by_pairs, x, gradient, geometry)
        return run if fits and usual else None
    if taps[0] != taps[1]:
        return None
    if depth % CHANNELS == channels % CHANNELS == 0:
        return functools.partial(weight_sums, x, gradient, geometry.kernel, geometry.low, 1)
    even = x.shape[3] % 2 == gradient.shape[3] % 2 == 0
    fits = 2 * depth % CHANNELS == 2 * channels % CHANNELS == 0
    return functools.partial(_by_pairs, x, gradient, geometry) if even and fits else None


def _column_pairs(
    x: Float[Array, "batch time height width channel"],
) -> Float[Array, "batch time height pairs two_channels"]:
    """View two neighbouring columns as one pixel with twice the channels."""
    return x.reshape(*x.shape[:3], x.shape[3] // 2, 2 * x.shape[4])


def _strided_by_pairs(x: Array, gradient: Array, geometry: Geometry) -> Array:
    """The gradient at stride 2: with pairs of input columns as pixels, the stride in width is 1.

    Horizontal tap 2·t + n − 1 is column n of the pair that tap t reads.
    """
    (kt, kh, kw), channels = geometry.kernel, (x.shape[-1], gradient.shape[-1])
    # Four taps in height, so that both row phases have two.
    taps = (kt, 4, kw // 2 + 1)
    sums = weight_sums(_column_pairs(x), gradient, taps, geometry.low, 2)
    return sums.reshape(kt, 4, 2 * taps[2], *channels)[:, :kh, 1 : 1 + kw]


def _by_pairs(x: Array, gradient: Array, geometry: Geometry) -> Array:
    """The gradient at stride 1, from column pairs of both operands."""
    (kt, kh, kw), (*low, first) = geometry.kernel, geometry.low
    before, taps = _taps_of_pairs(kw, first)
    pairs = _column_pairs(x), _column_pairs(gradient)
    sums = weight_sums(*pairs, (kt, kh, taps), (low[0], low[1], before), 1)
    sums = sums.reshape(kt, kh, taps, 2, x.shape[-1], 2, gradient.shape[-1])
    shift = 2 * before - first
    return jnp.stack([_tap_of_pairs(sums, tap + shift) for tap in range(kw)], axis=2)


def _taps_of_pairs(taps: int, low: int) -> tuple[int, int]:
    """Padding before pairs of columns, and taps in width that reach all pairs."""
    before = (low + 1) // 2  # may exceed the padding by one column
    return before, (taps + 2 * before - low) // 2 + 1


def _tap_of_pairs(
    sums: Float[Array, "*axes tap 2 in_channel 2 channel"], distance: int
) -> Float[Array, "*axes in_channel channel"]:
    """Sum of the products of columns that are ``distance`` apart.

    With tap t of the pairs, column n of the input pair and column m of the gradient pair have the
    distance 2·t + n − m.
    """
    places = (((distance - n + m) / 2, n, m) for n in (0, 1) for m in (0, 1))
    met = [sums[..., int(tap), n, :, m, :] for tap, n, m in places if tap == int(tap)]
    return functools.reduce(jnp.add, met)


def _with_all_frames(x: Array, gradient: Array, geometry: Geometry) -> Array:
    """Multiply every frame of the input by every frame of the gradient.

    Each temporal tap then sums the pairs of frames that it connects. Returns float32
    ``[*kernel, channel, out_channel]``.
    """
    taps, first = geometry.kernel[0], geometry.low[0]
    times = x.shape[1], gradient.shape[1]
    # One large convolution; products of frames that no tap connects are discarded.
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


def _frames_in_channels(
    x: Float[Array, "batch time height width channel"],
) -> Float[Array, "batch height width time_x_channel"]:
    batch, time, height, width, channels = x.shape
    return jnp.moveaxis(x, 1, 3).reshape(batch, height, width, time * channels)


def _with_frames_under_taps(x: Array, gradient: Array, geometry: Geometry) -> Array:
    """Multiply every frame of the gradient by the frames under its temporal taps, with padding.

    Returns float32 ``[*kernel, channel, out_channel]``.
    """
    taps, first = geometry.kernel[0], geometry.low[0]
    batch, time, *size, channels = gradient.shape
    high = taps - 1 - first + time - x.shape[1]
    x = jnp.pad(x, ((0, 0), (first, high), *((0, 0),) * 3))
    stack = jnp.concatenate([x[:, tap : tap + time] for tap in range(taps)], axis=-1)
    # Frames become independent images, since the temporal taps are channels now.
    found = _over_space(
        stack.reshape(batch * time, *stack.shape[2:]),
        gradient.reshape(batch * time, *size, channels),
        geometry,
    )
    found = found.reshape(*found.shape[:2], taps, -1, channels)
    return jnp.moveaxis(found, 2, 0).astype(jnp.float32)


def _over_space(
    x: Float[Array, "images in_height in_width depth"],
    gradient: Float[Array, "images height width channel"],
    geometry: Geometry,
) -> Float[Array, "kh kw depth channel"]:
    """The gradient of the weights of a 2-D convolution."""
    _, *size = geometry.kernel
    stride, shape = geometry.stride, (x.shape[-1], gradient.shape[-1])
    # A single tap is a matrix product over the pixels that it reads.
    if size == [1, 1]:
        x = x[:, ::stride, ::stride].reshape(-1, shape[0])
        product = jnp.matmul(
            x.T, gradient.reshape(-1, shape[1]), preferred_element_type=jnp.float32
        )
        return product[None, None]
    low = geometry.low[1:]
    # Pairs of columns double the channels, which pays off only if there are few.
    even = x.shape[2] % 2 == gradient.shape[2] % 2 == 0
    if even and stride == 1 and size[1] > 1 and max(shape) <= _FEW_CHANNELS // 2:
        return _over_pairs(x, gradient, (size[0], size[1]), low)
    return _over_pixels(x, gradient, (size[0], size[1]), low, stride)


def _over_pairs(
    x: Float[Array, "images in_height in_width depth"],
    gradient: Float[Array, "images height width channel"],
    size: tuple[int, int],
    low: tuple[int, int],
) -> Float[Array, "kh kw depth channel"]:
    """The same gradient from pairs of columns: tensor cores are most efficient with 64 channels."""
    before, taps = _taps_of_pairs(size[1], low[1])
    shift = 2 * before - low[1]
    wide, wide_gradient = (
        y.reshape(*y.shape[:2], y.shape[2] // 2, 2 * y.shape[3]) for y in (x, gradient)
    )
    sums = _over_pixels(wide, wide_gradient, (size[0], taps), (low[0], before), 1)
    sums = sums.reshape(size[0], taps, 2, x.shape[-1], 2, gradient.shape[-1])
    return jnp.stack([_tap_of_pairs(sums, tap + shift) for tap in range(size[1])], axis=1)


def _over_pixels(
    x: Float[Array, "images in_height in_width depth"],
    gradient: Float[Array, "images height width channel"],
    size: tuple[int, int],
    low: tuple[int, int],
    stride: int,
) -> Float[Array, "kh kw depth channel"]:
    """The same gradient as the linear transpose of the convolution with respect to its kernel."""
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
