# SPDX-License-Identifier: Apache-2.0
"""What the convolutions of a network cost, read off its definition: products and bytes.

"Dense" counts every tap of a kernel, at the picture's border too; "useful" leaves out the products
that only meet the zeros before the first and after the last frame. The zeros that define a
transposed convolution count in neither. Bytes are the least that can be moved: each input, weight
and output once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr

__all__ = ["LayerCost", "layer_costs"]


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One convolution.

    Attributes:
        scope: where it is, such as ``encoder/layer2/block0/conv1``.
        dense_flops: twice the number of products.
        useful_flops: likewise, without those that meet padding in time.
        bytes: of inputs, weights and output.
    """

    scope: str
    dense_flops: int
    useful_flops: int
    bytes: int


# Of the layers that read or write feature maps of 16 bits where others have 8: bytes of an input
# or weight, and of an output.
_BYTES_BESIDE_8_BITS = {
    "encoder/stem": (2, 1),
    "decoder/stage4": (1, 2),
    "fuse": (2, 2),
    "out": (2, 4),
}


def layer_costs(
    config: ModelConfig,
    batch: int,
    height: int,
    width: int,
    dtype: DTypeLike = jnp.bfloat16,
    *,
    in_8_bits: bool = False,
) -> list[LayerCost]:
    """The convolutions of one call, in the order they run.

    Args:
        config: the network.
        batch: windows a call.
        height: of frames, in pixels; a multiple of 8.
        width: likewise.
        dtype: what the network computes in.
        in_8_bits: whether all feature maps that can be are stored in 8 bits.
    """
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), flavr.parameter_shapes(config)
    )
    windows = jax.ShapeDtypeStruct((batch, config.n_inputs, height, width, 3), jnp.float32)
    definition = functools.partial(flavr.apply, config, implementation="reference")
    jaxpr = jax.make_jaxpr(definition)(params, windows)
    size = jnp.dtype(dtype).itemsize

    def bytes_of(scope: str) -> tuple[int, int]:
        return _BYTES_BESIDE_8_BITS.get(scope, (1, 1)) if in_8_bits else (size, size)

    return [_cost(equation, bytes_of) for equation in _convolutions(jaxpr.jaxpr)]


def _convolutions(jaxpr: Any) -> Iterator[Any]:
    """All convolutions of a jaxpr, those of nested ones too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                yield from _convolutions(inner)


def _cost(equation: Any, bytes_of: Callable[[str], tuple[int, int]]) -> LayerCost:
    """``bytes_of`` a scope: of an input or weight, and of an output."""
    pixels, kernel = (variable.aval for variable in equation.invars)
    (output,) = (variable.aval for variable in equation.outvars)
    taps = kernel.shape[:-2]
    products = math.prod(output.shape) * math.prod(taps) * kernel.shape[-2]
    products //= math.prod(equation.params["lhs_dilation"])
    useful = products
    if len(taps) == 3:
        useful *= _share_inside(taps[0], pixels.shape[1], equation.params["padding"][0])
    scope = str(equation.source_info.name_stack)
    read, written = bytes_of(scope)
    moved = read * (math.prod(kernel.shape) + math.prod(pixels.shape))
    moved += written * math.prod(output.shape)
    return LayerCost(scope, 2 * products, round(2 * useful), moved)


def _share_inside(taps: int, frames: int, padding: tuple[int, int]) -> float:
    """The share of (output frame, temporal tap) pairs that meet a frame."""
    outputs = frames + sum(padding) - taps + 1
    inside = sum(
        0 <= output + tap - padding[0] < frames for output in range(outputs) for tap in range(taps)
    )
    return inside / (outputs * taps)
