# SPDX-License-Identifier: Apache-2.0
"""Feature maps that know their channel totals, and the checks that operations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from pallas_kernels.core.fp8 import QuantizedKernel

__all__ = ["FeatureMap", "Inputs", "as_maps", "check_channels", "for_kernel", "on_values"]


class FeatureMap(NamedTuple):
    """An operation's output, with what a gate that follows needs to know of it.

    Attributes:
        values: ``[batch, time, height, width, channel]``.
        totals: float32 ``[batch, time, spot, channel]``, sums over parts of height and width,
            however many, if the kernel that wrote the values added them up. They follow from the
            values, so no gradient passes through them.
        scale: float32, what a unit of the values and totals is worth; None for 1.
    """

    values: Float[Array, "batch time height width channel"]
    totals: Float[Array, "batch time spot channel"] | None = None
    scale: Float[Array, ""] | None = None

    def in_units(self, dtype: DTypeLike = jnp.bfloat16) -> FeatureMap:
        """The same without a scale: values of ``dtype``, if there was one."""
        if self.scale is None:
            return self
        values = self.values.astype(jnp.float32) * self.scale
        totals = None if self.totals is None else self.totals * self.scale
        return FeatureMap(values.astype(dtype), totals)

    def map(self, function: Callable[[Array], Array]) -> FeatureMap:
        """``function`` of the values; the totals are then unknown."""
        return FeatureMap(function(self.in_units().values))


Inputs: TypeAlias = (
    Float[Array, "batch *in_size in_channel"] | FeatureMap | tuple[Array | FeatureMap, ...]
)
"""One array or feature map, or several that count as one joined along its channels."""


def as_maps(inputs: Inputs) -> tuple[FeatureMap, ...]:
    """The inputs as feature maps, also when there is only one."""
    if isinstance(inputs, FeatureMap) or not isinstance(inputs, tuple):
        inputs = (inputs,)
    return tuple(x if isinstance(x, FeatureMap) else FeatureMap(x) for x in inputs)


def on_values(function: Callable[..., Array]) -> Callable[..., FeatureMap]:
    """A function of arrays as one of feature maps; it knows no totals and ignores the request.

    With a quantised kernel it computes in float32.
    """

    def run(inputs: tuple[FeatureMap, ...], kernel: Any, *arguments: Any) -> FeatureMap:
        *rest, _ = arguments
        arrays = [x.values for x in inputs]
        if not isinstance(kernel, QuantizedKernel):
            rest = (x.values if isinstance(x, FeatureMap) else x for x in rest)
            return FeatureMap(function(tuple(arrays), kernel, *rest))
        wide = tuple(x.astype(jnp.float32) for x in arrays)
        output = function(wide, kernel.in_float32, *map(_in_float32, rest))
        return FeatureMap(kernel.store(output), scale=kernel.out_scale)

    return run


def _in_float32(argument: Any) -> Any:
    """Of an operation: arrays and feature maps as float32 arrays, everything else as it is."""
    if isinstance(argument, FeatureMap):
        argument = argument.in_units(jnp.float32).values
    return argument.astype(jnp.float32) if isinstance(argument, Array) else argument


def for_kernel(
    inputs: tuple[FeatureMap, ...], residual: Array | FeatureMap | None, kernel: Any
) -> tuple[tuple[FeatureMap, ...], FeatureMap | None]:
    """Inputs and residual in the type that the kernel multiplies.

    Raises:
        ValueError: the kernel multiplies in 8 bits, and one of them is not stored in them.
    """
    if residual is not None and not isinstance(residual, FeatureMap):
        residual = FeatureMap(residual)
    if not isinstance(kernel, QuantizedKernel) or kernel.scales is None:
        maps = tuple(x.in_units(kernel.dtype) for x in inputs)
        return maps, None if residual is None else residual.in_units(kernel.dtype)
    for x in (*inputs, *(() if residual is None else (residual,))):
        if x.values.dtype != kernel.dtype:
            raise ValueError(
                f"the kernel multiplies in {kernel.dtype}, but an input or the residual is "
                f"{x.values.dtype}; quantise it without `in_scales`, or store them all in 8 bits."
            )
    return inputs, residual


def check_channels(inputs: tuple[FeatureMap, ...], kernel: Any, rank: int) -> None:
    """Raises a ValueError where the inputs do not fit ``kernel`` ([…, in, out], or packed)."""
    arrays = [x.values for x in inputs]
    for x in arrays:
        if x.ndim != rank or x.shape[:-1] != arrays[0].shape[:-1]:
            raise ValueError(
                f"the inputs have the shapes {[x.shape for x in arrays]}; they must be "
                f"{rank}-dimensional and agree in every axis but the last, the channels."
            )
    channels = sum(x.shape[-1] for x in arrays)
    if kernel.ndim != rank or kernel.shape[-2] != channels:
        raise ValueError(
            f"the kernel has the shape {kernel.shape}, but the inputs have {channels} channels; "
            f"it must be {rank}-dimensional with {channels} as its last axis but one."
        )
