# SPDX-License-Identifier: Apache-2.0
"""What the Mosaic GPU implementations share: when they can run, and how they are launched."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from pallas_kernels.core import device
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.hopper.conv.kernel import implicit_gemm
from pallas_kernels.hopper.gate.kernel import gate_ahead
from pallas_kernels.hopper.geometry import Geometry

__all__ = ["convolve", "gate", "scale_and_offset", "why_not"]

_LARGEST_KERNEL = 7


def why_not(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    *,
    channels: Sequence[int] | None = None,
) -> str | None:
    """Why the kernels cannot run on these inputs here; None if they can.

    Args:
        inputs: the operation's inputs.
        kernel: ``[…, in_channel, channel]``.
        channels: those that have to fill rows; by default the inputs' and the output's.
    """
    reason = device.why_not()
    if reason is not None:
        return reason
    dtypes = {jnp.dtype(x.dtype).name for x in (*(x.values for x in inputs), kernel)}
    if len(dtypes) > 1 or not dtypes <= {"bfloat16", "float16", "float8_e4m3fn"}:
        return (
            "it needs bfloat16, float16 or float8_e4m3fn throughout, and got "
            f"{' and '.join(sorted(dtypes))}"
        )
    if max(kernel.shape[-4:-2]) > _LARGEST_KERNEL:
        return f"it has kernels of up to {_LARGEST_KERNEL} taps in height and width"
    counts = list(channels or (*(x.values.shape[-1] for x in inputs), kernel.shape[-1]))
    multiple = 32 if isinstance(kernel, QuantizedKernel) else 16
    if any(count % multiple for count in counts):
        return f"it needs channels in multiples of {multiple}, and got {counts}"
    return None


def convolve(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    geometry: Geometry,
    size: tuple[int, int, int],
    *,
    scale: Array | None = None,
    offset: Array | None = None,
    residual: FeatureMap | None = None,
    activation: Activation = None,
    totals: bool = False,
) -> FeatureMap:
    """``activation(conv(inputs) · scale + offset + residual)``; see :func:`implicit_gemm`."""
    out_dtype, out_scale, residual_scale = None, None, None
    if isinstance(kernel, QuantizedKernel):
        # Sums are of products of stored numbers, and what is stored is in units of its own.
        out_dtype, out_scale = kernel.out_dtype, kernel.out_scale
        unit = 1.0 if out_scale is None else 1 / out_scale
        factors = jnp.broadcast_to(unit, kernel.shape[-1:])
        if kernel.scales is not None:
            factors = factors * kernel.scales
        scale = factors[None] if scale is None else scale * factors
        offset = None if offset is None else offset * unit
        if residual is not None:
            residual_scale = jnp.float32(unit if residual.scale is None else unit * residual.scale)
    values, sums = implicit_gemm(
        tuple(x.values for x in inputs),
        kernel.values if isinstance(kernel, QuantizedKernel) else kernel,
        geometry,
        size,
        scale=scale,
        offset=offset,
        residual=None if residual is None else residual.values,
        residual_scale=residual_scale,
        activation=activation,
        totals=totals,
        out_dtype=out_dtype,
    )
    return FeatureMap(values, sums, out_scale)


def gate(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    bias: Array | None,
    gate: tuple[Array, Array],
    *,
    phases: int = 1,
) -> tuple[Array, Array]:
    """Scale and offset of a convolution that is gated, from sums over its inputs."""
    totals = tuple(
        x.values.sum(axis=(2, 3), dtype=jnp.float32)[:, :, None] if x.totals is None else x.totals
        for x in inputs
    )
    arrays = tuple(x.values for x in inputs)
    plain = kernel.plain if isinstance(kernel, QuantizedKernel) else kernel
    affine = gate_ahead(arrays, totals, plain, bias, gate, phases=phases)
    return affine[:, 0], affine[:, 1]


def scale_and_offset(scale: Array | None, bias: Array | None) -> tuple[Array | None, Array | None]:
    """``(sums + bias) · scale`` as ``sums · scale + offset``, in float32."""
    if scale is not None:
        scale = scale.astype(jnp.float32)
    if bias is None:
        return scale, None
    offset = bias.astype(jnp.float32)[None]
    return scale, offset if scale is None else offset * scale
