# SPDX-License-Identifier: Apache-2.0
"""conv2d on Hopper's tensor cores: an implicit matrix product over clips of one frame."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from pallas_kernels import _hopper
from pallas_kernels._epilogue import Activation
from pallas_kernels._features import FeatureMap
from pallas_kernels._implicit_gemm import implicit_gemm
from pallas_kernels._work import Geometry
from pallas_kernels.conv2d import reference, xla

__all__ = ["conv2d", "why_not"]


def why_not(inputs: tuple[FeatureMap, ...], kernel: Array, *_: Any) -> str | None:
    """Why this cannot run here on these arguments; None if it can."""
    if any(x.values.shape[-1] % 16 for x in inputs):
        channels = [x.values.shape[-1] for x in inputs]
        return f"it needs input channels in multiples of 16, and got {channels}"
    return _hopper.why_not(inputs, kernel, any_channels=True)


def conv2d(
    inputs: tuple[FeatureMap, ...],
    kernel: Array,
    bias: Array | None,
    padding: str,
    activation: Activation,
    out_dtype: Any,
) -> FeatureMap:
    """See :func:`pallas_kernels.conv2d`; the gradient is that of the formulation for XLA."""

    def forward(arrays: tuple[Array, ...], kernel: Array, bias: Array | None) -> FeatureMap:
        kh, kw, _, channels = kernel.shape
        height, width = arrays[0].shape[1:3]
        low = (0, kh // 2, kw // 2)
        if padding == "reflect" and (kh, kw) != (1, 1):
            arrays = tuple(reference.pad(x, kernel, "reflect") for x in arrays)
            low = (0, 0, 0)
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
        return FeatureMap(output[:, 0, :, :, :channels])

    def definition(arrays: tuple[Array, ...], kernel: Array, bias: Array | None) -> Array:
        return xla.conv2d(arrays, kernel, bias, padding, activation).astype(out_dtype)

    run = _hopper.differentiable(forward, definition)
    return run(tuple(x.values for x in inputs), kernel, bias)
