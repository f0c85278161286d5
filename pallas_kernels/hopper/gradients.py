# SPDX-License-Identifier: Apache-2.0
"""Gradients of the Mosaic GPU operations.

The backward pass recomputes no convolution; the forward pass keeps what it needs. For an activation
this is the output, which the next operation keeps in any case. For a gate or another scale it is
the sums before scaling, and the output only if a residual was added. In training, the scale is
therefore applied outside the kernel, which costs a pass over the sums but saves the kernels that
compute the gate ahead.

The gradient with respect to a convolution's inputs is a convolution, which the same kernel runs.
``weight_gradient/gradient.py`` computes the gradient with respect to the weights.
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
from pallas_kernels.hopper.resident.kernel import convolve as convolve_resident
from pallas_kernels.hopper.resident.kernel import plan_for as plan_resident
from pallas_kernels.hopper.weight_gradient.gradient import weight_gradient

__all__ = [
    "Factors", "Gemm", "Parameters", "Prepare", "differentiable", "differentiable_scaled",
    "gate_scale", "input_gradient",
]  # fmt: skip

Factors: TypeAlias = Array | tuple[Array, Array]
"""A scale ``[batch, channel]``, or a gate's kernel and bias."""

_PIXELS = (1, 2, 3)  # axes of a feature map over which means are taken
# XLA (jax 0.11 and 0.12) divides a sum over 16,384 pixels among thread blocks, but not over 4,096.
_PIXELS_AT_ONCE = 4096


class Parameters(NamedTuple):
    """Arguments with respect to which an operation can be differentiated."""

    inputs: tuple[FeatureMap, ...]
    kernel: Array | QuantizedKernel
    bias: Float[Array, " channel"] | None = None
    factors: Factors | None = None
    residual: FeatureMap | None = None

    @property
    def unquantized(self) -> Array:
        """The kernel as an array; it must not be quantised."""
        assert not isinstance(self.kernel, QuantizedKernel)
        return self.kernel


class Gemm(NamedTuple):
    """Arguments of :func:`implicit_gemm`; ``size`` is time, height and width of the output."""

    inputs: tuple[FeatureMap, ...]
    weights: Array | QuantizedKernel
    geometry: Geometry
    size: tuple[int, int, int]

    @property
    def unquantized(self) -> Array:
        """The weights as an array; they must not be quantised."""
        assert not isinstance(self.weights, QuantizedKernel)
        return self.weights


Prepare: TypeAlias = Callable[[tuple[FeatureMap, ...], Array], Gemm]
"""Maps an operation's inputs and kernel to its convolution; linear in both."""

Forward: TypeAlias = Callable[[Parameters], FeatureMap]


class _Scaled(NamedTuple):
    """Residuals of a scaled convolution: what its forward pass keeps for the backward pass."""

    given: Parameters
    sums: Float[Array, "batch time height width channel"]
    mean: Float32[Array, "batch channel"]
    output: Float[Array, "batch time height width channel"] | None


def differentiable(
    forward: Forward,
    prepare: Prepare,
    activation: Activation,
    *,
    in_training: Forward | None = None,
) -> Forward:
    """Give ``forward`` a gradient.

    No gradient passes through totals, because they repeat information in the values.

    Args:
        forward: computes ``activation(conv + bias + residual)``.
        prepare: makes the convolution from inputs and kernel.
        activation: applied last.
        in_training: computes the same in the forward pass of a gradient; by default ``forward``.
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
            # Sum in float32: a 16-bit sum would stop growing after a few hundred pixels.
            axes = tuple(range(gradient.ndim - 1))
            bias = gradient.sum(axis=axes, dtype=jnp.float32).astype(given.bias.dtype)
        residual = None if given.residual is None else _residual_cotangent(given.residual, gradient)
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
    """Give ``forward`` a gradient; in training it runs as a convolution and a pass over its sums.

    Args:
        forward: computes ``activation((conv + bias) · scale + residual)``.
        prepare: makes the convolution from inputs and kernel.
        scale_of: computes the float32 scale ``[batch, channel]`` from the means of conv + bias and
            the factors.
        activation: applied last.
    """

    def start(given: Parameters) -> tuple[FeatureMap, _Scaled]:
        sums, mean = _sums_and_mean(prepare, given)
        # In float32, as in the epilogue, so that training and inference round in the same way.
        added = None if given.residual is None else given.residual.values.astype(jnp.float32)
        assert given.factors is not None
        output = finish(
            sums.astype(jnp.float32),
            scale=scale_of(mean, given.factors),
            residual=added,
            activation=activation,
        ).astype(sums.dtype)
        # Without a barrier, XLA would compute this output again where it is a later residual.
        output = lax.optimization_barrier(output)
        # Both passes must return the same tree, so totals have the shape that `forward` gives.
        known = jax.eval_shape(forward, given).totals
        totals = None if known is None else _totals(output, known)
        needed = None if given.residual is None else output
        return FeatureMap(output, totals), _Scaled(given, sums, mean, needed)

    def backward(kept: _Scaled, cotangent: FeatureMap) -> tuple[Parameters]:
        return (_scaled_gradients(prepare, scale_of, activation, kept, cotangent.values),)

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
    activation: Activation,
    kept: _Scaled,
    cotangent: Float[Array, "batch time height width channel"],
) -> Parameters:
    """Gradients of a scaled convolution, from that of its output.

    Two passes over the pixels are needed: sums, from which the gradient of the mean follows, and
    then the gradient of the convolution's output.
    """
    given, sums, mean, output = kept
    scale, pull_back = jax.vjp(scale_of, mean, given.factors)
    wide_sums = sums.astype(jnp.float32)
    # Without a residual, the sums tell the output's sign, and are read here in any case.
    signed = wide_sums * _to_pixels(scale) if output is None else output
    gradient = _activation_gradient(activation, signed.astype(sums.dtype), cotangent)
    wide = gradient.astype(jnp.float32)
    of_mean, factors = pull_back(_over_pixels(wide * wide_sums))
    bias = (scale * _over_pixels(wide) + of_mean).sum(axis=0)
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
    """The gradient of :func:`implicit_gemm`'s inputs, concatenated along the channels.

    Args:
        gradient: gradient of the output.
        weights: weights of the convolution.
        geometry: kernel, padding, stride and phases of the convolution.
        size: time, height and width of the inputs; at stride 2 the latter two are even.
    """
    # Each input pixel gathers the outputs that read it: reverse the taps and swap the channels.
    flipped = jnp.swapaxes(weights[::-1, ::-1, ::-1], 3, 4)
    (kt, *taps), (before, *low) = geometry.kernel, geometry.low
    # Tap k reads input y + k − low; flipped, output y' reads gradient y' + k' − (taps − 1 − low).
    low_time = kt - 1 - before
    if geometry.phases == 2:
        # The transpose of a transposed convolution is a strided convolution.
        rows, columns = (count - 1 - 2 * first for count, first in zip(taps, low))
        back = Geometry(geometry.kernel, (low_time, rows, columns), stride=2)
        return implicit_gemm((gradient,), flipped, back, size)[0]
    if geometry.stride == 2 and taps != [1, 1]:
        return _strided_input_gradient(gradient, flipped, geometry, size)
    rows, columns = (count - 1 - first for count, first in zip(taps, low))
    back = Geometry(geometry.kernel, (low_time, rows, columns))
    if geometry.stride == 1:
        images = _images_input_gradient(gradient, flipped, back, size) if kt == 1 else None
        return implicit_gemm((gradient,), flipped, back, size)[0] if images is None else images
    # A 1×1 tap at stride 2 reads every second pixel; the others have gradient 0.
    _, _, height, width, _ = gradient.shape
    found, _ = implicit_gemm((gradient,), flipped, back, (size[0], height, width))
    zero, none, between = jnp.zeros((), found.dtype), (0, 0, 0), (0, 1, 1)
    return lax.pad(found, zero, (none, none, between, between, none))


def _images_input_gradient(
    gradient: Float[Array, "batch time height width out_channel"],
    flipped: Float[Array, "1 kh kw out_channel channel"],
    back: Geometry,
    size: tuple[int, int, int],
) -> Float[Array, "batch time in_height in_width channel"] | None:
    """The input gradient of a convolution of images, by the kernel whose weights are resident.

    None if that kernel is no good choice.
    """
    images = gradient.reshape(-1, *gradient.shape[2:])
    _, kh, kw, _, channels = flipped.shape
    problem = plan_resident(
        images, (kh, kw), channels, size[1:], back.low[1:], out_dtype=gradient.dtype
    )
    if problem is None:
        return None
    found = convolve_resident(problem, images, flipped[0], None, None)
    return found.reshape(*gradient.shape[:2], *found.shape[1:])


def _strided_input_gradient(
    gradient: Float[Array, "batch time height width out_channel"],
    flipped: Float[Array, "kt kh kw out_channel channel"],
    geometry: Geometry,
    size: tuple[int, int, int],
) -> Float[Array, "batch in_time in_height in_width channel"]:
    """The input gradient of a convolution of stride 2, as a transposed convolution.

    The transposed convolution has an even number of taps. With ``first`` rows of padding, its tap k
    is tap 2 · first + low − k of the forward pass, or zero if there is no such tap.
    """
    (kt, *taps), (before, *low) = geometry.kernel, geometry.low
    first = [(count - low) // 2 for count, low in zip(taps, low)]
    # Zero taps at both ends make the number of taps even, so that all phases have as many.
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
    """A gate's scale from the means.

    It is written as a sum, because XLA would autotune a matrix product at compile time.
    """
    assert isinstance(gate, tuple)
    kernel, bias = (x.astype(jnp.float32) for x in gate)
    return jax.nn.sigmoid((mean[:, :, None] * kernel).sum(axis=1) + bias)


def _activation_gradient(
    activation: Activation, output: Float[Array, "..."], gradient: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The gradient before an activation; the sign of the output determines the slope."""
    _, pull_back = jax.vjp(functools.partial(activate, activation=activation), output)
    return pull_back(gradient)[0]


def _over_pixels(
    x: Float32[Array, "batch time height width channel"],
) -> Float32[Array, "batch channel"]:
    """Sums over all pixels of a sample."""
    if math.prod(x.shape[1:4]) > _PIXELS_AT_ONCE:
        return x.sum(axis=_PIXELS)
    # Each frame is summed on its own, so that more thread blocks share the work. The barrier keeps
    # XLA from joining both sums.
    return lax.optimization_barrier(x.sum(axis=(2, 3))).sum(axis=1)


def _to_pixels(x: Float32[Array, "batch channel"]) -> Float32[Array, "batch 1 1 1 channel"]:
    return x[:, None, None, None]


def _convolution_gradients(
    prepare: Prepare, given: Parameters, gradient: Float[Array, "..."]
) -> tuple[tuple[FeatureMap, ...], Array]:
    """The gradients of inputs and kernel, from the gradient of the convolution's output."""
    gemm = prepare(given.inputs, given.unquantized)
    arrays, weights, geometry = gemm.inputs, gemm.unquantized, gemm.geometry
    # Padding and packing in `prepare` are linear, so JAX can transpose them.
    _, pull_back = jax.vjp(lambda *both: prepare(*both)[:2], given.inputs, given.unquantized)
    # The kernels multiply in 16 bits and sum in float32.
    gradient = gradient.astype(weights.dtype)
    if gradient.ndim == 4:  # images
        gradient = gradient[:, None]
    missing = weights.shape[-1] - gradient.shape[-1]  # conv2d pads its output channels
    if missing:
        gradient = jnp.pad(gradient, (*((0, 0),) * 4, (0, missing)))
    _, time, height, width, _ = arrays[0].values.shape
    joined = input_gradient(gradient, weights, geometry, (time, height, width))
    # The gradients of all inputs are concatenated along the channels.
    ends = np.cumsum([x.values.shape[-1] for x in arrays])[:-1]
    inputs = tuple(map(_as_cotangent, arrays, jnp.split(joined, ends, axis=-1)))
    of_weights = weight_gradient(tuple(x.values for x in arrays), gradient, geometry)
    return pull_back((inputs, of_weights.astype(weights.dtype)))


def _as_cotangent(x: FeatureMap, gradient: Array) -> FeatureMap:
    """Wrap the gradient of a feature map's values, with zeros for its totals and scale."""
    # A cotangent must have the same tree; no gradient passes through totals and scale.
    zeros = jax.tree.map(jnp.zeros_like, x)
    return zeros._replace(values=gradient.astype(x.values.dtype))


def _residual_cotangent(residual: FeatureMap, gradient: Array) -> FeatureMap:
    """The gradient of a residual, summed over the samples to which each of its own was added."""
    samples = residual.values.shape[0]
    if samples < gradient.shape[0]:
        runs = gradient.reshape(samples, -1, *gradient.shape[1:])
        gradient = runs.sum(axis=1, dtype=jnp.float32)
    return _as_cotangent(residual, gradient)


def _totals(
    values: Float[Array, "batch time height width channel"], like: jax.ShapeDtypeStruct
) -> Float32[Array, "batch time partial channel"]:
    """Totals in the shape that the kernel returns, as one partial sum; XLA removes unused ones."""
    sums = values.sum(axis=(2, 3), dtype=jnp.float32)[:, :, None]
    return jnp.pad(sums, ((0, 0), (0, 0), (0, like.shape[2] - 1), (0, 0)))
