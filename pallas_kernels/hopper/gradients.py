# SPDX-License-Identifier: Apache-2.0
"""Gradients of the Mosaic GPU operations.

No convolution runs forward again: the forward pass keeps what the backward pass needs. For an
activation that is the output, which the next operation keeps anyway. For a gate or another scale it
is the sums before it; the forward pass then applies the scale outside of the kernel, which costs a
pass over them, but spares the kernels that would have to compute the gate ahead.

The gradient with respect to a convolution's inputs is a convolution, which the forward pass's
kernel runs, too; for the one with respect to its weights see ``weight_gradient/gradient.py``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Float32

from pallas_kernels.core.epilogue import Activation, activate, finish
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.hopper.conv.kernel import implicit_gemm
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.weight_gradient.gradient import weight_gradient

__all__ = [
    "Factors", "Gemm", "Parameters", "Prepare", "differentiable", "differentiable_scaled",
    "gate_scale", "input_gradient",
]  # fmt: skip

Factors: TypeAlias = Array | tuple[Array, Array]
"""A scale ``[batch, channel]``, or a gate's kernel and bias."""

_PIXELS = (1, 2, 3)  # axes of a feature map that a mean is taken over


class Parameters(NamedTuple):
    """What an operation can be differentiated with respect to."""

    inputs: tuple[FeatureMap, ...]
    kernel: Array | QuantizedKernel
    bias: Float[Array, " channel"] | None = None
    factors: Factors | None = None
    residual: FeatureMap | None = None

    @property
    def unquantized(self) -> Array:
        """The kernel, where it is known to be an array."""
        assert not isinstance(self.kernel, QuantizedKernel)
        return self.kernel


class Gemm(NamedTuple):
    """A convolution as :func:`implicit_gemm` takes it: output size without batch and channels."""

    inputs: tuple[FeatureMap, ...]
    weights: Array | QuantizedKernel
    geometry: Geometry
    size: tuple[int, int, int]

    @property
    def unquantized(self) -> Array:
        """The weights, where they are known to be an array."""
        assert not isinstance(self.weights, QuantizedKernel)
        return self.weights


Prepare: TypeAlias = Callable[[tuple[FeatureMap, ...], Array], Gemm]
"""From an operation's inputs and kernel to its convolution; linear in both."""

Forward: TypeAlias = Callable[[Parameters], FeatureMap]


class _Scaled(NamedTuple):
    """What the forward pass of a scaled convolution keeps."""

    given: Parameters
    sums: Float[Array, "batch time height width channel"]
    mean: Float32[Array, "batch channel"]
    output: Float[Array, "batch time height width channel"]


def differentiable(
    forward: Forward,
    prepare: Prepare,
    activation: Activation,
    *,
    in_training: Forward | None = None,
) -> Forward:
    """``forward`` with a gradient.

    Totals carry none: they follow from the values, whose gradient is whole.

    Args:
        forward: ``activation(conv + bias + residual)``.
        prepare: the convolution in it.
        activation: applied last.
        in_training: the same function, used where a gradient will follow.
    """

    def start(given: Parameters) -> tuple[FeatureMap, tuple[Parameters, Array]]:
        output = (in_training or forward)(given)
        return output, (given, output.values)

    def backward(kept: tuple[Parameters, Array], cotangent: FeatureMap) -> tuple[Parameters]:
        given, output = kept
        gradient = _activation_gradient(activation, output, cotangent.values)
        inputs, kernel = _convolution_gradients(prepare, given, gradient)
        bias = None
        if given.bias is not None:
            # Added up in float32: 16 bits would stop growing after a few hundred pixels.
            axes = tuple(range(gradient.ndim - 1))
            bias = gradient.sum(axis=axes, dtype=jnp.float32).astype(given.bias.dtype)
        residual = None if given.residual is None else _as_cotangent(given.residual, gradient)
        return (Parameters(inputs, kernel, bias, None, residual),)

    run = jax.custom_vjp(forward)
    run.defvjp(start, backward)
    return run


def differentiable_scaled(
    forward: Forward,
    prepare: Prepare,
    scale_of: Callable[[Array, Factors], Array],
    activation: Activation,
) -> Forward:
    """``forward`` with a gradient, for which it runs as a convolution and a pass over it.

    Args:
        forward: ``activation((conv + bias) · scale + residual)``.
        prepare: the convolution in it.
        scale_of: the scale ``[batch, channel]``, float32, from the means of conv + bias and the
            factors.
        activation: applied last.
    """

    def start(given: Parameters) -> tuple[FeatureMap, _Scaled]:
        sums, mean = _sums_and_mean(prepare, given)
        # In float32, as in the epilogue, so that training and inference round alike.
        added = None if given.residual is None else given.residual.values.astype(jnp.float32)
        assert given.factors is not None
        output = finish(
            sums.astype(jnp.float32),
            scale=scale_of(mean, given.factors),
            residual=added,
            activation=activation,
        ).astype(sums.dtype)
        # The output of `forward` says whether totals are expected and in how many partial sums.
        known = jax.eval_shape(forward, given).totals
        totals = None if known is None else _totals(output, known)
        return FeatureMap(output, totals), _Scaled(given, sums, mean, output)

    def backward(kept: _Scaled, cotangent: FeatureMap) -> tuple[Parameters]:
        gradient = _activation_gradient(activation, kept.output, cotangent.values)
        return (_scaled_gradients(prepare, scale_of, kept, gradient),)

    run = jax.custom_vjp(forward)
    run.defvjp(start, backward)
    return run


def _sums_and_mean(prepare: Prepare, given: Parameters) -> tuple[Array, Array]:
    """``conv + bias`` and its float32 means per sample and channel."""
    gemm = prepare(given.inputs, given.unquantized)
    sums, totals = implicit_gemm(
        tuple(x.values for x in gemm.inputs),
        gemm.unquantized,
        gemm.geometry,
        gemm.size,
        offset=None if given.bias is None else given.bias.astype(jnp.float32)[None],
        totals=True,
    )
    assert totals is not None
    return sums, totals.sum(axis=(1, 2)) / math.prod(sums.shape[1:4])


def _scaled_gradients(
    prepare: Prepare,
    scale_of: Callable[[Array, Factors], Array],
    kept: _Scaled,
    gradient: Float[Array, "batch time height width channel"],
) -> Parameters:
    """Gradients of a scaled convolution, from the gradient before its activation.

    Two passes, which read as little as possible: sums over pixels, from which the gradient of the
    mean follows, and then the gradient of the convolution.
    """
    given, sums, mean, _ = kept
    wide = gradient.astype(jnp.float32)
    scale, pull_back = jax.vjp(scale_of, mean, given.factors)
    of_mean, factors = pull_back((wide * sums.astype(jnp.float32)).sum(axis=_PIXELS))
    bias = (scale * wide.sum(axis=_PIXELS) + of_mean).sum(axis=0)
    # The scale depends on every pixel through the mean.
    of_mean = of_mean / math.prod(sums.shape[1:4])
    of_sums = wide * _to_pixels(scale) + _to_pixels(of_mean)
    inputs, kernel = _convolution_gradients(prepare, given, of_sums)
    return Parameters(
        inputs,
        kernel,
        None if given.bias is None else bias.astype(given.bias.dtype),
        factors,
        None if given.residual is None else _as_cotangent(given.residual, gradient),
    )


def input_gradient(
    gradient: Float[Array, "batch time height width out_channel"],
    weights: Float[Array, "kt kh kw channel out_channel"],
    geometry: Geometry,
    size: tuple[int, int, int],
) -> Float[Array, "batch in_time in_height in_width channel"]:
    """The gradient of :func:`implicit_gemm`'s inputs, joined along channels.

    Args:
        gradient: of the output.
        weights: of the convolution.
        geometry: which pixels meet which weights.
        size: time, height and width of the inputs; the latter two even at stride 2.
    """
    # Each input pixel gathers the outputs that read it: taps in reverse, channels swapped.
    flipped = jnp.swapaxes(weights[::-1, ::-1, ::-1], 3, 4)
    (kt, *taps), (before, *low) = geometry.kernel, geometry.low
    # Tap k reads input y + k − low; flipped, output y' reads gradient y' + k' − (taps − 1 − low).
    low_time = kt - 1 - before
    if geometry.phases == 2:
        # The transpose of a transposed convolution is the strided one.
        rows, columns = (count - 1 - 2 * first for count, first in zip(taps, low))
        back = Geometry(geometry.kernel, (low_time, rows, columns), stride=2)
        return implicit_gemm((gradient,), flipped, back, size)[0]
    if geometry.stride == 2 and taps != [1, 1]:
        return _strided_input_gradient(gradient, flipped, geometry, size)
    rows, columns = (count - 1 - first for count, first in zip(taps, low))
    back = Geometry(geometry.kernel, (low_time, rows, columns))
    if geometry.stride == 1:
        return implicit_gemm((gradient,), flipped, back, size)[0]
    # A 1×1 tap at stride 2 reads every second pixel: the others have no gradient.
    _, _, height, width, _ = gradient.shape
    found, _ = implicit_gemm((gradient,), flipped, back, (size[0], height, width))
    zero, none, between = jnp.zeros((), found.dtype), (0, 0, 0), (0, 1, 1)
    return lax.pad(found, zero, (none, none, between, between, none))


def _strided_input_gradient(
    gradient: Float[Array, "batch time height width out_channel"],
    flipped: Float[Array, "kt kh kw out_channel channel"],
    geometry: Geometry,
    size: tuple[int, int, int],
) -> Float[Array, "batch in_time in_height in_width channel"]:
    """The input gradient of a convolution of stride 2, as a transposed convolution.

    That has an even number of taps. With ``first`` rows before the picture, its tap k is tap
    2 · first + low − k of the forward pass; where that has no such tap, zeros.
    """
    (kt, *taps), (before, *low) = geometry.kernel, geometry.low
    first = [(count - low) // 2 for count, low in zip(taps, low)]
    # Zeros before and behind make the number of taps even, so that each phase has equally many.
    front = [2 * f + low - count + 1 for f, low, count in zip(first, low, taps)]
    behind = [(f + count) % 2 for f, count in zip(front, taps)]
    flipped = jnp.pad(flipped, ((0, 0), *zip(front, behind), (0, 0), (0, 0)))
    back = Geometry(
        (kt, flipped.shape[1], flipped.shape[2]), (kt - 1 - before, first[0], first[1]), phases=2
    )
    return implicit_gemm((gradient,), flipped, back, (size[0], size[1] // 2, size[2] // 2))[0]


def gate_scale(
    mean: Float32[Array, "batch channel"], gate: Factors
) -> Float32[Array, "batch channel"]:
    """A gate's scale.

    Written as a sum, not as a matrix product, for which XLA would try algorithms when it compiles.
    """
    assert isinstance(gate, tuple)
    kernel, bias = (x.astype(jnp.float32) for x in gate)
    return jax.nn.sigmoid((mean[:, :, None] * kernel).sum(axis=1) + bias)


def _activation_gradient(
    activation: Activation, output: Float[Array, "..."], gradient: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The gradient before an activation; its slope follows from its output's sign, too."""
    _, pull_back = jax.vjp(functools.partial(activate, activation=activation), output)
    return pull_back(gradient)[0]


def _to_pixels(x: Float32[Array, "batch channel"]) -> Float32[Array, "batch 1 1 1 channel"]:
    return x[:, None, None, None]


def _convolution_gradients(
    prepare: Prepare, given: Parameters, gradient: Float[Array, "..."]
) -> tuple[tuple[FeatureMap, ...], Array]:
    """The gradients of inputs and kernel, from that of the convolution's output."""
    gemm = prepare(given.inputs, given.unquantized)
    arrays, weights, geometry = gemm.inputs, gemm.unquantized, gemm.geometry
    # Padding, packing and the like are linear: JAX transposes them.
    _, pull_back = jax.vjp(lambda *both: prepare(*both)[:2], given.inputs, given.unquantized)
    # The kernels multiply 16 bits; sums are float32 again.
    gradient = gradient.astype(weights.dtype)
    if gradient.ndim == 4:  # images
        gradient = gradient[:, None]
    missing = weights.shape[-1] - gradient.shape[-1]  # conv2d pads its output channels
    if missing:
        gradient = jnp.pad(gradient, (*((0, 0),) * 4, (0, missing)))
    _, time, height, width, _ = arrays[0].values.shape
    joined = input_gradient(gradient, weights, geometry, (time, height, width))
    # The kernel joins all inputs along channels, so their gradients come joined.
    ends = np.cumsum([x.values.shape[-1] for x in arrays])[:-1]
    inputs = tuple(map(_as_cotangent, arrays, jnp.split(joined, ends, axis=-1)))
    of_weights = weight_gradient(tuple(x.values for x in arrays), gradient, geometry)
    return pull_back((inputs, of_weights.astype(weights.dtype)))


def _as_cotangent(x: FeatureMap, gradient: Array) -> FeatureMap:
    """The gradient of a feature map's values, and zeros for what follows from them."""
    # JAX wants a cotangent of the same tree; totals and scale have none of their own.
    zeros = jax.tree.map(jnp.zeros_like, x)
    return zeros._replace(values=gradient.astype(x.values.dtype))


def _totals(
    values: Float[Array, "batch time height width channel"], like: jax.ShapeDtypeStruct
) -> Float32[Array, "batch time partial channel"]:
    """Totals of the kernel's shape, in one partial sum; XLA drops them where no one asks."""
    sums = values.sum(axis=(2, 3), dtype=jnp.float32)[:, :, None]
    return jnp.pad(sums, ((0, 0), (0, 0), (0, like.shape[2] - 1), (0, 0)))
