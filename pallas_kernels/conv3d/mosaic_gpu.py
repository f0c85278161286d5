# SPDX-License-Identifier: Apache-2.0
"""conv3d on Hopper's tensor cores: an implicit matrix product (see ``_implicit_gemm.py``).

A strided convolution of few channels (the stem: 3) first becomes one of stride 1 over 2×2 blocks of
pixels, whose channels fill a row of the tensor cores' operands.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from jax import Array

from pallas_kernels.conv3d import xla
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.hopper import launch
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.gradients import differentiable, differentiable_scaled

__all__ = ["conv3d", "why_not"]

_FEW_CHANNELS = 4  # of which 2×2 blocks fill the 16 channels of a product


def why_not(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    bias: Array | None,
    stride: tuple[int, int, int],
    *_: Any,
) -> str | None:
    """Why this cannot run here on these arguments; None if it can."""
    few = stride[1] == 2 and kernel.shape[3] <= _FEW_CHANNELS
    return launch.why_not(inputs, kernel, channels=kernel.shape[4:] if few else None)


def conv3d(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    bias: Array | None,
    stride: tuple[int, int, int],
    pad_time: bool,
    scale: Array | None,
    residual: FeatureMap | None,
    activation: Activation,
    with_totals: bool,
) -> FeatureMap:
    """See :func:`pallas_kernels.conv3d`, whose gradient ``_gradients.py`` has."""

    def forward(inputs: Any, kernel: Any, bias: Any, scale: Any, residual: Any) -> FeatureMap:
        inputs, kernel, geometry, size = _as_gemm(inputs, kernel, stride, pad_time)
        scale, offset = launch.scale_and_offset(scale, bias)
        return launch.convolve(
            inputs,
            kernel,
            geometry,
            size,
            scale=scale,
            offset=offset,
            residual=residual,
            activation=activation,
            totals=with_totals,
        )

    if isinstance(kernel, QuantizedKernel):
        return forward(inputs, kernel, bias, scale, residual)
    prepare = functools.partial(_as_gemm, stride=stride, pad_time=pad_time)
    if scale is None:

        def plain(inputs: Any, kernel: Any, bias: Any, residual: Any) -> FeatureMap:
            return forward(inputs, kernel, bias, None, residual)

        return differentiable(plain, prepare, activation)(inputs, kernel, bias, residual)

    def scale_of(_: Array, scale: Array) -> Array:
        return scale.astype(jnp.float32)

    run = differentiable_scaled(forward, prepare, scale_of, activation)
    return run(inputs, kernel, bias, scale, residual)


def _as_gemm(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    stride: tuple[int, int, int],
    pad_time: bool,
) -> tuple[tuple[FeatureMap, ...], Array | QuantizedKernel, Geometry, tuple[int, int, int]]:
    """Inputs, kernel, geometry and output size for :func:`launch.convolve`."""
    kt, kh, kw, depth, _ = kernel.shape
    _, time, height, width, _ = inputs[0].values.shape
    low = (kt // 2 if pad_time else 0, kh // 2, kw // 2)
    frames = time if pad_time else time - kt + 1
    if stride[1] == 1:
        return inputs, kernel, Geometry((kt, kh, kw), low), (frames, height, width)
    size = (frames, -(-height // 2), -(-width // 2))
    if depth <= _FEW_CHANNELS:
        arrays = tuple(x.values for x in inputs)
        plain = kernel.values if isinstance(kernel, QuantizedKernel) else kernel
        arrays, plain, padding = xla.space_to_depth(arrays, plain)
        missing = 16 - plain.shape[3]
        arrays = (jnp.pad(x, ((0, 0),) * 4 + ((0, missing),)) for x in arrays)
        plain = jnp.pad(plain, ((0, 0),) * 3 + ((0, missing), (0, 0)))
        kt, kh, kw = plain.shape[:3]
        geometry = Geometry((kt, kh, kw), (low[0], padding[0][0], padding[1][0]))
        if isinstance(kernel, QuantizedKernel):
            plain = dataclasses.replace(kernel, values=plain)
        return tuple(map(FeatureMap, arrays)), plain, geometry, size
    odd = ((0, 0), (0, 0), (0, height % 2), (0, width % 2), (0, 0))
    if height % 2 or width % 2:
        inputs = tuple(x._replace(values=jnp.pad(x.values, odd)) for x in inputs)
    return inputs, kernel, Geometry((kt, kh, kw), low, stride=2), size
