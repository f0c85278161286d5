# SPDX-License-Identifier: Apache-2.0
"""conv3d on Hopper's tensor cores: an implicit matrix product (see ``_implicit_gemm.py``).

A strided convolution of few channels (the stem: 3) first becomes one of stride 1 over 2×2 blocks of
pixels, whose channels fill a row of the tensor cores' operands.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from pallas_kernels import _hopper
from pallas_kernels._epilogue import Activation
from pallas_kernels._features import FeatureMap
from pallas_kernels._implicit_gemm import implicit_gemm
from pallas_kernels._work import Geometry
from pallas_kernels.conv3d import xla

__all__ = ["conv3d", "why_not"]

_FEW_CHANNELS = 4  # of which 2×2 blocks fill the 16 channels of a product


def why_not(
    inputs: tuple[FeatureMap, ...],
    kernel: Array,
    bias: Array | None,
    stride: tuple[int, int, int],
    *_: Any,
) -> str | None:
    """Why this cannot run here on these arguments; None if it can."""
    few = stride[1] == 2 and kernel.shape[3] <= _FEW_CHANNELS
    if few and kernel.shape[4] % 16:
        return f"it needs output channels in multiples of 16, and got {kernel.shape[4]}"
    return _hopper.why_not(inputs, kernel, any_channels=few)


def conv3d(
    inputs: tuple[FeatureMap, ...],
    kernel: Array,
    bias: Array | None,
    stride: tuple[int, int, int],
    pad_time: bool,
    scale: Array | None,
    residual: Array | None,
    activation: Activation,
    with_totals: bool,
) -> FeatureMap:
    """See :func:`pallas_kernels.conv3d`; the gradient is that of the formulation for XLA."""

    def forward(
        arrays: tuple[Array, ...],
        kernel: Array,
        bias: Array | None,
        scale: Array | None,
        residual: Array | None,
    ) -> FeatureMap:
        arrays, kernel, geometry, size = _as_gemm(arrays, kernel, stride, pad_time)
        scale, offset = _hopper.scale_and_offset(scale, bias)
        return FeatureMap(
            *implicit_gemm(
                arrays,
                kernel,
                geometry,
                size,
                scale=scale,
                offset=offset,
                residual=residual,
                activation=activation,
                totals=with_totals,
            )
        )

    def definition(
        arrays: tuple[Array, ...],
        kernel: Array,
        bias: Array | None,
        scale: Array | None,
        residual: Array | None,
    ) -> Array:
        return xla.conv3d(arrays, kernel, bias, stride, pad_time, scale, residual, activation)

    run = _hopper.differentiable(forward, definition)
    return run(tuple(x.values for x in inputs), kernel, bias, scale, residual)


def _as_gemm(
    arrays: tuple[Array, ...], kernel: Array, stride: tuple[int, int, int], pad_time: bool
) -> tuple[tuple[Array, ...], Array, Geometry, tuple[int, int, int]]:
    """Arrays, kernel, geometry and output size for :func:`implicit_gemm`."""
    kt, kh, kw, depth, _ = kernel.shape
    _, time, height, width, _ = arrays[0].shape
    low = (kt // 2 if pad_time else 0, kh // 2, kw // 2)
    frames = time if pad_time else time - kt + 1
    if stride[1] == 1:
        return arrays, kernel, Geometry((kt, kh, kw), low), (frames, height, width)
    size = (frames, -(-height // 2), -(-width // 2))
    if depth <= _FEW_CHANNELS:
        arrays, kernel, padding = xla.space_to_depth(arrays, kernel)
        missing = 16 - kernel.shape[3]
        arrays = tuple(jnp.pad(x, ((0, 0),) * 4 + ((0, missing),)) for x in arrays)
        kernel = jnp.pad(kernel, ((0, 0),) * 3 + ((0, missing), (0, 0)))
        kt, kh, kw = kernel.shape[:3]
        geometry = Geometry((kt, kh, kw), (low[0], padding[0][0], padding[1][0]))
        return arrays, kernel, geometry, size
    odd = ((0, 0), (0, 0), (0, height % 2), (0, width % 2), (0, 0))
    if height % 2 or width % 2:
        arrays = tuple(jnp.pad(x, odd) for x in arrays)
    return arrays, kernel, Geometry((kt, kh, kw), low, stride=2), size
