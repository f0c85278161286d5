# SPDX-License-Identifier: Apache-2.0
"""conv2d on Hopper's tensor cores: an implicit matrix product over clips of one frame.

Few output channels would leave most of a tensor core idle. So where there are few, each horizontal
tap gets output channels of its own, which makes one product of ``kw · channel`` columns, and the
results are shifted and added up afterwards.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pallas_kernels import _hopper
from pallas_kernels._epilogue import Activation, finish
from pallas_kernels._features import FeatureMap
from pallas_kernels._gradients import differentiable
from pallas_kernels._implicit_gemm import implicit_gemm
from pallas_kernels._work import Geometry
from pallas_kernels.conv2d import reference

__all__ = ["conv2d", "why_not"]

_FEW_CHANNELS = 32


def why_not(inputs: tuple[FeatureMap, ...], kernel: Array, *_: Any) -> str | None:
    """Why this cannot run here on these arguments; None if it can."""
    return _hopper.why_not(inputs, kernel, channels=[x.values.shape[-1] for x in inputs])


def conv2d(
    inputs: tuple[FeatureMap, ...],
    kernel: Array,
    bias: Array | None,
    padding: str,
    activation: Activation,
    out_dtype: Any,
) -> FeatureMap:
    """See :func:`pallas_kernels.conv2d`, whose gradient ``_gradients.py`` has."""

    def forward(inputs: Any, kernel: Any, bias: Any, residual: Any) -> FeatureMap:
        arrays = tuple(x.values for x in inputs)
        _, kw, _, channels = kernel.shape
        if kw > 1 and channels <= _FEW_CHANNELS:
            sums = _shifted_sums(arrays, kernel, padding)
            return FeatureMap(finish(sums, bias, activation=activation).astype(out_dtype))
        if padding == "reflect":
            arrays = tuple(reference.pad(x, kernel, "reflect") for x in arrays)
        output = _convolve(arrays, kernel, bias, activation, out_dtype, padded=padding == "reflect")
        return FeatureMap(output)

    prepare = functools.partial(_as_gemm, padding=padding)

    def in_training(inputs: Any, kernel: Any, bias: Any, residual: Any) -> FeatureMap:
        # The backward pass needs the mirrored picture anyway.
        arrays = tuple(x.values[:, 0] for x in prepare(inputs, kernel)[0])
        output = _convolve(arrays, kernel, bias, activation, out_dtype, padded=padding == "reflect")
        return FeatureMap(output)

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
    padded: bool,
) -> Array:
    """The convolution of images that are ``padded`` already, or count as padded with zeros."""
    kh, kw, _, channels = kernel.shape
    height, width = arrays[0].shape[1:3]
    low = (0, kh // 2, kw // 2)
    if padded:
        height, width, low = height - kh + 1, width - kw + 1, (0, 0, 0)
    missing = -channels % 16
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, missing)))
    if bias is not None:
        bias = jnp.pad(bias, (0, missing))
    output, _ = implicit_gemm(
        tuple(x[:, None] for x in arrays),
        kernel[None],
        Geometry((1, kh, kw), low),
        (1, height, width),
        offset=_hopper.scale_and_offset(None, bias)[1],
        activation=activation,
        out_dtype=out_dtype,
    )
    return output[:, 0, :, :, :channels]


def _shifted_sums(arrays: tuple[Array, ...], kernel: Array, padding: str) -> Array:
    """The convolution's float32 sums: every horizontal tap apart, then shifted and added up."""
    kh, kw, depth, channels = kernel.shape
    width = arrays[0].shape[2]
    apart = jnp.moveaxis(kernel, 1, 2).reshape(kh, 1, depth, kw * channels)
    sums = _convolve(arrays, apart, None, None, jnp.float32, padded=False)
    if padding == "reflect":
        sums = _with_mirrored_borders(sums, arrays, apart)
    mode = "reflect" if padding == "reflect" else "constant"
    sums = jnp.pad(sums, ((0, 0), (0, 0), (kw // 2, kw // 2), (0, 0)), mode=mode)
    shifted = (
        sums[:, :, tap : tap + width, tap * channels : (tap + 1) * channels] for tap in range(kw)
    )
    return functools.reduce(jnp.add, shifted)


def _with_mirrored_borders(sums: Array, arrays: tuple[Array, ...], kernel: Array) -> Array:
    """``sums`` with the rows at both ends as if the images had been mirrored there.

    Only those rows are computed again: to pad the images would copy them.
    """
    reach = kernel.shape[0] // 2
    if reach == 0:
        return sums
    height = sums.shape[1]
    mirrored = np.pad(np.arange(height), reach, mode="reflect")
    ends = np.stack([mirrored[: 3 * reach], mirrored[-3 * reach :]])
    strips = tuple(
        x[:, ends].reshape(-1, 3 * reach, *x.shape[2:])  # [batch · 2, row, column, channel]
        for x in arrays
    )
    borders = _convolve(strips, kernel, None, None, jnp.float32, padded=True)
    borders = borders.reshape(-1, 2, *borders.shape[1:])
    inner = sums[:, reach : max(reach, height - reach)]
    bottom = borders[:, 1, max(0, 2 * reach - height) :]
    return jnp.concatenate([borders[:, 0], inner, bottom], axis=1)
