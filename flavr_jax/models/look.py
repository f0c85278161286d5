# SPDX-License-Identifier: Apache-2.0
"""A look: a small 2-D network of the warping head that corrects the displacements.

It sees both middle frames as they are displaced so far. :mod:`flavr_jax.models.head` has the
equations.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from jaxtyping import Float, Int

from flavr_jax.config import LookConfig, ModelConfig
from flavr_jax.models.layers import Conv2d, Convolved, Implementation, LayerOptions, warp
from flavr_jax.models.maps import folded, halved, reduce
from flavr_jax.typing import Images

__all__ = ["CHANNELS", "UNIT", "Fields", "Given", "Look", "Times", "pixels_read"]

CHANNELS = 8
"""Raw outputs per predicted time: 3 colours, flow (x, y) into before and into after, the mask."""

UNIT = 10.0
"""Pixels per interval for a raw flow of 1, so that raw outputs are of order 1."""

_SEEN = 3 * 4 + CHANNELS  # channels of a pixel that a look reads: four images, the raw outputs
_GREY = 0.5  # subtracted from colours, so that they are about 0, as a look's other inputs are
# Channels of a pixel that a look reads: the two frames warped, as they are, and raw outputs.
_MOVING, _STILL = (slice(0, 6), slice(12, _SEEN)), slice(6, 12)

Fields: TypeAlias = Float[Array, "batch output _height _width _raw"]
"""Raw outputs, at the size of the U-Net (the trunk) or enlarged to that of the frames.

After the last look, further pairs of flows follow the 8 channels."""

Times: TypeAlias = Float[np.ndarray, " output"] | Float[Array, "batch output"]
"""Times of the outputs, inside (0, 1): the same for all samples, or each sample's own."""


class Given(NamedTuple):
    """What a :class:`Look` computes its corrections from.

    Attributes:
        raw: raw outputs so far, ``scale · enlarged`` times smaller than the frames.
        features: the trunk's, at the trunk's size.
        pair: the whole middle frames.
        times: times of the outputs, inside (0, 1).
        start: the row of the frames at which ``raw`` and ``features`` begin.
        enlarged: how many times ``raw`` is enlarged first.
    """

    raw: Fields
    features: Images
    pair: Float[Array, "batch 2 full_height full_width 3"]
    times: Times
    start: Int[Array, ""] | int
    enlarged: int = 1


class Look(nnx.Module):
    """Corrects the raw outputs after a look at the frames as they are warped so far.

    A 2-D network that runs once for each predicted time. It sees both middle frames, as they are
    and warped by the raw outputs, and the trunk's features. If it sees the frames larger than the
    trunk does, ``fold × fold`` of their pixels become the channels of one position, so that its
    convolutions run at the trunk's size.
    """

    def __init__(
        self,
        config: ModelConfig,
        look: LookConfig,
        options: LayerOptions,
        predicted: int = CHANNELS,
    ) -> None:
        """Make a look.

        Args:
            config: the network's settings.
            look: its own.
            options: how its layers compute.
            predicted: raw outputs per time that it corrects or, beyond ``CHANNELS``, predicts.
        """
        self.scale, self.predicted = look.scale, predicted
        self.fold = look.folded(config.trunk_scale)
        self.times_smaller = look.times_smaller(config.trunk_scale)
        self.implementation: Implementation | None = options.implementation
        channels, pixels = look.channels, self.fold**2
        self.read = Conv2d(pixels * _SEEN, channels, 3, options)
        self.context = Conv2d(config.width, channels, 3, options, use_bias=False, gain=1.0)
        self.hidden = nnx.List(Conv2d(channels, channels, 3, options) for _ in range(look.layers))
        # Small initial weights: at first, a look corrects next to nothing.
        self.correct = Conv2d(channels, pixels * predicted, 3, options, gain=0.01)

    def folded(self, given: Given) -> Float[Array, "batch output _height _width pixel _raw"]:
        """Corrections of the raw outputs; ``fold × fold`` pixels are those of one position.

        Channels of zeros may follow those of the raw outputs.
        """
        batch, outputs = given.raw.shape[:2]
        x, spread = self._hidden(given)
        correction = self.correct(x, out_dtype=jnp.float32, spread=spread)
        return correction.reshape(batch, outputs, *x.shape[1:3], self.fold**2, -1)

    def last(self, given: Given) -> Convolved:
        """The same as :meth:`folded`, as the convolution that computes it."""
        x, spread = self._hidden(given)
        return Convolved(x, *self.correct.parameters(spread))

    def _hidden(
        self, given: Given
    ) -> tuple[Float[Array, "images _height _width _hidden"], tuple[int, int] | None]:
        """All but the last convolution, and how that one spreads its channels (:class:`Conv2d`)."""
        batch, outputs = given.raw.shape[:2]
        dtype, pair = given.features.dtype, halved(given.pair, self.scale)
        # Stripes begin at rows that are whole at every scale (`_Stripes.unit` in
        # inference/tiles.py).
        first = given.start // self.scale
        seen = warp(
            pair,
            given.raw,
            given.times,
            unit=UNIT / self.scale,
            first_row=first,
            enlarged=given.enlarged,
            fold=self.fold,
            middle=_GREY,
            dtype=dtype,
            implementation=self.implementation,
        )
        shape = seen.shape[2:4]
        # As for `seen`, zeros fill the chunks of channels that the GPU kernel reads.
        count = 6 if seen.shape[5] == 6 + CHANNELS else seen.shape[5] // 2
        pair = lax.dynamic_slice_in_dim(pair, first, shape[0] * self.fold, axis=2)
        fixed = self._fixed(given.features, pair, count)
        x = self.read(
            seen.reshape(batch * outputs, *shape, -1),
            "leaky_relu",
            part=functools.partial(self._of_pixels, _MOVING, seen.shape[5]),
            residual=fixed,
        )
        for layer in self.hidden:
            x = layer(x, "leaky_relu")
        spread = None
        if seen.shape[5] != 6 + CHANNELS:
            # The GPU kernel reads 8 values at a time.
            spread = self.fold**2, -(-self.predicted // 8) * 8
        return x, spread

    def _fixed(
        self, features: Images, pair: Float[Array, "batch 2 _rows _columns 3"], count: int
    ) -> Images:
        """The part of the first layer's sums that is the same for all outputs.

        It comes from the frames as they are and the features, whose convolutions therefore run once
        per sample. The sum of convolutions is one convolution over all their inputs.

        Args:
            features: the trunk's, at the trunk's size.
            pair: the middle frames at this look's scale, as far as they are read.
            count: channels of a pixel, of which those after the 6 colours are zeros.
        """
        still = jnp.concatenate([pair[:, 0], pair[:, 1]], axis=-1) - _GREY
        still = jnp.pad(still, (*((0, 0),) * 3, (0, count - 6)))
        seen = reduce(features[:, None], self.times_smaller)[:, 0].astype(features.dtype)
        return self.read(
            folded(still, self.fold).astype(features.dtype),
            part=functools.partial(self._of_pixels, (_STILL,), count),
            use_bias=False,
            residual=self.context(seen),
        )

    def _of_pixels(
        self, channels: tuple[slice, ...], count: int, kernel: Float[Array, "3 3 seen channel"]
    ) -> Float[Array, "3 3 _seen channel"]:
        """The kernel of ``read`` for some channels of each pixel, and zeros up to ``count``."""
        pixels = kernel.reshape(3, 3, self.fold**2, _SEEN, -1)
        some = jnp.concatenate([pixels[:, :, :, each] for each in channels], axis=3)
        missing = count - some.shape[3]
        some = jnp.pad(some, ((0, 0), (0, 0), (0, 0), (0, missing), (0, 0)))
        return some.reshape(3, 3, self.fold**2 * count, -1)


def pixels_read(channels: int) -> int:
    """Number of pixels that a look with so many input channels takes as one position."""
    return channels // _SEEN
