# SPDX-License-Identifier: Apache-2.0
"""3-D convolution over time, height and width with a fused epilogue."""

from __future__ import annotations

from jax import Array
from jaxtyping import Float

from pallas_kernels import _dispatch
from pallas_kernels._dispatch import Implementation, Implementations
from pallas_kernels._epilogue import Activation, Inputs, as_tuple, check_channels
from pallas_kernels.conv3d import reference, xla

__all__ = ["conv3d"]

IMPLEMENTATIONS: Implementations = {"xla": xla.conv3d, "reference": reference.conv3d}


def conv3d(
    inputs: Inputs,
    kernel: Float[Array, "kt kh kw in_channel channel"],
    bias: Float[Array, " channel"] | None = None,
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    scale: Float[Array, "batch channel"] | None = None,
    residual: Float[Array, "batch time height width channel"] | None = None,
    activation: Activation = None,
    implementation: Implementation | None = None,
) -> Float[Array, "batch time height width channel"]:
    """``activation((conv(inputs) + bias) · scale + residual)``, zero-padded by ``kernel // 2``.

    Args:
        inputs: ``[batch, time, height, width, channel]``, or a tuple of such arrays that is
            convolved as if joined along the channels.
        kernel: odd sizes in time, height and width; correlation, as in every neural network.
        bias: one value an output channel.
        stride: (1, 1, 1) or (1, 2, 2); a stride of 2 halves the size, rounded up.
        scale: one factor a sample and output channel.
        residual: added after the scale; of the output's shape.
        activation: applied last.
        implementation: see :data:`pallas_kernels.Implementation`.

    Raises:
        ValueError: for an even kernel size, another stride, or channels that do not fit.
    """
    arrays = as_tuple(inputs)
    check_channels(arrays, kernel, rank=5)
    if any(size % 2 == 0 for size in kernel.shape[:3]):
        raise ValueError(
            f"the kernel spans {kernel.shape[:3]}; sizes must be odd, so that a padding of "
            "kernel // 2 keeps the frame's size."
        )
    if stride not in ((1, 1, 1), (1, 2, 2)):
        raise ValueError(f"`stride` is {stride}; (1, 1, 1) and (1, 2, 2) are supported.")
    run = _dispatch.choose("conv3d", IMPLEMENTATIONS, implementation)
    return run(arrays, kernel, bias, stride, scale, residual, activation)
