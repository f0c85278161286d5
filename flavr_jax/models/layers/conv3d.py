# SPDX-License-Identifier: Apache-2.0
"""Layers on feature maps: 3-D convolutions, their gates, and a record of their calls."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Float32

import pallas_kernels as pk
from flavr_jax.models.layers.options import LayerOptions, normalise, zero_bias
from pallas_kernels import (
    Activation,
    FeatureMap,
    Implementation,
    PackedKernel,
    QuantizedKernel,
)

__all__ = [
    "Call",
    "Conv3d",
    "FactorisedConv3d",
    "Gate",
    "TransposedConv3d",
    "TrilinearConv3d",
    "watching",
    "watching_gates",
]

FeatureInputs: TypeAlias = Array | FeatureMap | tuple[FeatureMap, ...]

_CHANNELS = 16  # the Hopper kernels take multiples of this in 16 bits


class Call(NamedTuple):
    """Record of one convolution in a forward pass: the layer, its inputs and its output."""

    layer: Conv3d | TransposedConv3d
    inputs: tuple[FeatureMap, ...]
    residual: FeatureMap | None
    output: FeatureMap


_calls: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar("calls", default=None)


@contextlib.contextmanager
def watching() -> Generator[list[Call], None, None]:
    """Record the 3-D convolutions inside this block in the list that it yields, in order."""
    token = _calls.set(calls := [])
    try:
        yield calls
    finally:
        _calls.reset(token)


def _record(
    layer: Conv3d | TransposedConv3d,
    inputs: FeatureInputs,
    output: FeatureMap,
    residual: FeatureMap | None = None,
) -> FeatureMap:
    """Return ``output``; inside :func:`watching`, record the call first."""
    calls = _calls.get()
    if calls is not None:
        if isinstance(inputs, Array):
            inputs = FeatureMap(inputs)
        maps = (inputs,) if isinstance(inputs, FeatureMap) else inputs
        calls.append(Call(layer, maps, residual, output))
    return output


_gated: contextvars.ContextVar[list[FeatureMap] | None] = contextvars.ContextVar(
    "gated", default=None
)


@contextlib.contextmanager
def watching_gates() -> Generator[list[FeatureMap], None, None]:
    """Record the feature maps that gates multiply inside this block, in the list that it yields.

    Convolutions and their gates are then separate operations, so that these maps exist.
    """
    token = _gated.set(maps := [])
    try:
        yield maps
    finally:
        _gated.reset(token)


class Gate(nnx.Module):
    """Scales each channel by a sigmoid of all channels' global means ("SEGating" upstream)."""

    def __init__(self, channels: int, options: LayerOptions) -> None:
        self.kernel = options.kernel(channels, channels, gain=1.0)
        self.bias = nnx.Param(jnp.zeros(channels))
        self.implementation: Implementation | None = options.without_kernel

    def __call__(
        self, x: FeatureMap, residual: FeatureMap | None = None, activation: Activation = None
    ) -> FeatureMap:
        """``activation(x · scale + residual)``."""
        if (maps := _gated.get()) is not None:
            maps.append(x)
        return FeatureMap(
            pk.gate(
                x.in_units().values,
                *self.parameters,
                residual=None if residual is None else residual.in_units().values,
                activation=activation,
                implementation=self.implementation,
            )
        )

    @property
    def parameters(self) -> tuple[Array, Array]:
        """The kernel ``[channel, channel]`` and the bias ``[channel]``."""
        return self.kernel[...], self.bias[...]

    def logits(self, mean: Float[Array, " channel"]) -> Float32[Array, " channel"]:
        """Logits of the scale from the channels' means."""
        # Highest precision, because a GPU multiplies float32 in TF32 by default.
        mean, kernel, bias = (x.astype(jnp.float32) for x in (mean, *self.parameters))
        return jnp.matmul(mean, kernel, precision="highest") + bias

    def fix(self, logits: Float32[Array, " channel"]) -> None:
        """Replace the parameters by some that give these logits for every input."""
        # With a kernel of zeros, the means have no effect and the bias is the logit.
        self.kernel = nnx.Param(jnp.zeros_like(self.kernel[...]))
        self.bias = nnx.Param(logits)


class Conv3d(nnx.Module):
    """A 3-D convolution; ``kernel_size`` and ``stride`` are (time, height, width).

    With ``totals`` the output has channel totals, if the implementation computes them: for the gate
    of a convolution that reads it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int],
        options: LayerOptions,
        *,
        stride: tuple[int, int, int] = (1, 1, 1),
        use_bias: bool = True,
        gain: float = 2.0,
        totals: bool = True,
    ) -> None:
        self.kernel = options.kernel(*kernel_size, in_channels, out_channels, gain=gain)
        self.bias = zero_bias(out_channels, use_bias)
        self.stride = stride
        self.totals = totals
        self.implementation: Implementation | None = options.implementation

    def __call__(
        self,
        inputs: FeatureInputs,
        activation: Activation = None,
        *,
        zeros: tuple[int, int] = (0, 0),
    ) -> FeatureMap:
        """The convolution; several inputs are treated as if concatenated along the channels.

        ``zeros`` is the number of channels of zeros that the inputs have behind those of the
        kernel, and that the output gets behind its own.
        """
        output = pk.conv3d(
            inputs,
            *self._with_zeros(zeros),
            stride=self.stride,
            activation=activation,
            with_totals=self.totals,
            implementation=self.implementation,
        )
        return _record(self, inputs, output)

    def gated(
        self,
        inputs: FeatureInputs,
        gate: Gate,
        residual: FeatureMap | None = None,
        activation: Activation = None,
        *,
        zeros: int = 0,
    ) -> FeatureMap:
        """Convolution, gate, residual and activation as one operation (stride 1).

        ``zeros`` is the number of channels of zeros that the inputs have behind those of the
        kernel.
        """
        if _gated.get() is not None:
            return _stored(
                self, gate(_ungated(self, pk.gated_conv3d, inputs), residual, activation)
            )
        output = pk.gated_conv3d(
            inputs,
            *self._with_zeros((zeros, 0)),
            *gate.parameters,
            residual=residual,
            activation=activation,
            with_totals=self.totals,
            implementation=self.implementation,
        )
        return _record(self, inputs, output, residual)

    @property
    def parameters(self) -> tuple[Array | PackedKernel | QuantizedKernel, Array | None]:
        """The kernel ``[time, height, width, in, out]`` and the bias, if any."""
        return self.kernel.get_value(), None if self.bias is None else self.bias[...]

    def _with_zeros(
        self, zeros: tuple[int, int]
    ) -> tuple[Array | PackedKernel | QuantizedKernel, Array | None]:
        kernel, bias = self.parameters
        if any(zeros):
            assert isinstance(kernel, Array)
            kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, zeros[0]), (0, zeros[1])))
            bias = None if bias is None else jnp.pad(bias, (0, zeros[1]))
        return kernel, bias


def _ungated(
    layer: Conv3d | TransposedConv3d,
    operation: Callable[..., FeatureMap],
    inputs: FeatureInputs,
) -> FeatureMap:
    """Output of a gated convolution before its gate.

    Computed with a gate of one half and doubled: a map in 8 bits has the range of gated values.
    """
    kernel, bias = layer.kernel.get_value(), None if layer.bias is None else layer.bias[...]
    channels = kernel.shape[-1]
    gate = jnp.zeros((channels, channels)), jnp.zeros(channels)
    # A gate of zeros is sigmoid(0) = 1/2 for every channel.
    half = operation(inputs, kernel, bias, *gate, implementation=layer.implementation)
    return half.map(lambda values: 2 * values)


def _stored(layer: Conv3d | TransposedConv3d, output: FeatureMap) -> FeatureMap:
    """Output of a gate in the dtype that the layer's kernel names, which the next layer expects."""
    kernel = layer.kernel.get_value()
    if not isinstance(kernel, QuantizedKernel):
        return output
    return FeatureMap(kernel.store(output.values), scale=kernel.out_scale)


class FactorisedConv3d(nnx.Module):
    """A "(2+1)-D" convolution: space, ReLU, then time (Tran et al. 2018, section 3.5).

    https://arxiv.org/abs/1711.11248. For ``totals`` see :class:`Conv3d`.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        spatial_size: int,
        options: LayerOptions,
        *,
        stride: tuple[int, int, int] = (1, 1, 1),
        use_bias: bool = True,
        totals: bool = True,
    ) -> None:
        self.spatial = Conv3d(
            in_channels,
            mid_channels,
            (1, spatial_size, spatial_size),
            options,
            stride=stride,
            use_bias=use_bias,
        )
        self.norm = options.norm(mid_channels)
        self.temporal = Conv3d(
            mid_channels, out_channels, (3, 1, 1), options, use_bias=use_bias, totals=totals
        )

    def __call__(self, inputs: FeatureInputs, activation: Activation = None) -> FeatureMap:
        """See :meth:`Conv3d.__call__`."""
        return self.temporal(self._over_space(inputs), activation, zeros=(self._missing, 0))

    def gated(
        self,
        inputs: FeatureInputs,
        gate: Gate,
        residual: FeatureMap | None = None,
        activation: Activation = None,
    ) -> FeatureMap:
        """See :meth:`Conv3d.gated`."""
        return self.temporal.gated(
            self._over_space(inputs), gate, residual, activation, zeros=self._missing
        )

    @property
    def _missing(self) -> int:
        """Channels of zeros to append between space and time, so that the Hopper kernels fit."""
        kernels = self.spatial.kernel.get_value(), self.temporal.kernel.get_value()
        halves = all(isinstance(kernel, Array) and kernel.dtype.itemsize == 2 for kernel in kernels)
        # BatchNorm, and records of calls, have the channels of the parameters.
        recorded = _calls.get() is not None or _gated.get() is not None
        return (
            -kernels[0].shape[-1] % _CHANNELS
            if halves and self.norm is None and not recorded
            else 0
        )

    def _over_space(self, inputs: FeatureInputs) -> FeatureMap:
        if self.norm is None:
            return self.spatial(inputs, "relu", zeros=(0, self._missing))
        return normalise(self.norm, self.spatial(inputs), "relu")


class TransposedConv3d(nnx.Module):
    """Doubles height and width: kernel 3×4×4, stride 1×2×2, padding 1.

    The kernel is stored as that of the equivalent convolution over the input with zeros between its
    pixels. PyTorch stores it with reversed taps. For ``totals`` see :class:`Conv3d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: LayerOptions,
        *,
        gain: float,
        totals: bool = True,
    ) -> None:
        # At each output pixel, three quarters of the taps fall on inserted zeros, so the fan-in is
        # a quarter of what `kernel` computes from the shape.
        self.kernel = options.kernel(3, 4, 4, in_channels, out_channels, gain=4 * gain)
        self.bias = nnx.Param(jnp.zeros(out_channels))
        self.totals = totals
        self.implementation: Implementation | None = options.implementation

    def gated(self, inputs: FeatureInputs, gate: Gate, activation: Activation = None) -> FeatureMap:
        """Transposed convolution, gate and activation as one operation."""
        if _gated.get() is not None:
            apart = _ungated(self, pk.gated_conv3d_transpose, inputs)
            return _stored(self, gate(apart, None, activation))
        output = pk.gated_conv3d_transpose(
            inputs,
            self.kernel.get_value(),
            self.bias[...],
            *gate.parameters,
            activation=activation,
            with_totals=self.totals,
            implementation=self.implementation,
        )
        return _record(self, inputs, output)


class TrilinearConv3d(nnx.Module):
    """Doubles height and width by linear interpolation, with a 1×1×1 convolution.

    The convolution runs before the interpolation, on a quarter of the pixels. The result is the
    same, since interpolation weights add up to 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, options: LayerOptions, *, gain: float
    ) -> None:
        self.kernel = options.kernel(1, 1, 1, in_channels, out_channels, gain=gain)
        self.bias = nnx.Param(jnp.zeros(out_channels))
        self.implementation: Implementation | None = options.implementation

    def gated(self, inputs: FeatureInputs, gate: Gate, activation: Activation = None) -> FeatureMap:
        """Convolution, resizing, gate and activation."""
        x = pk.conv3d(inputs, self.kernel[...], self.bias[...], implementation=self.implementation)
        batch, time, height, width, channels = x.values.shape
        size = (batch, time, 2 * height, 2 * width, channels)
        return gate(
            x.map(lambda values: jax.image.resize(values, size, "linear")), None, activation
        )
