# SPDX-License-Identifier: Apache-2.0
"""Gradients of the Mosaic GPU operations.

No convolution runs forward again: what a backward pass needs of it is kept. Of an activation that
is the output, which the next operation keeps anyway. Of a gate or another factor it is the sums
before it; then the forward pass finishes them outside of the kernel, which costs a pass over them,
but spares the kernels that would have to know the gate ahead.

The gradient with respect to a convolution's inputs is a convolution, which the kernel of the
forward pass runs too; for the one with respect to its weights see ``_weight_gradient.py``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pallas_kernels.core.epilogue import Activation, activate, finish
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.hopper.conv.kernel import implicit_gemm
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.weight_gradient.gradient import weight_gradient

__all__ = ["Prepare", "differentiable", "differentiable_scaled", "gate_scale", "input_gradient"]

Prepare: TypeAlias = Callable[
    [tuple[FeatureMap, ...], Any],
    tuple[tuple[FeatureMap, ...], Any, Geometry, tuple[int, int, int]],
]
"""What :func:`implicit_gemm` convolves, linear in an operation's inputs and kernel."""


def differentiable(
    forward: Callable[..., FeatureMap],
    prepare: Prepare,
    activation: Activation,
    *,
    in_training: Callable[..., FeatureMap] | None = None,
) -> Callable[..., FeatureMap]:
    """``forward`` with a gradient.

    Totals carry none: they follow from the values, whose gradient is whole.

    Args:
        forward: of inputs, kernel, bias and residual: ``activation(conv + bias + residual)``.
        prepare: the convolution in it.
        activation: applied last.
        in_training: the same as ``forward``, where a gradient will follow.
    """

    def start(inputs: Any, kernel: Any, bias: Any, residual: Any) -> tuple[FeatureMap, Any]:
        output = (in_training or forward)(inputs, kernel, bias, residual)
        return output, (inputs, kernel, bias, residual, output.values)

    def backward(kept: Any, cotangent: FeatureMap) -> Any:
        inputs, kernel, bias, residual, output = kept
        gradient = _through(activation, output, cotangent.values)
        of_inputs, of_kernel = _of_convolution(prepare, inputs, kernel, gradient)
        of_bias = None
        if bias is not None:
            axes = tuple(range(gradient.ndim - 1))
            of_bias = gradient.sum(axis=axes, dtype=jnp.float32).astype(bias.dtype)
        of_residual = None if residual is None else _as_cotangent(residual, gradient)
        return of_inputs, of_kernel, of_bias, of_residual

    run = jax.custom_vjp(forward)
    run.defvjp(start, backward)
    return run


def differentiable_scaled(
    forward: Callable[..., FeatureMap],
    prepare: Prepare,
    scale_of: Callable[[Array, Any], Array],
    activation: Activation,
) -> Callable[..., FeatureMap]:
    """``forward`` with a gradient, for which it runs as a convolution and a pass over it.

    Args:
        forward: of inputs, kernel, bias, factors and residual:
            ``activation((conv + bias) · scale + residual)``.
        prepare: the convolution in it.
        scale_of: the scale ``[batch, channel]``, float32, from the means of conv + bias and the
            factors.
        activation: applied last.
    """

    def start(
        inputs: Any, kernel: Any, bias: Any, factors: Any, residual: Any
    ) -> tuple[FeatureMap, Any]:
        arrays, weights, geometry, size = prepare(inputs, kernel)
        sums, totals = implicit_gemm(
            tuple(x.values for x in arrays),
            weights,
            geometry,
            size,
            offset=None if bias is None else bias.astype(jnp.float32)[None],
            totals=True,
        )
        assert totals is not None
        mean = totals.sum(axis=(1, 2)) / math.prod(sums.shape[1:4])
        added = None if residual is None else residual.values.astype(jnp.float32)
        output = finish(
            sums.astype(jnp.float32),
            scale=scale_of(mean, factors),
            residual=added,
            activation=activation,
        ).astype(sums.dtype)
        known = jax.eval_shape(forward, inputs, kernel, bias, factors, residual).totals
        kept = inputs, kernel, bias, factors, residual, sums, mean, output
        return FeatureMap(output, None if known is None else _totals(output, known)), kept

    def backward(kept: Any, cotangent: FeatureMap) -> Any:
        inputs, kernel, bias, factors, residual, sums, mean, output = kept
        # Two passes, which read as little as possible: sums over pixels, of which the gradient of
        # the mean follows, and then the gradient of the convolution.
        gradient = _through(activation, output, cotangent.values)
        wide, pixels = gradient.astype(jnp.float32), (1, 2, 3)
        scale, pull_back = jax.vjp(scale_of, mean, factors)
        of_mean, of_factors = pull_back((wide * sums.astype(jnp.float32)).sum(axis=pixels))
        of_bias = (scale * wide.sum(axis=pixels) + of_mean).sum(axis=0)
        of_mean = of_mean / math.prod(sums.shape[1:4])
        of_sums = wide * _to_pixels(scale) + _to_pixels(of_mean)
        of_inputs, of_kernel = _of_convolution(prepare, inputs, kernel, of_sums)
        return (
            of_inputs,
            of_kernel,
            None if bias is None else of_bias.astype(bias.dtype),
            of_factors,
            None if residual is None else _as_cotangent(residual, gradient),
        )

    run = jax.custom_vjp(forward)
    run.defvjp(start, backward)
    return run


def input_gradient(
    gradient: Array, weights: Array, geometry: Geometry, size: tuple[int, int, int]
) -> Array:
    """The gradient of :func:`implicit_gemm`'s inputs, joined along channels.

    Args:
        gradient: of the output: ``[batch, time, height, width, out_channel]``.
        weights: ``[*kernel, channel, out_channel]``.
        geometry: which pixels meet which weights.
        size: time, height and width of the inputs; the latter two even at stride 2.
    """
    turned = jnp.swapaxes(weights[::-1, ::-1, ::-1], 3, 4)
    (kt, *taps), (before, *low) = geometry.kernel, geometry.low
    in_time = kt - 1 - before
    if geometry.phases == 2:
        rows, columns = (count - 1 - 2 * first for count, first in zip(taps, low))
        back = Geometry(geometry.kernel, (in_time, rows, columns), stride=2)
        return implicit_gemm((gradient,), turned, back, size)[0]
    if geometry.stride == 2 and taps != [1, 1]:
        return _of_strided(gradient, turned, geometry, size)
    rows, columns = (count - 1 - first for count, first in zip(taps, low))
    back = Geometry(geometry.kernel, (in_time, rows, columns))
    if geometry.stride == 1:
        return implicit_gemm((gradient,), turned, back, size)[0]
    _, _, height, width, _ = gradient.shape
    found, _ = implicit_gemm((gradient,), turned, back, (size[0], height, width))
    zero, none, between = jnp.zeros((), found.dtype), (0, 0, 0), (0, 1, 1)
    return lax.pad(found, zero, (none, none, between, between, none))


def _of_strided(
    gradient: Array, turned: Array, geometry: Geometry, size: tuple[int, int, int]
) -> Array:
    """The input gradient of a convolution of stride 2, as a transposed convolution.

    That has an even number of taps. With ``first`` rows before the picture, its tap k is tap
    2 · first + low − k of the forward pass; zeros stand for what that does not have.
    """
    (kt, *taps), (before, *low) = geometry.kernel, geometry.low
    first = [(count - low) // 2 for count, low in zip(taps, low)]
    front = [2 * f + low - count + 1 for f, low, count in zip(first, low, taps)]
    behind = [(f + count) % 2 for f, count in zip(front, taps)]
    turned = jnp.pad(turned, ((0, 0), *zip(front, behind), (0, 0), (0, 0)))
    back = Geometry(
        (kt, turned.shape[1], turned.shape[2]), (kt - 1 - before, first[0], first[1]), phases=2
    )
    return implicit_gemm((gradient,), turned, back, (size[0], size[1] // 2, size[2] // 2))[0]


def gate_scale(mean: Array, gate: tuple[Array, Array]) -> Array:
    """A gate's factors ``[batch, channel]``, float32.

    Not by a matrix product: XLA would try out algorithms for it when it compiles.
    """
    kernel, bias = (x.astype(jnp.float32) for x in gate)
    return jax.nn.sigmoid((mean[:, :, None] * kernel).sum(axis=1) + bias)


def _through(activation: Activation, output: Array, gradient: Array) -> Array:
    """The gradient ahead of an activation, whose slope is known from its output as well."""
    _, pull_back = jax.vjp(functools.partial(activate, activation=activation), output)
    return pull_back(gradient)[0]


def _to_pixels(x: Array) -> Array:
    """``[batch, channel]`` as a factor of feature maps."""
    return x[:, None, None, None]


def _of_convolution(
    prepare: Prepare, inputs: tuple[FeatureMap, ...], kernel: Array, gradient: Array
) -> tuple[tuple[FeatureMap, ...], Array]:
    """The gradients of inputs and kernel from that of the convolution."""
    arrays, weights, geometry, _ = prepare(inputs, kernel)
    _, pull_back = jax.vjp(lambda *both: prepare(*both)[:2], inputs, kernel)
    gradient = gradient.astype(weights.dtype)
    if gradient.ndim == 4:  # images
        gradient = gradient[:, None]
    missing = weights.shape[-1] - gradient.shape[-1]
    if missing:
        gradient = jnp.pad(gradient, (*((0, 0),) * 4, (0, missing)))
    _, time, height, width, _ = arrays[0].values.shape
    joined = input_gradient(gradient, weights, geometry, (time, height, width))
    ends = np.cumsum([x.values.shape[-1] for x in arrays])[:-1]
    of_inputs = tuple(map(_as_cotangent, arrays, jnp.split(joined, ends, axis=-1)))
    of_weights = weight_gradient(tuple(x.values for x in arrays), gradient, geometry)
    return pull_back((of_inputs, of_weights.astype(weights.dtype)))


def _as_cotangent(x: FeatureMap, gradient: Array) -> FeatureMap:
    """Of a feature map: the gradient of its values, and none of what follows from them."""
    zeros = jax.tree.map(jnp.zeros_like, x)
    return zeros._replace(values=gradient.astype(x.values.dtype))


def _totals(values: Array, like: jax.ShapeDtypeStruct) -> Array:
    """Totals of the shape that the kernel has them in; XLA drops them where no one asks."""
    sums = values.sum(axis=(2, 3), dtype=jnp.float32)[:, :, None]
    return jnp.pad(sums, ((0, 0), (0, 0), (0, like.shape[2] - 1), (0, 0)))
