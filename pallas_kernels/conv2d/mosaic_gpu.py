# SPDX-License-Identifier: Apache-2.0
"""conv2d on Hopper's tensor cores: an implicit matrix product over clips of one frame.

Few output channels would leave most of a tensor core idle. So where there are few, the horizontal
taps fall into groups, each with output channels of its own; what comes out is shifted and added up.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.conv2d import reference
from pallas_kernels.core.epilogue import Activation, finish
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.hopper import launch
from pallas_kernels.hopper.conv.kernel import implicit_gemm
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.gradients import differentiable

__all__ = ["conv2d", "why_not"]

_FEW_CHANNELS = 32
_COLUMNS = 64  # of a product that few channels are made into: more would cost memory traffic


def why_not(inputs: tuple[FeatureMap, ...], kernel: Array, *_: Any) -> str | None:
    """Why this cannot run here on these arguments; None if it can."""
    return launch.why_not(inputs, kernel, channels=[x.values.shape[-1] for x in inputs])


def conv2d(
    inputs: tuple[FeatureMap, ...],
    kernel: Array,
    bias: Array | None,
    padding: str,
    activation: Activation,
    out_dtype: Any,
) -> FeatureMap:
    """See :func:`pallas_kernels.conv2d`, whose gradient ``_gradients.py`` has."""
    kh, kw, _, channels = kernel.shape
    low = None if padding == "reflect" else (kh // 2, kw // 2)

    def forward(inputs: Any, kernel: Any, bias: Any, residual: Any) -> FeatureMap:
        arrays = tuple(x.values for x in inputs)
        if kw > 1 and channels <= _FEW_CHANNELS:
            sums = _shifted_sums(arrays, kernel, padding)
            return FeatureMap(finish(sums, bias, activation=activation).astype(out_dtype))
        if padding == "reflect":
            arrays = tuple(reference.pad(x, kernel, "reflect") for x in arrays)
        return FeatureMap(_convolve(arrays, kernel, bias, activation, out_dtype, low=low))

    prepare = functools.partial(_as_gemm, padding=padding)

    def in_training(inputs: Any, kernel: Any, bias: Any, residual: Any) -> FeatureMap:
        # The backward pass needs the mirrored picture anyway.
        arrays = tuple(x.values[:, 0] for x in prepare(inputs, kernel)[0])
        return FeatureMap(_convolve(arrays, kernel, bias, activation, out_dtype, low=low))

    run = differentiable(forward, prepare, activation, in_training=in_training)
    return run(inputs, kernel, bias, None)


def _as_gemm(
    inputs: tuple[FeatureMap, ...], kernel: Array, padding: str
) -> tuple[tuple[FeatureMap, ...], Array, Geometry, tuple[int, int, int]]:
    """Inputs, kernel, geometry and output size for :func:`implicit_gemm`."""
    kh, kw, _, channels = kernel.shape
    _, height, width, _ = inputs[0].values.shape
    low = (0, kh // 2, kw // 2)
    arrays = tuple(x.values for x in inputs)
    if padding == "reflect":
        low = (0, 0, 0)
        arrays = tuple(_mirrored(x, kh // 2, kw // 2) for x in arrays)
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, -channels % 16)))
    clips = tuple(FeatureMap(x[:, None]) for x in arrays)
    return clips, kernel[None], Geometry((1, kh, kw), low), (1, height, width)


def _mirrored(x: Array, *reach: int) -> Array:
    """``x`` with so many more rows and columns on each side, mirrored.

    As a sum of three for each axis: that is one pass of XLA's, also backwards. To join the borders
    to the picture would be one an axis.
    """
    for axis, count in enumerate(reach, 1):
        size = x.shape[axis]
        first = jnp.flip(lax.slice_in_dim(x, 1, count + 1, axis=axis), axis)
        last = jnp.flip(lax.slice_in_dim(x, size - count - 1, size - 1, axis=axis), axis)
        parts = ((first, 0, count + size), (x, count, count), (last, count + size, 0))
        x = functools.reduce(jnp.add, (_between(part, axis, *zeros) for part, *zeros in parts))
    return x


def _between(x: Array, axis: int, before: int, after: int) -> Array:
    """``x`` between so many zeros along an axis."""
    return jnp.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)])


def _convolve(
    arrays: tuple[Array, ...],
    kernel: Array,
    bias: Array | None,
    activation: Activation,
    out_dtype: Any,
    *,
    low: tuple[int, int] | None,
) -> Array:
    """The convolution of padded images; with ``low``, of images as large as the output.

    Then so many rows and columns of zeros count as lying before their first ones.
    """
    kh, kw, _, channels = kernel.shape
    height, width = arrays[0].shape[1:3]
    if low is None:
        height, width, low = height - kh + 1, width - kw + 1, (0, 0)
    missing = -channels % 16
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, missing)))
    if bias is not None:
        bias = jnp.pad(bias, (0, missing))
    output, _ = implicit_gemm(
        tuple(x[:, None] for x in arrays),
        kernel[None],
        Geometry((1, kh, kw), (0, *low)),
        (1, height, width),
        offset=launch.scale_and_offset(None, bias)[1],
        activation=activation,
        out_dtype=out_dtype,
    )
    return output[:, 0, :, :, :channels]


def _shifted_sums(arrays: tuple[Array, ...], kernel: Array, padding: str) -> Array:
    """The convolution's float32 sums: groups of horizontal taps apart, shifted and added up."""
    kh, kw, depth, channels = kernel.shape
    height, width = arrays[0].shape[1:3]
    if height < kh or width < kw:
        arrays = tuple(reference.pad(x, kernel, padding) for x in arrays)
        return _convolve(arrays, kernel, None, None, jnp.float32, low=None)
    taps = _taps_together(kw, channels)
    groups = -(-kw // taps)
    # Taps that a group lacks come first, and its last one is the pixel itself: so all sums that
    # the picture's inside needs lie in the picture.
    lacking = groups * taps - kw
    apart = jnp.pad(kernel, ((0, 0), (lacking, 0), (0, 0), (0, 0)))
    apart = apart.reshape(kh, groups, taps, depth, channels).transpose(0, 2, 3, 4, 1)
    # A channel's groups lie side by side: frames made of the channels are read in long pieces.
    apart = apart.reshape(kh, taps, depth, channels * groups)
    sums = _convolve(arrays, apart, None, None, jnp.float32, low=(kh // 2, taps - 1))
    sums = sums.reshape(*sums.shape[:3], channels, groups)
    # A single tap's sums of the mirrored picture are its mirrored sums.
    mode = "reflect" if taps == 1 and padding == "reflect" else "constant"
    sums = jnp.pad(sums, ((0, 0), (0, 0), (kw // 2, kw // 2), (0, 0), (0, 0)), mode=mode)
    starts = (taps - 1 - lacking + taps * group for group in range(groups))
    shifted = (sums[:, :, start : start + width, :, group] for group, start in enumerate(starts))
    sums = functools.reduce(jnp.add, shifted)
    if taps > 1:
        sums = _with_borders(sums, 2, arrays, kernel, padding)
    return _with_borders(sums, 1, arrays, kernel, padding) if padding == "reflect" else sums


def _taps_together(kw: int, channels: int) -> int:
    """Horizontal taps in a group: as few as columns allow."""
    return -(-kw // max(1, _COLUMNS // channels))


def _with_borders(
    sums: Array, axis: int, arrays: tuple[Array, ...], kernel: Array, padding: str
) -> Array:
    """``sums`` with those at both ends of an axis from strips of the pictures, padded as asked.

    To pad the pictures would copy them.
    """
    reach, size = kernel.shape[axis - 1] // 2, sums.shape[axis]
    if reach == 0:
        return sums
    cut = functools.partial(lax.slice_in_dim, axis=axis)
    both_ends = (
        jnp.concatenate([cut(x, 0, 2 * reach), cut(x, size - 2 * reach, size)]) for x in arrays
    )
    strips = tuple(reference.pad(x, kernel, padding) for x in both_ends)
    found = _convolve(strips, kernel, None, None, jnp.float32, low=None)
    before, after = jnp.split(found, 2)
    parts = cut(before, 0, reach), cut(sums, reach, size - reach), cut(after, reach, 2 * reach)
    return jnp.concatenate(parts, axis=axis)
