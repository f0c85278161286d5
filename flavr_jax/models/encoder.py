# SPDX-License-Identifier: Apache-2.0
"""The encoder: a 3-D ResNet that halves height and width three times and keeps every frame.

See FLAVR section 3.1 and, for the kinds of convolution, Tran et al. 2018
(https://arxiv.org/abs/1711.11248). No stage strides over time: each input frame keeps its own
features, and the temporal taps of the convolutions pass information between frames.
"""

from __future__ import annotations

import jax
from flax import nnx
from jax import Array
from jaxtyping import Float

from flavr_jax.config import ModelConfig
from flavr_jax.models.layers import (
    Conv3d,
    FactorisedConv3d,
    FeatureMap,
    Gate,
    LayerOptions,
    normalise,
)

__all__ = ["BasicBlock", "Encoder"]


class Encoder(nnx.Module):
    """Stem and four stages; the call returns the features after each, from fine to coarse.

    Frames have ``channels`` channels: 3, or more if something is given beside their colours.
    """

    def __init__(self, config: ModelConfig, options: LayerOptions, channels: int = 3) -> None:
        width = config.width
        if config.encoder == "r2plus1d":
            middle = max(1, width * 45 // 64)  # Tran et al.: 45 channels between the stem's halves
            self.stem = FactorisedConv3d(
                channels, middle, width, 7, options, stride=(1, 2, 2), use_bias=config.encoder_bias
            )
        else:
            self.stem = Conv3d(
                channels, width, (3, 7, 7), options, stride=(1, 2, 2), use_bias=config.encoder_bias
            )
        self.stem_norm = options.norm(width)
        self.layer1 = _stage(config, options, 1, width, width, stride=1)
        self.layer2 = _stage(config, options, 2, width, 2 * width, stride=2)
        self.layer3 = _stage(config, options, 3, 2 * width, 4 * width, stride=2)
        self.layer4 = _stage(config, options, 4, 4 * width, 8 * width, stride=1)

    def __call__(
        self, frames: Float[Array, "batch _time height width _channel"], *, remat: bool = False
    ) -> tuple[FeatureMap, ...]:
        """Features of the stem and of the four stages, ``width · (1, 1, 2, 4, 8)`` channels.

        With ``remat`` the backward pass keeps only each block's input and recomputes the block.
        """
        with jax.named_scope("stem"):
            if self.stem_norm is None:
                x = self.stem(frames, "relu")  # [b, t, h/2, w/2, width]
            else:
                x = normalise(self.stem_norm, self.stem(frames), "relu")
        features = [x]
        for number, stage in enumerate(self.stages, 1):
            for index, block in enumerate(stage):
                with jax.named_scope(f"layer{number}/block{index}"):
                    x = jax.checkpoint(block.__call__)(x) if remat else block(x)
            features.append(x)  # sizes h/2, h/4, h/8, h/8
        return tuple(features)

    @property
    def stages(self) -> tuple[nnx.List, ...]:
        """The four stages, each a list of blocks."""
        return self.layer1, self.layer2, self.layer3, self.layer4


class BasicBlock(nnx.Module):
    """Residual block: two convolutions and a gate, plus a shortcut; the shortcut is not gated.

    ``totals`` says whether a gate reads the channel totals of the block's output.
    """

    def __init__(
        self,
        kind: str,
        in_channels: int,
        out_channels: int,
        stride: int,
        use_bias: bool,
        options: LayerOptions,
        *,
        totals: bool,
    ) -> None:
        self.conv1, self.conv2 = _convs(
            kind, in_channels, out_channels, stride, use_bias, options, totals=totals
        )
        self.norm1, self.norm2 = options.norm(out_channels), options.norm(out_channels)
        self.gate = Gate(out_channels, options)
        if stride == 1 and in_channels == out_channels:
            self.shortcut = self.shortcut_norm = None
        else:
            # A block that changes the shape needs its input in the new one (He et al. 2016, option
            # B).
            self.shortcut = Conv3d(
                in_channels,
                out_channels,
                (1, 1, 1),
                options,
                stride=(1, stride, stride),
                use_bias=False,
                gain=1.0,
                totals=False,
            )
            self.shortcut_norm = options.norm(out_channels)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """``relu(gate(conv(relu(conv(x)))) + shortcut(x))``."""
        with jax.named_scope("shortcut"):
            residual = x if self.shortcut is None else self.shortcut(x)
            if self.shortcut_norm is not None:
                residual = normalise(self.shortcut_norm, residual)
        # Without BatchNorm, gate and sum fuse into the convolution's kernel.
        plain = self.norm1 is None or self.norm2 is None
        with jax.named_scope("conv1"):
            x = self.conv1(x, "relu") if plain else normalise(self.norm1, self.conv1(x), "relu")
        with jax.named_scope("conv2"):
            if plain:
                return self.conv2.gated(x, self.gate, residual, "relu")
            return self.gate(normalise(self.norm2, self.conv2(x)), residual, "relu")


def _stage(
    config: ModelConfig,
    options: LayerOptions,
    number: int,
    in_channels: int,
    out_channels: int,
    stride: int,
) -> nnx.List:
    """The residual blocks of one stage; only the first may stride or change the channels."""
    kind = config.encoder
    if kind == "mc3":  # "mixed convolution": 3-D in the first stage, 2-D in the others
        kind = "r3d" if number == 1 else "r2d"
    return nnx.List(
        BasicBlock(
            kind,
            in_channels if i == 0 else out_channels,
            out_channels,
            stride if i == 0 else 1,
            config.encoder_bias,
            options,
            # The decoder's gates read the last block's output; blocks begin without a gate.
            totals=i == config.blocks[number - 1] - 1,
        )
        for i in range(config.blocks[number - 1])
    )


def _convs(
    kind: str,
    in_channels: int,
    out_channels: int,
    stride: int,
    use_bias: bool,
    options: LayerOptions,
    *,
    totals: bool,
) -> tuple[Conv3d, Conv3d] | tuple[FactorisedConv3d, FactorisedConv3d]:
    """A block's two convolutions of one kind; the first takes the stride."""
    strides = (1, stride, stride)
    if kind == "r2plus1d":
        # This width gives as many parameters as the 3×3×3 convolution that is replaced (Tran et
        # al., section 3.5). Both convolutions of a block share it, as in the authors' release.
        mid = in_channels * out_channels * 27 // (in_channels * 9 + 3 * out_channels)
        return (
            FactorisedConv3d(
                in_channels, mid, out_channels, 3, options, stride=strides, use_bias=use_bias
            ),
            FactorisedConv3d(
                out_channels, mid, out_channels, 3, options, use_bias=use_bias, totals=totals
            ),
        )
    size = (3, 3, 3) if kind == "r3d" else (1, 3, 3)
    return (
        Conv3d(in_channels, out_channels, size, options, stride=strides, use_bias=use_bias),
        Conv3d(out_channels, out_channels, size, options, use_bias=use_bias, totals=totals),
    )
