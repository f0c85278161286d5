# SPDX-License-Identifier: Apache-2.0
"""2-D convolution of images with a fused epilogue."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from pallas_kernels.conv2d import mosaic_gpu, reference, xla
from pallas_kernels.conv3d.api import unless_packed
from pallas_kernels.core import dispatch
from pallas_kernels.core.arguments import Conv2dArguments, Padding, on_arrays
from pallas_kernels.core.dispatch import Candidate, Implementation
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.core.feature_map import FeatureMap, Inputs, as_maps, check_channels
from pallas_kernels.core.int8 import Int8Kernel

__all__ = ["conv2d"]

IMPLEMENTATIONS: dict[Implementation, Candidate[Conv2dArguments, FeatureMap]] = {
    "mosaic_gpu": Candidate(mosaic_gpu.conv2d, unless_packed(mosaic_gpu.why_not)),
    "xla": Candidate(on_arrays(xla.conv2d)),
    "reference": Candidate(on_arrays(reference.conv2d), unless_packed()),
}


def conv2d(
    inputs: Inputs,
    kernel: Float[Array, "kh kw in_channel channel"] | Int8Kernel,
    bias: Float[Array, " channel"] | None = None,
    *,
    padding: Padding = "zeros",
    residual: Float[Array, "samples height width channel"] | None = None,
    activation: Activation = None,
    out_dtype: DTypeLike | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "batch height width channel"]:
    """``activation(conv(inputs) + bias + residual)`` at stride 1, padded by ``kernel // 2``.

    Args:
        inputs: ``[batch, height, width, channel]``, or a tuple of such arrays, which is convolved
            as if concatenated along the channels.
        kernel: odd sizes in height and width; may be packed to multiply in int8.
        bias: one value per output channel.
        padding: zeros, or the image mirrored about its border pixels, which are not repeated.
        residual: an image for each output, or for each run of as many outputs; then it is read for
            each of them and never repeated in memory.
        activation: applied last.
        out_dtype: dtype of the result, to which sums are rounded once; by default the inputs'.
        implementation: see :data:`pallas_kernels.Implementation`.

    Raises:
        ValueError: a kernel size is even, channels do not match, the image is too small to be
            mirrored, or the residual does not fit the output.
        NotImplementedError: the named implementation cannot run here.
    """
    maps = as_maps(inputs)
    check_channels(maps, kernel, rank=4)
    if any(size % 2 == 0 for size in kernel.shape[:2]):
        raise ValueError(f"the kernel spans {kernel.shape[:2]}; sizes must be odd.")
    reach = max(kernel.shape[:2]) // 2
    if padding == "reflect" and min(maps[0].values.shape[1:3]) <= reach:
        raise ValueError(
            f"images of {maps[0].values.shape[1:3]} pixels cannot be mirrored by {reach}; "
            f"they must be larger than {reach} in height and width."
        )
    wanted = (*maps[0].values.shape[:3], kernel.shape[-1])
    if residual is not None and (residual.shape[1:] != wanted[1:] or wanted[0] % residual.shape[0]):
        raise ValueError(
            f"`residual` has the shape {residual.shape}; it must be {wanted}, or have a number of "
            f"images that divides {wanted[0]}."
        )
    arguments = Conv2dArguments(
        inputs=maps,
        kernel=kernel,
        bias=bias,
        padding=padding,
        residual=residual,
        activation=activation,
        out_dtype=jnp.dtype(maps[0].values.dtype if out_dtype is None else out_dtype),
    )
    return dispatch.call("conv2d", IMPLEMENTATIONS, implementation, arguments).values
