# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations and bytes of a network's convolutions, from a trace of its definition.

"Dense" counts every tap of a kernel, also at the border of the frame. "Useful" excludes products
with the zeros before the first and after the last frame. Both exclude products with the zeros that
a transposed convolution inserts. Bytes are the minimum that must be moved: each input, weight and
output once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr, quantized

__all__ = ["LayerCost", "layer_costs"]


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """Cost of one convolution.

    Attributes:
        scope: its named scope, such as ``encoder/layer2/block0/conv1``.
        dense_flops: twice the number of products.
        useful_flops: twice the number of products, without those with padding in time.
        bytes: size of input, weights and output.
    """

    scope: str
    dense_flops: int
    useful_flops: int
    bytes: int


def layer_costs(
    config: ModelConfig,
    batch: int,
    height: int,
    width: int,
    dtype: DTypeLike = jnp.bfloat16,
    *,
    in_8_bits: bool = False,
) -> list[LayerCost]:
    """Return the costs of all convolutions of one call, in order of execution.

    Args:
        config: the network.
        batch: number of windows per call.
        height: height of frames in pixels, a multiple of ``config.multiple``.
        width: width of frames in pixels, a multiple of ``config.multiple``.
        dtype: dtype in which the network computes.
        in_8_bits: count every feature map that may have 8 bits with 8 bits.
    """
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), flavr.parameter_shapes(config)
    )
    windows = jax.ShapeDtypeStruct((batch, config.n_inputs, height, width, 3), jnp.float32)
    definition = functools.partial(flavr.apply, config, implementation="reference")
    jaxpr = jax.make_jaxpr(definition)(params, windows)
    wide = _Bytes(jnp.dtype(dtype).itemsize, jnp.dtype(dtype).itemsize)
    narrow = _bytes_with_8_bits(config, wide) if in_8_bits else {}
    costs = []
    for equation in _convolutions(jaxpr.jaxpr):
        scope = str(equation.source_info.name_stack)
        # A factorised convolution has two equations in one scope, in the order of the graph.
        remaining = narrow.get(scope)
        costs.append(_cost(equation, scope, remaining.pop(0) if remaining else wide))
    return costs


class _Bytes(NamedTuple):
    """Bytes per value in a convolution's input and weights, and in its output."""

    read: int
    written: int


def _bytes_with_8_bits(config: ModelConfig, wide: _Bytes) -> dict[str, list[_Bytes]]:
    """Return the convolutions' bytes per value by scope, if all maps that may have 8 bits do.

    A convolution multiplies in 8 bits if all maps that it reads have 8 bits, and its output has 8
    bits if another convolution reads it.
    """
    maps = dict.fromkeys(quantized.feature_maps(config), 1.0)
    found: dict[str, list[_Bytes]] = {}
    for each in quantized.convolutions(config):
        read = 1 if each.in_8_bits(maps) else wide.read
        written = 1 if each.name in maps else wide.written
        found.setdefault(_scope_of(each.name), []).append(_Bytes(read, written))
    # The network's output is float32; bf16 is converted after the convolution, fp8 within it.
    found["out"] = [_Bytes(wide.read, 4)]
    return found


def _scope_of(name: str) -> str:
    """Return the named scope in which a layer runs, from its path in the parameters."""
    name = re.sub(r"^encoder/(layer\d)/(\d+)/", r"encoder/\1/block\2/", name)
    name = re.sub(r"^decoder/stages/(\d)/conv", r"decoder/stage\1", name)
    return re.sub(r"/(spatial|temporal)$", "", name)


def _convolutions(jaxpr: Any) -> Iterator[Any]:
    """Yield all convolutions of a jaxpr, including those of nested jaxprs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                yield from _convolutions(inner)


def _cost(equation: Any, scope: str, size: _Bytes) -> LayerCost:
    """Count the products and bytes of one convolution."""
    pixels, kernel = (variable.aval for variable in equation.invars)
    (output,) = (variable.aval for variable in equation.outvars)
    taps = kernel.shape[:-2]
    products = math.prod(output.shape) * math.prod(taps) * kernel.shape[-2]
    # Dilation inserts zeros between the input's pixels; 1 in prod(dilation) taps reads a pixel.
    products //= math.prod(equation.params["lhs_dilation"])
    useful = products
    if len(taps) == 3:
        useful *= _share_inside(taps[0], pixels.shape[1], equation.params["padding"][0])
    moved = size.read * (math.prod(kernel.shape) + math.prod(pixels.shape))
    moved += size.written * math.prod(output.shape)
    return LayerCost(scope, 2 * products, round(2 * useful), moved)


def _share_inside(taps: int, frames: int, padding: tuple[int, int]) -> float:
    """Return the share of (output frame, temporal tap) pairs that read a frame, not padding."""
    outputs = frames + sum(padding) - taps + 1
    inside = sum(
        0 <= output + tap - padding[0] < frames for output in range(outputs) for tap in range(taps)
    )
    return inside / (outputs * taps)
