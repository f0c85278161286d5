# SPDX-License-Identifier: Apache-2.0
"""3-D convolution over time, height and width with a fused epilogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from jax import Array
from jaxtyping import Float

from pallas_kernels.conv3d import mosaic_gpu, reference, xla
from pallas_kernels.core import dispatch
from pallas_kernels.core.arguments import Conv3dArguments, ConvArguments, on_arrays
from pallas_kernels.core.dispatch import Candidate, Implementation
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.feature_map import (
    FeatureMap,
    Inputs,
    as_maps,
    check_channels,
    for_kernel,
)
from pallas_kernels.core.fp8 import QuantizedKernel
from pallas_kernels.core.int8 import Int8Kernel, in_int8

__all__ = ["PackedKernel", "conv3d", "pack_kernel", "unless_packed"]

PackedKernel: TypeAlias = xla.TapsAtPoints | Int8Kernel
"""A kernel that :func:`pack_kernel` rearranged once, which saves the work in every call."""

SomeArguments = TypeVar("SomeArguments", bound=ConvArguments)


def unless_packed(
    why_not: Callable[[SomeArguments], str | None] | None = None,
) -> Callable[[SomeArguments], str | None]:
    """Extend ``why_not`` of an implementation so that it refuses packed kernels."""

    def check(arguments: SomeArguments) -> str | None:
        # A packed kernel holds Winograd-transformed values or int8, which only the XLA form uses.
        if isinstance(arguments.kernel, PackedKernel):
            return "the kernel was packed for XLA on a CPU"
        return why_not(arguments) if why_not else None

    return check


IMPLEMENTATIONS: dict[Implementation, Candidate[Conv3dArguments, FeatureMap]] = {
    "mosaic_gpu": Candidate(mosaic_gpu.conv3d, unless_packed(mosaic_gpu.why_not)),
    "xla": Candidate(on_arrays(xla.conv3d)),
    "reference": Candidate(on_arrays(reference.conv3d), unless_packed()),
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
        inputs: ``[batch, time, height, width, channel]``, or a tuple of such arrays or feature
            maps, which is convolved as if concatenated along the channels.
        kernel: odd sizes in height and width, and also in time if that is padded. As usual in
            neural networks, it is not flipped. It may be packed or quantised.
        bias: one value per output channel.
        stride: (1, 1, 1) or (1, 2, 2); a stride of 2 halves the size, rounded up.
        pad_time: whether to pad time as well, so that the output has as many frames as the input;
            otherwise it has ``kt − 1`` fewer.
        scale: one factor per sample and output channel.
        residual: added after the scale; of the output's shape.
        activation: applied last.
        with_totals: also return channel totals if the implementation computes them. A gated
            convolution of the output then needs one pass less over it.
        implementation: see :data:`pallas_kernels.Implementation`.

    Returns:
        The output as ``values``, and ``totals`` or None.

    Raises:
        ValueError: a kernel size is even, the stride is another one, or channels do not match.
        NotImplementedError: the named implementation cannot run here.
    """
    maps = as_maps(inputs)
    _check(maps, kernel, stride, pad_time)
    maps, residual = for_kernel(maps, residual, kernel)
    arguments = Conv3dArguments(
        inputs=maps,
        kernel=kernel,
        bias=bias,
        stride=stride,
        pad_time=pad_time,
        scale=scale,
        residual=residual,
        activation=activation,
        with_totals=with_totals,
    )
    return dispatch.call("conv3d", IMPLEMENTATIONS, implementation, arguments)


def _check(
    inputs: tuple[FeatureMap, ...],
    kernel: Array | PackedKernel | QuantizedKernel,
    stride: tuple[int, int, int],
    pad_time: bool,
) -> None:
    """Raise the ValueErrors of :func:`conv3d`."""
    check_channels(inputs, kernel, rank=5)
    # Without temporal padding, a kernel may span any number of frames, even or odd.
    padded = kernel.shape[0 if pad_time else 1 : 3]
    if any(size % 2 == 0 for size in padded):
        raise ValueError(
            f"the kernel spans {kernel.shape[:3]}; sizes must be odd, so that a padding of "
            "kernel // 2 keeps the frame's size."
        )
    frames = inputs[0].values.shape[1]
    if not pad_time and kernel.shape[0] > frames:
        raise ValueError(
            f"the kernel spans {kernel.shape[0]} frames, but the inputs have only {frames}; use a "
            "shorter one or `pad_time`."
        )
    if stride not in ((1, 1, 1), (1, 2, 2)):
        raise ValueError(f"`stride` is {stride}; (1, 1, 1) and (1, 2, 2) are supported.")


def pack_kernel(
    kernel: Float[Array, "*size in_channel channel"],
    frames: int,
    *,
    with_int8: bool = False,
    implementation: Implementation | None = None,
) -> Float[Array, "*size in_channel channel"] | PackedKernel:
    """Rearrange a kernel for this device once, instead of in every call.

    Packed kernels work in :func:`conv3d` with temporal padding, ``gated_conv3d`` and
    ``gated_conv3d_transpose``. Use this for parameters that do not change, and outside ``jit``.

    Args:
        kernel: kernel of any of these operations; with ``with_int8``, also of ``conv2d``.
        frames: number of frames of the inputs in later calls.
        with_int8: multiply in int8, which is less exact. CPUs with VNNI or AMX do so several times
            faster than in float32. It applies to kernels that span more than one pixel.
        implementation: the name that later calls will pass.

    Returns:
        A packed kernel, or the kernel itself if there is nothing to rearrange.
    """
    if implementation not in (None, "xla"):
        return kernel
    if with_int8 and max(kernel.shape[-4:-2]) > 1:
        return in_int8(kernel)
    return xla.pack_kernel(kernel, frames) if kernel.ndim == 5 else kernel
