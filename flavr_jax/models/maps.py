# SPDX-License-Identifier: Apache-2.0
"""Smaller versions of maps, without parameters; ``pallas_kernels`` has the inverse operations."""

from __future__ import annotations

from jax import Array
from jaxtyping import Float

__all__ = ["folded", "halved", "reduce"]


def folded(
    x: Float[Array, "batch height width channel"], fold: int
) -> Float[Array, "batch _height _width _channel"]:
    """``fold × fold`` neighbouring pixels as the channels of one ("space to depth")."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // fold, fold, width // fold, fold, channels)
    return x.swapaxes(2, 3).reshape(batch, height // fold, width // fold, -1)


def halved(
    maps: Float[Array, "batch output height width channel"], scale: int
) -> Float[Array, "batch output _height _width channel"]:
    """The same as :func:`reduce`, by halving as often as possible.

    Looks of several scales then share the first steps.
    """
    if scale % 2:
        return reduce(maps, scale)
    return halved(reduce(maps, 2), scale // 2)


def reduce(
    maps: Float[Array, "batch output height width channel"], scale: int
) -> Float[Array, "batch output _height _width channel"]:
    """Maps ``scale`` times smaller; each pixel is the mean of ``scale × scale`` pixels."""
    if scale == 1:
        return maps
    batch, time, height, width, channels = maps.shape
    shape = (batch, time, height // scale, scale, width // scale, scale, channels)
    return maps.reshape(shape).mean(axis=(3, 5))
