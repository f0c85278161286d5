# SPDX-License-Identifier: Apache-2.0
"""Feature maps with optional channel totals and scale, and the checks that operations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Float32

from pallas_kernels.core.fp8 import QuantizedKernel

__all__ = ["AnyKernel", "FeatureMap", "Inputs", "as_map", "as_maps", "check_channels", "for_kernel"]


class FeatureMap(NamedTuple):
    """An operation's output, with the channel totals that a later gate can use.

    Attributes:
        values: ``[batch, time, height, width, channel]``.
        totals: float32 ``[batch, time, partial, channel]``: sums of the values over height and
            width, for each frame and channel, split into any number of partial sums. None if the
            operation that wrote the values did not compute them. They repeat information in the
            values, so no gradient passes through them.
        scale: float32 factor from stored values and totals to real ones; None for 1.
    """

    values: Float[Array, "batch time height width channel"]
    totals: Float32[Array, "batch time partial channel"] | None = None
    scale: Float32[Array, ""] | None = None

    def in_units(self, dtype: DTypeLike = jnp.bfloat16) -> FeatureMap:
        """Apply the scale and convert to ``dtype``; a map without a scale stays unchanged."""
        if self.scale is None:
            return self
        # The product is in float32, so that it is rounded only once, to `dtype`.
        values = self.values.astype(jnp.float32) * self.scale
        totals = None if self.totals is None else self.totals * self.scale
        return FeatureMap(values.astype(dtype), totals)

    def map(self, function: Callable[[Array], Array]) -> FeatureMap:
        """Apply ``function`` to the values and drop the totals."""
        return FeatureMap(function(self.in_units().values))


Inputs: TypeAlias = (
    Float[Array, "batch *in_size in_channel"] | FeatureMap | tuple[Array | FeatureMap, ...]
)
"""One array or feature map, or several that are used as if concatenated along the channels."""


@runtime_checkable
class AnyKernel(Protocol):
    """A kernel ``[…, in_channel, channel]``: an array, packed, or quantised."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes, in the order ``[…, in_channel, channel]``."""
        ...

    @property
    def ndim(self) -> int:
        """Number of axes."""
        ...

    @property
    def dtype(self) -> jnp.dtype:
        """Dtype of the products' operands."""
        ...


def as_map(x: Array | FeatureMap) -> FeatureMap:
    """Wrap an array as a feature map without totals; return a feature map unchanged."""
    return x if isinstance(x, FeatureMap) else FeatureMap(x)


def as_maps(inputs: Inputs) -> tuple[FeatureMap, ...]:
    """The inputs as a tuple of feature maps, even if there is only one."""
    if isinstance(inputs, FeatureMap) or not isinstance(inputs, tuple):
        inputs = (inputs,)
    return tuple(map(as_map, inputs))


def for_kernel(
    inputs: tuple[FeatureMap, ...], residual: Array | FeatureMap | None, kernel: AnyKernel
) -> tuple[tuple[FeatureMap, ...], FeatureMap | None]:
    """Convert inputs and residual to the dtype that the kernel multiplies.

    Raises:
        ValueError: the kernel multiplies in 8 bits, but an input or the residual has another dtype.
    """
    added = None if residual is None else as_map(residual)
    # The kernel does not multiply in 8 bits: apply the scales of 8-bit maps.
    if not isinstance(kernel, QuantizedKernel) or kernel.scales is None:
        maps = tuple(x.in_units(kernel.dtype) for x in inputs)
        return maps, None if added is None else added.in_units(kernel.dtype)
    # The residual passes through the same shared-memory buffers as the inputs, so it needs the
    # same dtype.
    for x in (*inputs, *(() if added is None else (added,))):
        if x.values.dtype != kernel.dtype:
            raise ValueError(
                f"the kernel multiplies in {kernel.dtype}, but an input or the residual is "
                f"{x.values.dtype}; quantise it without `in_scales`, or store them all in 8 bits."
            )
    return inputs, added


def check_channels(inputs: tuple[FeatureMap, ...], kernel: AnyKernel, rank: int) -> None:
    """Raise a ValueError if the inputs' shapes do not match ``kernel``, plain or packed."""
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
