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
from jax import Array, lax

from pallas_kernels._epilogue import Activation, activate
from pallas_kernels._features import FeatureMap
from pallas_kernels._implicit_gemm import implicit_gemm
from pallas_kernels._weight_gradient import weight_gradient
from pallas_kernels._work import Geometry

__all__ = ["Prepare", "differentiable", "differentiable_in_parts", "input_gradient"]

Prepare: TypeAlias = Callable[
    [tuple[FeatureMap, ...], Array],
    tuple[tuple[FeatureMap, ...], Array, Geometry, tuple[int, int, int]],
]
"""What :func:`implicit_gemm` convolves, linear in an operation's inputs and kernel."""


def differentiable(
    forward: Callable[..., FeatureMap], prepare: Prepare, activation: Activation
) -> Callable[..., FeatureMap]:
    """``forward`` with a gradient.

    Totals carry none: they follow from the values, whose gradient is whole.

    Args:
        forward: of inputs, kernel, bias and residual: ``activation(conv + bias + residual)``.
        prepare: the convolution in it.
        activation: applied last.
    """

    def start(inputs: Any, kernel: Any, bias: Any, residual: Any) -> tuple[FeatureMap, Any]:
        output = forward(inputs, kernel, bias, residual)
        return output, (inputs, kernel, bias, residual, output.values)

    def backward(kept: Any, cotangent: FeatureMap) -> Any:
        inputs, kernel, bias, residual, output = kept
        # The slope of an activation is known from its output as well as from its input.
        _, pull_back = jax.vjp(functools.partial(activate, activation=activation), output)
        (gradient,) = pull_back(cotangent.values)
        found = _of_convolution(prepare, inputs, kernel, bias, gradient)
        return *found, None if residual is None else _as_cotangent(residual, gradient)

    run = jax.custom_vjp(forward)
    run.defvjp(start, backward)
    return run


def differentiable_in_parts(
    forward: Callable[..., FeatureMap], prepare: Prepare, finish: Callable[..., Array]
) -> Callable[..., FeatureMap]:
    """``forward`` with a gradient, for which it runs as a convolution and ``finish``.

    Args:
        forward: of inputs, kernel, bias and others.
        prepare: the convolution in it.
        finish: what follows it, of float32: the convolution with its bias, the means of that
            ``[batch, channel]``, and the others.
    """

    def start(inputs: Any, kernel: Any, bias: Any, *others: Any) -> tuple[FeatureMap, Any]:
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
        output = finish(sums.astype(jnp.float32), mean, *others).astype(sums.dtype)
        known = jax.eval_shape(forward, inputs, kernel, bias, *others).totals
        kept = inputs, kernel, bias, others, sums, mean
        return FeatureMap(output, None if known is None else _totals(output, known)), kept

    def backward(kept: Any, cotangent: FeatureMap) -> Any:
        inputs, kernel, bias, others, sums, mean = kept
        _, pull_back = jax.vjp(finish, sums.astype(jnp.float32), mean, *others)
        gradient, of_mean, *of_others = pull_back(cotangent.values.astype(jnp.float32))
        gradient += (of_mean / math.prod(sums.shape[1:4]))[:, None, None, None]
        found = _of_convolution(prepare, inputs, kernel, bias, gradient)
        return *found, *of_others

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
    (kt, *spatial), (before, *low) = geometry.kernel, geometry.low
    before = kt - 1 - before
    if geometry.phases == 2:
        rows, columns = (taps - 1 - 2 * first for taps, first in zip(spatial, low))
        back = Geometry(geometry.kernel, (before, rows, columns), stride=2)
        return implicit_gemm((gradient,), turned, back, size)[0]
    if geometry.stride == 1 or spatial == [1, 1]:
        rows, columns = (taps - 1 - first for taps, first in zip(spatial, low))
        back = Geometry(geometry.kernel, (before, rows, columns))
        if geometry.stride == 1:
            return implicit_gemm((gradient,), turned, back, size)[0]
        found, _ = implicit_gemm((gradient,), turned, back, (size[0], *gradient.shape[2:4]))
        zero, none = jnp.zeros((), found.dtype), (0, 0, 0)
        return lax.pad(found, zero, (none, none, (0, 1, 1), (0, 1, 1), none))
    # Transposed: tap k of the forward pass is tap 2 · first + low − k of an even number of taps.
    first = [-(-(taps - 1 - before) // 2) for taps, before in zip(spatial, low)]
    front = [2 * f + before - taps + 1 for f, before, taps in zip(first, low, spatial)]
    back = [(f + taps) % 2 for f, taps in zip(front, spatial)]
    turned = jnp.pad(turned, ((0, 0), *zip(front, back), (0, 0), (0, 0)))
    rows, columns = turned.shape[1:3]
    geometry = Geometry((kt, rows, columns), (before_time(kt, geometry), *first), phases=2)
    return implicit_gemm((gradient,), turned, geometry, (size[0], size[1] // 2, size[2] // 2))[0]
