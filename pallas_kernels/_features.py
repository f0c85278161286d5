# SPDX-License-Identifier: Apache-2.0
"""Feature maps that know their channel totals, and the checks that operations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jax import Array
from jaxtyping import Float

__all__ = ["FeatureMap", "Inputs", "as_maps", "check_channels", "on_values"]


class FeatureMap(NamedTuple):
    """An operation's output, with what a gate that follows needs to know of it.

    Attributes:
        values: ``[batch, time, height, width, channel]``.
        totals: float32 ``[batch, time, spot, channel]``, sums over parts of height and width,
            however many, if the kernel that wrote the values added them up. They follow from the
            values, so no gradient passes through them.
    """

    values: Float[Array, "batch time height width channel"]
    totals: Float[Array, "batch time spot channel"] | None = None

    def map(self, function: Callable[[Array], Array]) -> FeatureMap:
        """``function`` of the values; the totals are then unknown."""
        return FeatureMap(function(self.values))


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
    """A function of arrays as one of feature maps; it knows no totals and ignores the request."""

    def run(inputs: tuple[FeatureMap, ...], *arguments: Any) -> FeatureMap:
        *rest, _ = arguments
        return FeatureMap(function(tuple(x.values for x in inputs), *rest))

    return run


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
