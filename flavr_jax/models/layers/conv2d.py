# SPDX-License-Identifier: Apache-2.0
"""Layers that make images: the fusion of all frames' features, and 2-D convolutions."""

from __future__ import annotations

from typing import Literal

import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Int

import pallas_kernels as pk
from flavr_jax.models.layers.options import LayerOptions, zero_bias
from flavr_jax.typing import Images
from pallas_kernels import Activation, FeatureMap, Implementation

__all__ = ["Conv2d", "Fusion"]


class Fusion(nnx.Module):
    """Fuses the features of all frames into one image: a 1×1 convolution over their channels."""

    def __init__(self, frames: int, channels: int, options: LayerOptions) -> None:
        self.kernel = options.kernel(1, 1, frames * channels, channels, gain=2.0)
        self.frames = frames
        self.implementation: Implementation | None = options.implementation

    def __call__(self, x: FeatureMap, activation: Activation = None) -> Images:
        """``[batch, height, width, channel]``.

        The kernel's input channels are ordered by frame, then by the channel of that frame.
        """
        kernel = self.kernel[...]
        # Equal to a convolution whose temporal taps span all frames, which needs no copy.
        image = pk.conv3d(
            x,
            kernel.reshape(self.frames, 1, 1, -1, kernel.shape[-1]),
            pad_time=False,
            activation=activation,
            implementation=self.implementation,
        )
        return image.values[:, 0]


class Conv2d(nnx.Module):
    """A 2-D convolution at stride 1 that keeps the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        options: LayerOptions,
        *,
        padding: Literal["zeros", "reflect"] = "zeros",
        use_bias: bool = True,
        gain: float = 2.0,
    ) -> None:
        size = (kernel_size, kernel_size)
        self.kernel = options.kernel(*size, in_channels, out_channels, gain=gain)
        self.bias = zero_bias(out_channels, use_bias)
        self.padding: Literal["zeros", "reflect"] = padding
        self.implementation: Implementation | None = options.implementation

    def __call__(
        self,
        image: Images,
        activation: Activation = None,
        *,
        out_dtype: DTypeLike | None = None,
        channels: Int[np.ndarray, " some"] | None = None,
    ) -> Images:
        """The convolution of an image.

        Args:
            image: ``[batch, height, width, channel]``.
            activation: applied last.
            out_dtype: dtype of the result; by default that of the image.
            channels: indices of the output channels to compute; None for all.
        """
        kernel, bias = self.kernel[...], None if self.bias is None else self.bias[...]
        if channels is not None:
            kernel = kernel[..., channels]
            bias = None if bias is None else bias[channels]
        return pk.conv2d(
            image,
            kernel,
            bias,
            padding=self.padding,
            activation=activation,
            out_dtype=out_dtype,
            implementation=self.implementation,
        )
