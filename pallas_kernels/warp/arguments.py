# SPDX-License-Identifier: Apache-2.0
"""Arguments of the warps, as their implementations take them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from pallas_kernels.conv2d.api import conv2d
from pallas_kernels.core.dispatch import Implementation
from pallas_kernels.core.int8 import Int8Kernel
from pallas_kernels.hopper.warp.problem import FIELDS, PAIR

__all__ = ["Convolved", "RefineArguments", "WarpAndMixArguments", "WarpArguments"]


class Convolved(NamedTuple):
    """A correction as the convolution that computes it.

    Attributes:
        images: an image for each output of each sample.
        kernel: odd sizes in height and width; its output channels are places × values.
        bias: one value per output channel.
    """

    images: Float[Array, "images _height _width in_channel"]
    kernel: Float[Array, "kh kw in_channel channel"] | Int8Kernel
    bias: Float[Array, " channel"] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefineArguments:
    """Arguments of :func:`pallas_kernels.refine`."""

    maps: Float[Array, "batch output height width values"]
    corrections: tuple[Float[Array, "batch output _height _width values"], ...]

    @property
    def operands(self) -> tuple[Array, tuple[Array, ...]]:
        """The maps, and the corrections in place of a kernel."""
        return self.maps, self.corrections

    @property
    def times(self) -> tuple[int, ...]:
        """Factors by which the corrections are enlarged."""
        return tuple(self.maps.shape[2] // each.shape[2] for each in self.corrections)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarpArguments:
    """Arguments of :func:`pallas_kernels.warp`; ``implementation`` is that of its look-ups."""

    images: Float[Array, "batch 2 image_height image_width 3"]
    fields: Float[Array, "batch output field_height field_width values"]
    times: Float[Array, "samples output"]
    unit: float
    first_row: Int[Array, ""] | int
    enlarged: int
    fold: int = 1
    middle: float = 0.0
    dtype: jnp.dtype
    implementation: Implementation | None = None

    @property
    def operands(self) -> tuple[Array, Array]:
        """The images, and the fields in place of a kernel."""
        return self.images, self.fields

    @property
    def reach(self) -> Float[Array, "samples output 2"]:
        """Factors of the displacements into both images."""
        return jnp.stack([self.times, 1 - self.times], axis=-1) * self.unit

    @property
    def logits(self) -> Float[Array, "samples output"]:
        """Logits of the first image's weight in a linear blend."""
        return jnp.log((1 - self.times) / self.times)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarpAndMixArguments(WarpArguments):
    """Arguments of :func:`pallas_kernels.warp_and_mix`."""

    correction: Float[Array, "batch output _height _width place _values"] | Convolved | None
    keep: Float[Array, "batch 1 image_height image_width 1"] | None
    top: Int[Array, ""] | int
    height: int
    pairs: int
    cubic: bool

    @property
    def values(self) -> int:
        """Values of a field that count."""
        return FIELDS + PAIR * (self.pairs - 1)

    def with_correction(self, dtype: DTypeLike) -> WarpAndMixArguments:
        """The arguments with the correction's values, in ``dtype`` if they are computed here."""
        given = self.correction
        if not isinstance(given, Convolved):
            return self
        values = conv2d(*given, out_dtype=dtype, implementation=self.implementation)
        batch, outputs, height, width = (*self.fields.shape[:2], *values.shape[1:3])
        places = self.fields.shape[2] * self.fields.shape[3] * self.enlarged**2 // (height * width)
        values = values.reshape(batch, outputs, height, width, places, -1)
        return dataclasses.replace(self, correction=values)
