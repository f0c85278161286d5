# SPDX-License-Identifier: Apache-2.0
"""2-D convolution of images with a fused epilogue."""

from __future__ import annotations

from typing import Literal

from jax import Array
from jaxtyping import Float

from pallas_kernels import _dispatch
from pallas_kernels._dispatch import Implementation, Implementations
from pallas_kernels._epilogue import Activation, Inputs, as_tuple, check_channels
from pallas_kernels.conv2d import reference, xla

__all__ = ["conv2d"]

IMPLEMENTATIONS: Implementations = {"xla": xla.conv2d, "reference": reference.conv2d}


def conv2d(
    inputs: Inputs,
    kernel: Float[Array, "kh kw in_channel channel"],
    bias: Float[Array, " channel"] | None = None,
    *,
    padding: Literal["zeros", "reflect"] = "zeros",
    activation: Activation = None,
    implementation: Implementation | None = None,
) -> Float[Array, "batch height width channel"]:
    """``activation(conv(inputs) + bias)`` at stride 1, padded by ``kernel // 2``.

    Args:
        inputs: ``[batch, height, width, channel]`` or a tuple to be joined along channels.
        kernel: odd sizes in height and width.
        bias: one value an output channel.
        padding: zeros, or the image mirrored about its border pixels.
        activation: applied last.
        implementation: see :data:`pallas_kernels.Implementation`.

    Raises:
        ValueError: for an even kernel size, channels that do not fit, or an image too small to
            be mirrored.
    """
    arrays = as_tuple(inputs)
    check_channels(arrays, kernel, rank=4)
    if any(size % 2 == 0 for size in kernel.shape[:2]):
        raise ValueError(f"the kernel spans {kernel.shape[:2]}; sizes must be odd.")
    reach = max(kernel.shape[:2]) // 2
    if padding == "reflect" and min(arrays[0].shape[1:3]) <= reach:
        raise ValueError(
            f"images of {arrays[0].shape[1:3]} pixels cannot be mirrored by {reach}; "
            f"they must be larger than {reach} in height and width."
        )
    run = _dispatch.choose("conv2d", IMPLEMENTATIONS, implementation)
    return run(arrays, kernel, bias, padding, activation)
