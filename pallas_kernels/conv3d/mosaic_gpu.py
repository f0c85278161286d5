# SPDX-License-Identifier: Apache-2.0
"""conv3d on Hopper's tensor cores: an implicit GEMM (``hopper/conv/kernel.py``).

A strided convolution with few input channels (3 in the stem) is first turned into one of stride 1
over 2×2 blocks of pixels, whose channels fill a row of the tensor cores' operands.
"""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
from jax import Array

from pallas_kernels.conv3d import xla
from pallas_kernels.core.arguments import Conv3dArguments
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.hopper import launch
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.gradients import (
    Factors,
    Gemm,
    Parameters,
    differentiable,
    differentiable_scaled,
)

__all__ = ["conv3d", "why_not"]

_MIN_DEPTH = 16  # input channels of one 16-bit WGMMA
_FEW_CHANNELS = _MIN_DEPTH // 4  # most input channels whose 2×2 blocks fit into that


def why_not(arguments: Conv3dArguments) -> str | None:
    """Reason why this cannot run here on these arguments; None if it can."""
    kernel = arguments.kernel
    few = arguments.stride[1] == 2 and kernel.shape[3] <= _FEW_CHANNELS
    return launch.why_not(arguments.inputs, kernel, channels=kernel.shape[4:] if few else None)


def conv3d(arguments: Conv3dArguments) -> FeatureMap:
    """See :func:`pallas_kernels.conv3d`; its gradient is in ``hopper/gradients.py``."""
    prepare = functools.partial(_as_gemm, stride=arguments.stride, pad_time=arguments.pad_time)
    activation = arguments.activation

    def forward(given: Parameters) -> FeatureMap:
        assert not isinstance(given.factors, tuple)
        scale, offset = launch.scale_and_offset(given.factors, given.bias)
        return launch.convolve(
            prepare(given.inputs, given.kernel),
            scale=scale,
            offset=offset,
            residual=given.residual,
            activation=activation,
            totals=arguments.with_totals,
        )

    def scale_of(_: Array, scale: Factors) -> Array:
        assert not isinstance(scale, tuple)
        return scale.astype(jnp.float32)

    if isinstance(arguments.kernel, QuantizedKernel):
        run = forward  # e4m3 has no gradient
    elif arguments.scale is None:
        run = differentiable(forward, prepare, activation)
    else:
        run = differentiable_scaled(forward, prepare, scale_of, activation)
    return run(
        Parameters(
            arguments.inputs,
            arguments.kernel,
            arguments.bias,
            arguments.scale,
            arguments.residual,
        )
    )


def _as_gemm(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    stride: tuple[int, int, int],
    pad_time: bool,
) -> Gemm:
    """The convolution as :func:`implicit_gemm` runs it."""
    kt, kh, kw, depth, _ = kernel.shape
    _, time, height, width, _ = inputs[0].values.shape
    low = (kt // 2 if pad_time else 0, kh // 2, kw // 2)
    frames = time if pad_time else time - kt + 1
    if stride[1] == 1:
        return Gemm(inputs, kernel, Geometry((kt, kh, kw), low), (frames, height, width))
    # Sizes are rounded up: an odd last row is paired with a row of zeros.
    size = (frames, -(-height // 2), -(-width // 2))
    if depth <= _FEW_CHANNELS:
        return _blocks_as_gemm(inputs, kernel, low[0], size)
    # The strided view pairs rows and columns, so there must be an even number of them.
    odd = ((0, 0), (0, 0), (0, height % 2), (0, width % 2), (0, 0))
    if height % 2 or width % 2:
        inputs = tuple(x._replace(values=jnp.pad(x.values, odd)) for x in inputs)
    return Gemm(inputs, kernel, Geometry((kt, kh, kw), low, stride=2), size)


def _blocks_as_gemm(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    low_time: int,
    size: tuple[int, int, int],
) -> Gemm:
    """A strided convolution of few channels, as one of stride 1 over 2×2 blocks of pixels."""
    arrays = tuple(x.values for x in inputs)
    weights = kernel.values if isinstance(kernel, QuantizedKernel) else kernel
    arrays, weights, padding = xla.space_to_depth(arrays, weights)
    # 2×2 blocks of 3 channels have 12; pad them to 16 with zeros, which do not change the sums.
    missing = _MIN_DEPTH - weights.shape[3]
    arrays = (jnp.pad(x, ((0, 0),) * 4 + ((0, missing),)) for x in arrays)
    weights = jnp.pad(weights, ((0, 0),) * 3 + ((0, missing), (0, 0)))
    kt, kh, kw = weights.shape[:3]
    geometry = Geometry((kt, kh, kw), (low_time, padding[0][0], padding[1][0]))
    if isinstance(kernel, QuantizedKernel):
        weights = dataclasses.replace(kernel, values=weights)
    return Gemm(tuple(map(FeatureMap, arrays)), weights, geometry, size)
