# SPDX-License-Identifier: Apache-2.0
"""Code that all Mosaic GPU implementations share: checks of the arguments, and launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from pallas_kernels.core import device
from pallas_kernels.core.arguments import GatedArguments
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.hopper.conv.kernel import implicit_gemm
from pallas_kernels.hopper.gate.kernel import gate_ahead
from pallas_kernels.hopper.gradients import (
    Gemm,
    Parameters,
    differentiable_scaled,
    gate_scale,
)

__all__ = ["convolve", "gate", "gated", "scale_and_offset", "why_not"]

_LARGEST_KERNEL = 7
_TYPES = {"bfloat16", "float16", "float8_e4m3fn"}


def why_not(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    *,
    channels: Sequence[int] | None = None,
) -> str | None:
    """Reason why the kernels cannot run here on these inputs; None if they can.

    Args:
        inputs: the operation's inputs.
        kernel: ``[…, in_channel, channel]``.
        channels: channel counts that must fill swizzled rows; by default those of all inputs and
            of the output.
    """
    reason = device.why_not()
    if reason is not None:
        return reason
    dtypes = {jnp.dtype(x.dtype).name for x in (*(x.values for x in inputs), kernel)}
    if len(dtypes) > 1 or not dtypes <= _TYPES:
        return (
            "it needs bfloat16, float16 or float8_e4m3fn throughout, and got "
            f"{' and '.join(sorted(dtypes))}"
        )
    # With more taps, the halo would leave no room for two stages of tiles.
    if max(kernel.shape[-4:-2]) > _LARGEST_KERNEL:
        return f"it has kernels of up to {_LARGEST_KERNEL} taps in height and width"
    counts = list(channels or (*(x.values.shape[-1] for x in inputs), kernel.shape[-1]))
    # The narrowest swizzle is 32 bytes: 16 values of 16 bits, or 32 of 8 bits.
    multiple = 32 if isinstance(kernel, QuantizedKernel) else 16
    if any(count % multiple for count in counts):
        return f"it needs channels in multiples of {multiple}, and got {counts}"
    return None


def convolve(
    gemm: Gemm,
    *,
    scale: Float32[Array, "samples channel"] | None = None,
    offset: Float32[Array, "_ channel"] | None = None,
    residual: FeatureMap | None = None,
    activation: Activation = None,
    totals: bool = False,
) -> FeatureMap:
    """``activation(conv(inputs) · scale + offset + residual)``; see :func:`implicit_gemm`."""
    rows: tuple[Array | None, ...] = (scale, offset)
    if isinstance(gemm.weights, QuantizedKernel):
        units = _units(gemm.weights, residual)
        scale = units[:1] if scale is None else scale * units[0]
        rows = (scale, None if offset is None else offset * units[1], *units[2:])
    return _convolve(gemm, rows, residual, activation, totals=totals)


def _units(kernel: QuantizedKernel, residual: FeatureMap | None) -> Float32[Array, "rows channel"]:
    """Factors of the scale, of the offset and of the residual, if there is one.

    The sums are of products of stored numbers, and the output has its own scale, so the epilogue's
    factors include both scales. The output's scale may be applied before the activation, because
    all activations here satisfy f(a · x) = a · f(x) for a > 0.
    """
    unit = jnp.float32(1.0 if kernel.out_scale is None else 1 / kernel.out_scale)
    factors = [unit if kernel.scales is None else unit * kernel.scales, unit]
    if residual is not None:
        factors.append(unit if residual.scale is None else unit * residual.scale)
    return jnp.stack([jnp.broadcast_to(each, kernel.shape[-1:]) for each in factors])


def _convolve(
    gemm: Gemm,
    rows: Sequence[Array | None],
    residual: FeatureMap | None,
    activation: Activation,
    *,
    totals: bool,
) -> FeatureMap:
    """Run a convolution with the epilogue's factors.

    Args:
        gemm: the convolution.
        rows: scale, offset and, in 8 bits, the factor of the residual if there is one.
        residual: added to the sums.
        activation: applied last.
        totals: whether to compute channel totals.
    """
    kernel, (scale, offset, *residual_scale) = gemm.weights, rows
    quantized = kernel if isinstance(kernel, QuantizedKernel) else None
    values, sums = implicit_gemm(
        tuple(x.values for x in gemm.inputs),
        kernel.values if isinstance(kernel, QuantizedKernel) else kernel,
        gemm.geometry,
        gemm.size,
        scale=scale,
        offset=offset,
        residual=None if residual is None else residual.values,
        residual_scale=residual_scale[0] if residual_scale else None,
        activation=activation,
        totals=totals,
        out_dtype=None if quantized is None else quantized.out_dtype,
    )
    return FeatureMap(values, sums, None if quantized is None else quantized.out_scale)


def gated(
    arguments: GatedArguments,
    prepare: Callable[[tuple[FeatureMap, ...], Array | QuantizedKernel], Gemm],
) -> FeatureMap:
    """A gated convolution in one pass, with a gradient.

    The gate's scale follows from sums over the input (``gate/kernel.py``), so it is known before
    the convolution runs. It goes into the epilogue with bias, residual and activation, and the
    output is written once.

    Args:
        arguments: arguments of the operation.
        prepare: makes the convolution from inputs and kernel.
    """

    def forward(given: Parameters) -> FeatureMap:
        gemm = prepare(given.inputs, given.kernel)
        assert isinstance(given.factors, tuple)
        rows = gate(
            given.inputs,
            given.kernel,
            given.bias,
            given.factors,
            residual=given.residual,
            phases=gemm.geometry.phases,
        )
        return _convolve(
            gemm, rows, given.residual, arguments.activation, totals=arguments.with_totals
        )

    given = Parameters(
        arguments.inputs,
        arguments.kernel,
        arguments.bias,
        (arguments.gate_kernel, arguments.gate_bias),
        arguments.residual,
    )
    if isinstance(arguments.kernel, QuantizedKernel):
        return forward(given)  # e4m3 has no gradient
    return differentiable_scaled(forward, prepare, gate_scale, arguments.activation)(given)


def gate(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | QuantizedKernel,
    bias: Float[Array, " channel"] | None,
    gate: tuple[Float[Array, "channel channel"], Float[Array, " channel"]],
    *,
    residual: FeatureMap | None = None,
    phases: int = 1,
) -> tuple[Float32[Array, "batch channel"], ...]:
    """Scale and offset of a gated convolution, from sums over its inputs.

    In 8 bits, they include the scales of inputs and output, and the factor of the residual follows.
    """
    totals = tuple(
        # Without totals from the previous operation, this takes a pass over the input.
        x.values.sum(axis=(2, 3), dtype=jnp.float32)[:, :, None] if x.totals is None else x.totals
        for x in inputs
    )
    arrays = tuple(x.values for x in inputs)
    units = None
    if isinstance(kernel, QuantizedKernel):
        units = _units(kernel, residual)
        # Gates are computed from a 16-bit kernel: the dequantised one if products are in 8 bits.
        kernel = kernel.in_16_bits
    affine = gate_ahead(arrays, totals, kernel, bias, gate, phases=phases, units=units)
    return tuple(affine[:, row] for row in range(affine.shape[1]))


def scale_and_offset(
    scale: Float[Array, "batch channel"] | None, bias: Float[Array, " channel"] | None
) -> tuple[Float32[Array, "batch channel"] | None, Float32[Array, "_ channel"] | None]:
    """``(sums + bias) · scale`` as ``sums · scale + offset``, in float32."""
    if scale is not None:
        scale = scale.astype(jnp.float32)
    if bias is None:
        return scale, None
    # One row serves all samples, unless there is a scale for each sample.
    offset = bias.astype(jnp.float32)[None]
    return scale, offset if scale is None else offset * scale
