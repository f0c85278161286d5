# SPDX-License-Identifier: Apache-2.0
"""The decoder: five gated stages back to full size, with skip connections from the encoder.

Concatenated skips are never copied into one array: a stage takes the previous stage's output and
the skip as two inputs, and the convolution reads both.
"""

from __future__ import annotations

import jax
from flax import nnx

from flavr_jax.config import ModelConfig
from flavr_jax.models.layers import (
    Conv3d,
    FeatureMap,
    Gate,
    LayerOptions,
    TransposedConv3d,
    TrilinearConv3d,
    normalise,
)

__all__ = ["Decoder", "DecoderStage"]

# Gates start at about 1/2. To compensate, kernels before a gate start at twice the usual scale,
# which is 4 times the usual variance (gain 2).
GATED_GAIN = 8.0

_SKIPS = (4, 2, 1, 1)  # skip channels into stages 1 to 4, in multiples of width
_UPSAMPLES = (False, True, True, False, True)


class Decoder(nnx.Module):
    """Conv, up, up, conv, up: from ``8 · width`` channels at h/8 to ``width`` channels at h."""

    def __init__(self, config: ModelConfig, options: LayerOptions) -> None:
        width = config.width
        own = [multiple * width for multiple in config.decoder_widths]
        skips = [multiple * width if config.join == "concat" else 0 for multiple in _SKIPS]
        # The first stage reads the encoder alone; each later one also a skip, if they are joined.
        reads = [8 * width, *(mine + skip for mine, skip in zip(own, skips))]
        self.join = config.join
        last = len(own) - 1
        self.stages = nnx.List(
            # The last stage's output is read by a convolution without a gate.
            DecoderStage(config, options, *channels, upsample=upsample, totals=number < last)
            for number, (*channels, upsample) in enumerate(zip(reads, own, _UPSAMPLES))
        )

    def __call__(self, features: tuple[FeatureMap, ...], *, remat: bool = False) -> FeatureMap:
        """Full-size features from the encoder's five feature maps, ordered from fine to coarse.

        With ``remat`` the backward pass keeps only each stage's inputs and recomputes the stage.
        """
        return self.last(self.coarse(features, remat=remat), remat=remat)

    def coarse(
        self, features: tuple[FeatureMap, ...], *, remat: bool = False
    ) -> tuple[FeatureMap, ...]:
        """Inputs of the last stage, at half the size: the result of all other stages and a skip.

        The last stage writes the only full-size features of the network, which take most of its
        memory. :mod:`flavr_jax.inference.tiles` can compute it in parts.
        """
        *skips, x = features
        stages = [jax.checkpoint(s.__call__) if remat else s for s in self.stages[:-1]]
        with jax.named_scope("stage0"):
            x = stages[0](x)  # [b, t, h/8, w/8, c]
        with jax.named_scope("stage1"):
            x = stages[1](self._join(x, skips[3]))  # [b, t, h/4, w/4, c]
        with jax.named_scope("stage2"):
            x = stages[2](self._join(x, skips[2]))  # [b, t, h/2, w/2, c]
        with jax.named_scope("stage3"):
            x = stages[3](self._join(x, skips[1]))  # [b, t, h/2, w/2, c]
        return self._join(x, skips[0])

    def last(self, inputs: tuple[FeatureMap, ...], *, remat: bool = False) -> FeatureMap:
        """Full-size features ``[batch, time, height, width, width]`` from :meth:`coarse`."""
        stage = self.stages[-1]
        with jax.named_scope("stage4"):
            return (jax.checkpoint(stage.__call__) if remat else stage)(inputs)

    def _join(self, x: FeatureMap, skip: FeatureMap) -> tuple[FeatureMap, ...]:
        """Inputs of the next stage: both maps, their sum, or the decoder's own features alone."""
        if self.join == "concat":
            return (x, skip)
        if self.join == "none":
            return (x,)
        # A map in 8 bits is stored in units of its own scale; a sum needs both in the same units.
        values = x.in_units().values
        return (FeatureMap(values + skip.in_units(values.dtype).values),)


class DecoderStage(nnx.Module):
    """Convolution (same size or upsampling), gate, optional BatchNorm, LeakyReLU.

    ``totals`` says whether another gate reads the channel totals of the stage's output.
    """

    def __init__(
        self,
        config: ModelConfig,
        options: LayerOptions,
        in_channels: int,
        out_channels: int,
        *,
        upsample: bool,
        totals: bool,
    ) -> None:
        channels = in_channels, out_channels
        if not upsample:
            self.conv = Conv3d(*channels, (3, 3, 3), options, gain=GATED_GAIN, totals=totals)
        elif config.upsampling == "transposed":
            self.conv = TransposedConv3d(*channels, options, gain=GATED_GAIN, totals=totals)
        else:
            self.conv = TrilinearConv3d(*channels, options, gain=GATED_GAIN)
        self.gate = Gate(out_channels, options)
        self.norm = options.norm(out_channels)

    def __call__(self, inputs: FeatureMap | tuple[FeatureMap, ...]) -> FeatureMap:
        """The stage's features, of twice the height and width if it upsamples."""
        if self.norm is None:
            return self.conv.gated(inputs, self.gate, activation="leaky_relu")
        return normalise(self.norm, self.conv.gated(inputs, self.gate), "leaky_relu")
