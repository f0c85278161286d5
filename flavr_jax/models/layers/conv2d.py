# SPDX-License-Identifier: Apache-2.0
"""Layers that make images: the fusion of all frames' features, and 2-D convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

import pallas_kernels as pk
from flavr_jax.models.layers.options import LayerOptions, zero_bias
from flavr_jax.typing import Images
from pallas_kernels import Activation, FeatureMap, Implementation, Int8Kernel

__all__ = ["Conv2d", "Fusion"]

Kernel: TypeAlias = Float[Array, "kernel_height kernel_width _in_channel channel"]


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
        part: Callable[[Kernel], Kernel] | None = None,
        use_bias: bool = True,
        spread: tuple[int, int] | None = None,
        residual: Float[Array, "samples _height _width _channel"] | None = None,
    ) -> Images:
        """The convolution of an image.

        Args:
            image: ``[batch, height, width, channel]``.
            activation: applied last.
            out_dtype: dtype of the result; by default that of the image.
            channels: indices of the output channels to compute; None for all.
            part: makes the kernel of the image's channels, if these are only some of the input's,
                or in another order.
            use_bias: whether to add the bias, if there is one.
            spread: number of groups of output channels, and the channels to which zeros fill each.
            residual: added before the activation; each of its images to as many of the result's.
        """
        kernel, bias = self.parameters(spread)
        if not use_bias:
            bias = None
        if part is not None:
            kernel = _changed(kernel, part)
        if channels is not None:
            kernel = _changed(kernel, lambda values: values[..., channels])
            bias = None if bias is None else bias[channels]
        return pk.conv2d(
            image,
            kernel,
            bias,
            padding=self.padding,
            residual=residual,
            activation=activation,
            out_dtype=out_dtype,
            implementation=self.implementation,
        )

    def parameters(
        self, spread: tuple[int, int] | None = None
    ) -> tuple[Kernel | Int8Kernel, Float[Array, " channel"] | None]:
        """The kernel and the bias, if any; for ``spread`` see :meth:`__call__`."""
        kernel, bias = self.kernel.get_value(), None if self.bias is None else self.bias[...]
        if spread is not None:
            kernel = _changed(kernel, lambda values: _spread(values, *spread))
            bias = None if bias is None else _spread(bias, *spread)
        return kernel, bias


def _changed(
    kernel: Float[Array, "..."] | Int8Kernel, change: Callable[[Array], Array]
) -> Float[Array, "..."] | Int8Kernel:
    """A kernel whose weights were selected or moved."""
    return kernel.map(change) if isinstance(kernel, Int8Kernel) else change(kernel)


def _spread(x: Float[Array, "*_ channel"], groups: int, count: int) -> Float[Array, "*_ _channel"]:
    """Groups of channels with zeros behind each, so that all have ``count`` channels."""
    apart = x.reshape(*x.shape[:-1], groups, -1)
    zeros = (*((0, 0),) * (apart.ndim - 1), (0, count - apart.shape[-1]))
    return jnp.pad(apart, zeros).reshape(*x.shape[:-1], groups * count)
