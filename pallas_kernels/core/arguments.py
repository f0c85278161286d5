# SPDX-License-Identifier: Apache-2.0
"""Arguments of the convolutions: a frozen dataclass for each operation.

Dispatch passes this one object to the implementation that it chooses, so that arguments cannot be
lost or swapped on the way. :func:`on_arrays` adapts implementations that take plain arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.feature_map import AnyKernel, FeatureMap
from pallas_kernels.core.fp8 import QuantizedKernel

__all__ = [
    "Conv2dArguments", "Conv3dArguments", "ConvArguments", "GatedArguments", "Padding", "on_arrays",
]  # fmt: skip

Padding: TypeAlias = Literal["zeros", "reflect"]
"""Border of an image: zeros, or the image mirrored about its border pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvArguments:
    """Arguments that all convolutions share.

    Attributes:
        inputs: feature maps, convolved as if concatenated along the channels.
        kernel: ``[*size, in_channel, channel]``: an array, packed, or quantised.
        bias: ``[channel]``.
        activation: applied last.
    """

    inputs: tuple[FeatureMap, ...]
    # Packed and quantised kernels have no common class, and trees of shapes can stand for them.
    kernel: Any  # AnyKernel; each implementation narrows it to the kinds that it takes
    bias: Float[Array, " channel"] | None
    activation: Activation

    @property
    def operands(self) -> tuple[Array, AnyKernel]:
        """The first input's values and the kernel."""
        return self.inputs[0].values, self.kernel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conv2dArguments(ConvArguments):
    """Arguments of ``conv2d``.

    Attributes:
        padding: see :data:`Padding`.
        out_dtype: dtype of the output, to which sums are rounded once.
        residual: added before the activation; each of its images to as many outputs.
    """

    padding: Padding
    out_dtype: jnp.dtype
    residual: Float[Array, "samples height width channel"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conv3dArguments(ConvArguments):
    """Arguments of ``conv3d``.

    Attributes:
        stride: (1, 1, 1) or (1, 2, 2).
        pad_time: whether to pad time as well.
        scale: ``[batch, channel]``, after the bias.
        residual: added after the scale.
        with_totals: whether to return channel totals if the implementation computes them.
    """

    stride: tuple[int, int, int]
    pad_time: bool
    scale: Float[Array, "batch channel"] | None
    residual: FeatureMap | None
    with_totals: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedArguments(ConvArguments):
    """Arguments of ``gated_conv3d`` and ``gated_conv3d_transpose``.

    Attributes:
        gate_kernel: ``[channel, channel]``.
        gate_bias: ``[channel]``.
        residual: added after the gate; always None for the transposed convolution.
        with_totals: whether to return channel totals if the implementation computes them.
    """

    gate_kernel: Float[Array, "channel channel"]
    gate_bias: Float[Array, " channel"]
    residual: FeatureMap | None
    with_totals: bool


def on_arrays(function: Callable[..., Array]) -> Callable[[ConvArguments], FeatureMap]:
    """Turn a function of arrays, which takes every argument by name, into an implementation.

    The function does not get ``with_totals``, because such functions compute no totals. For a
    quantised kernel it computes in float32, and the output is stored in the kernel's ``out_dtype``.
    """

    def run(arguments: ConvArguments) -> FeatureMap:
        fields = {
            field.name: getattr(arguments, field.name)
            for field in dataclasses.fields(arguments)
            if field.name != "with_totals"
        }
        kernel = fields["kernel"]
        if not isinstance(kernel, QuantizedKernel):
            fields = {name: _as_array(value) for name, value in fields.items()}
            # `_as_array` leaves tuples unchanged, so the inputs are converted one by one.
            fields["inputs"] = tuple(map(_as_array, arguments.inputs))
            return FeatureMap(function(**fields))
        # In float32, since this is the definition that kernels are compared with; it is not fast.
        fields = {name: _in_float32(value) for name, value in fields.items()}
        # Inputs stay unscaled, because their scales are folded into the kernel's.
        fields["inputs"] = tuple(x.values.astype(jnp.float32) for x in arguments.inputs)
        fields["kernel"] = kernel.in_float32
        return FeatureMap(kernel.store(function(**fields)), scale=kernel.out_scale)

    return run


def _as_array(value: Any) -> Any:
    """The values of a feature map; anything else unchanged."""
    return value.values if isinstance(value, FeatureMap) else value


def _in_float32(value: Any) -> Any:
    """Arrays and feature maps as float32 arrays; anything else unchanged."""
    if isinstance(value, FeatureMap):
        value = value.in_units(jnp.float32).values
    return value.astype(jnp.float32) if isinstance(value, Array) else value
