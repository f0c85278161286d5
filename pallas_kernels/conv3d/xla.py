# SPDX-License-Identifier: Apache-2.0
"""conv3d as 2-D convolutions: XLA runs these several times faster than 3-D ones.

The frames under the kernel's temporal taps are stacked along the channels, so that one 2-D
convolution sums over time as well. Output frames whose taps all lie inside the clip share one call.
Each frame at the ends of the clip gets its own call with only the taps that read a frame. With 4
frames this saves the sixth of the products that would multiply zero padding.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.conv3d import winograd
from pallas_kernels.conv3d.winograd import TapsAtPoints
from pallas_kernels.core.epilogue import Activation, finish
from pallas_kernels.core.int8 import Int8Kernel, convolved, sums_of_frames

__all__ = ["TapsAtPoints", "conv3d", "conv_frames", "pack_kernel", "space_to_depth"]

# With fewer channels, a stride of 2 is turned into more channels (space to depth): the 3 channels
# of the stem would leave most of every vector register and tensor-core tile empty.
FEW_CHANNELS = 8


def pack_kernel(kernel: Array, frames: int) -> Array | TapsAtPoints:
    """See :func:`pallas_kernels.pack_kernel`."""
    if kernel.shape[3] < FEW_CHANNELS or not winograd.suits(frames, kernel):
        return kernel
    return winograd.at_points(np.asarray(kernel))  # NumPy, so that nothing is compiled


def conv3d(
    inputs: tuple[Array, ...],
    kernel: Array | TapsAtPoints | Int8Kernel,
    bias: Array | None = None,
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    pad_time: bool = True,
    scale: Array | None = None,
    residual: Array | None = None,
    activation: Activation = None,
) -> Array:
    """See :func:`pallas_kernels.conv3d`."""
    kt, kh, kw = kernel.shape[:3]
    padding = ((kh // 2, kh // 2), (kw // 2, kw // 2))
    if isinstance(kernel, Int8Kernel):
        convolve = functools.partial(conv3d, stride=stride, pad_time=pad_time)
        sums = sums_of_frames(convolve, inputs, kernel)
        return finish(sums, bias, scale, residual, activation)
    if isinstance(kernel, TapsAtPoints):
        if not pad_time:
            raise ValueError("the kernel was packed for `pad_time`; use that, or pass it unpacked.")
        sums = conv_frames(inputs, kernel, stride[1:], padding)
        return finish(sums, bias, scale, residual, activation)
    if not pad_time and (kh, kw) == (1, 1) and stride[1] == 1:
        return finish(_over_time(inputs, kernel[:, 0, 0]), bias, scale, residual, activation)
    # Space to depth gives a convolution of stride 1 with 4 times the channels.
    if stride[1] == 2 and kernel.shape[3] < FEW_CHANNELS:
        inputs, kernel, padding = space_to_depth(inputs, kernel)
        stride = (1, 1, 1)
    if pad_time:
        sums = conv_frames(inputs, kernel, stride[1:], padding)
    else:
        count = inputs[0].shape[1] - kt + 1
        sums = _conv_run(inputs, kernel, 0, count, stride[1:], padding)
    return finish(sums, bias, scale, residual, activation)


def conv_frames(
    inputs: tuple[Array, ...],
    kernel: Array | TapsAtPoints,
    stride: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> Array:
    """3-D convolution with ``kt // 2`` of temporal padding and the given spatial padding."""
    if isinstance(kernel, TapsAtPoints) or winograd.suits(inputs[0].shape[1], kernel):
        return winograd.conv_frames(inputs, kernel, stride, padding)
    time, taps = inputs[0].shape[1], kernel.shape[0]
    reach = taps // 2
    # Frames in the middle of the clip use all taps, so they share one call. Those at the ends use
    # fewer and get one call each.
    runs: list[Array] = []
    frame = 0
    while frame < time:
        first, last = max(frame - reach, 0), min(frame + reach, time - 1)
        inside = last - first == 2 * reach
        count = time - 2 * reach if inside else 1
        tap = first - frame + reach
        runs.append(
            _conv_run(inputs, kernel[tap : tap + last - first + 1], first, count, stride, padding)
        )
        frame += count
    return runs[0] if len(runs) == 1 else jnp.concatenate(runs, axis=1)


def _conv_run(
    inputs: tuple[Array, ...],
    taps: Array,
    first: int,
    count: int,
    stride: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> Array:
    """Compute ``count`` output frames; frame n reads input frames from first + n on."""
    kt, kh, kw, _, channels = taps.shape
    # Tap-major, in the order of the kernel, whose taps are moved before its input channels below.
    stack = [x[:, first + t : first + t + count] for t in range(kt) for x in inputs]
    joined = stack[0] if len(stack) == 1 else jnp.concatenate(stack, axis=-1)
    batch, _, height, width, depth = joined.shape
    out = convolved(
        joined.reshape(batch * count, height, width, depth),
        jnp.moveaxis(taps, 0, 2).reshape(kh, kw, depth, channels),
        stride,
        padding,
    )
    return out.reshape(batch, count, *out.shape[1:])


def _over_time(inputs: tuple[Array, ...], kernel: Array) -> Array:
    """A 1×1 kernel over unpadded time, as a sum of one matrix product per tap and input."""
    count = inputs[0].shape[1] - kernel.shape[0] + 1
    # Concatenating the inputs would copy them.
    sums, start = None, 0
    for x in inputs:
        for tap, weights in enumerate(kernel[:, start : start + x.shape[-1]]):
            product = x[:, tap : tap + count] @ weights
            sums = product if sums is None else sums + product
        start += x.shape[-1]
    assert sums is not None
    return sums


def space_to_depth(
    inputs: tuple[Array, ...], kernel: Array
) -> tuple[tuple[Array, ...], Array, tuple[tuple[int, int], tuple[int, int]]]:
    """A convolution of spatial stride 2 as one of stride 1 on 2×2 blocks of pixels.

    Tap i of the strided kernel reads pixel 2·y + i − pad. Moved by pad % 2, so that pixel pairs
    line up with blocks, it becomes tap (i + pad % 2) // 2 and phase (i + pad % 2) % 2 of a kernel
    on blocks whose low padding is (pad + pad % 2) / 2.
    """
    kt, kh, kw, depth, channels = kernel.shape
    before = [(size // 2) % 2 for size in (kh, kw)]
    after = [(low + size) % 2 for low, size in zip(before, (kh, kw))]
    kernel = jnp.pad(kernel, ((0, 0), *zip(before, after), (0, 0), (0, 0)))
    bh, bw = kernel.shape[1] // 2, kernel.shape[2] // 2
    # [kt, block row, phase, block column, phase, in, out] → phases next to the input channels.
    kernel = kernel.reshape(kt, bh, 2, bw, 2, depth, channels)
    kernel = kernel.transpose(0, 1, 3, 2, 4, 5, 6).reshape(kt, bh, bw, 4 * depth, channels)

    blocks = jnp.concatenate(inputs, axis=-1)
    batch, time, height, width, _ = blocks.shape
    # Fill the block of an odd last row or column with zeros, which are its padding.
    blocks = jnp.pad(blocks, ((0, 0), (0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    height, width = blocks.shape[2] // 2, blocks.shape[3] // 2
    blocks = blocks.reshape(batch, time, height, 2, width, 2, depth)
    blocks = blocks.transpose(0, 1, 2, 4, 3, 5, 6).reshape(batch, time, height, width, 4 * depth)

    low = [(size // 2 + shift) // 2 for shift, size in zip(before, (kh, kw))]
    padding = ((low[0], bh - 1 - low[0]), (low[1], bw - 1 - low[1]))
    return (blocks,), kernel, padding
