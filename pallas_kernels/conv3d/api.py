# SPDX-License-Identifier: Apache-2.0
"""3-D convolution over time, height and width with a fused epilogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from jax import Array
from jaxtyping import Float

from pallas_kernels.conv3d import mosaic_gpu, reference, xla
from pallas_kernels.core import dispatch
from pallas_kernels.core.dispatch import Candidate, Implementation, Implementations
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.feature_map import (
    FeatureMap,
    Inputs,
    as_maps,
    check_channels,
    for_kernel,
    on_values,
)
from pallas_kernels.core.fp8 import QuantizedKernel

__all__ = ["PackedKernel", "conv3d", "pack_kernel", "unless_packed"]

PackedKernel: TypeAlias = xla.TapsAtPoints
"""What :func:`pack_kernel` makes of a kernel that every call would rearrange otherwise."""


def unless_packed(why_not: Callable[..., str | None] | None = None) -> Callable[..., str | None]:
    """``why_not`` of an implementation that takes kernels only as they are."""

    def check(inputs: Any, kernel: Any, *arguments: Any) -> str | None:
        if isinstance(kernel, PackedKernel):
            return "the kernel was packed for XLA on a CPU"
        return why_not(inputs, kernel, *arguments) if why_not else None

    return check


IMPLEMENTATIONS: Implementations = {
    "mosaic_gpu": Candidate(mosaic_gpu.conv3d, unless_packed(mosaic_gpu.why_not)),
    "xla": Candidate(on_values(xla.conv3d)),
    "reference": Candidate(on_values(reference.conv3d), unless_packed()),
}


def conv3d(
    inputs: Inputs,
    kernel: Float[Array, "kt kh kw in_channel channel"] | PackedKernel | QuantizedKernel,
    bias: Float[Array, " channel"] | None = None,
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    pad_time: bool = True,
    scale: Float[Array, "batch channel"] | None = None,
    residual: Float[Array, "batch time height width channel"] | FeatureMap | None = None,
    activation: Activation = None,
    with_totals: bool = False,
    implementation: Implementation | None = None,
) -> FeatureMap:
    """``activation((conv(inputs) + bias) · scale + residual)``, zero-padded by ``kernel // 2``.

    Args:
        inputs: ``[batch, time, height, width, channel]``, or a tuple of such arrays or feature maps
            that is convolved as if joined along the channels.
        kernel: odd sizes in height and width, and in time if that is padded; correlation, as in
            every neural network. It may be packed.
        bias: one value an output channel.
        stride: (1, 1, 1) or (1, 2, 2); a stride of 2 halves the size, rounded up.
        pad_time: whether to pad time as well, so that as many frames come out as go in; otherwise
            ``kt − 1`` fewer do.
        scale: one factor a sample and output channel.
        residual: added after the scale; of the output's shape.
        activation: applied last.
        with_totals: add up the output's channels where that comes for free, for a gate to come.
        implementation: see :data:`pallas_kernels.Implementation`.

    Returns:
        The output as ``values``, and ``totals`` or None.

    Raises:
        ValueError: for an even kernel size, another stride, or channels that do not fit.
        NotImplementedError: the implementation that was named cannot run here.
    """
    maps = as_maps(inputs)
    check_channels(maps, kernel, rank=5)
    padded = kernel.shape[0 if pad_time else 1 : 3]
    if any(size % 2 == 0 for size in padded):
        raise ValueError(
            f"the kernel spans {kernel.shape[:3]}; sizes must be odd, so that a padding of "
            "kernel // 2 keeps the frame's size."
        )
    if not pad_time and kernel.shape[0] > maps[0].values.shape[1]:
        raise ValueError(
            f"the kernel spans {kernel.shape[0]} frames, but the inputs have only "
            f"{maps[0].values.shape[1]}; use a shorter one or `pad_time`."
        )
    if stride not in ((1, 1, 1), (1, 2, 2)):
        raise ValueError(f"`stride` is {stride}; (1, 1, 1) and (1, 2, 2) are supported.")
    maps, residual = for_kernel(maps, residual, kernel)
    return dispatch.call(
        "conv3d",
        IMPLEMENTATIONS,
        implementation,
        maps,
        kernel,
        bias,
        stride,
        pad_time,
        scale,
        residual,
        activation,
        with_totals,
    )


def pack_kernel(
    kernel: Float[Array, "kt kh kw in_channel channel"],
    frames: int,
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "kt kh kw in_channel channel"] | PackedKernel:
    """A kernel in the form that calls on this device multiply by: once, rather than in each call.

    For :func:`conv3d` with temporal padding, ``gated_conv3d`` and ``gated_conv3d_transpose``. Not
    inside ``jit``: it is meant for parameters that stay as they are.

    Args:
        kernel: of any of these operations.
        frames: how many the inputs will have.
        implementation: which the calls will name.

    Returns:
        The kernel itself, where calls take it as it is.
    """
    return xla.pack_kernel(kernel, frames) if implementation in (None, "xla") else kernel
