# SPDX-License-Identifier: Apache-2.0
"""Operations in float64 NumPy, written from their definitions: what implementations must match."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.core.epilogue import finish

needs_interpreter = pytest.mark.skipif(
    not hasattr(plgpu, "InterpretGPUParams"), reason="needs jax ≥ 0.11, and so Python ≥ 3.12"
)
# Of the largest value: half a unit in the last place of the output (8 or 11 bits), and as much
# again for what rounding a large sum costs a small one.
TOLERANCE = {"bfloat16": 2**-8, "float16": 2**-11}


def assert_slopes(loss, given):
    """Compare the gradients of a sum, in all its arguments, with differences of its values."""
    with jax.enable_x64(True):
        gradients = jax.jit(jax.grad(loss, tuple(range(len(given)))))(*map(jnp.asarray, given))
        value = jax.jit(loss)
        for place, (array, gradient) in enumerate(zip(given, gradients)):
            way = np.random.default_rng(place).normal(size=array.shape)
            ends = [[*given[:place], array + n * way, *given[place + 1 :]] for n in (1e-6, -1e-6)]
            slope = (value(*ends[0]) - value(*ends[1])) / 2e-6
            assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=1e-4)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def rounded(array, dtype="bfloat16"):
    """An array of the type, and what it holds in float64."""
    array = jnp.asarray(array, dtype)
    return array, np.asarray(array, np.float64)


def assert_close(actual, expected, float32=1e-6):
    assert actual.shape == expected.shape
    error = np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max()
    assert error < {**TOLERANCE, "float32": float32}[actual.dtype.name]


def oracle_conv3d(x, kernel, stride=(1, 1, 1)):
    """Sum over taps of the padded, strided input, in float64."""
    kt, kh, kw = kernel.shape[:3]
    padded = np.pad(x, ((0, 0), *((k // 2, k // 2) for k in (kt, kh, kw)), (0, 0)))
    sizes = [(n + 2 * (k // 2) - k) // s + 1 for n, k, s in zip(x.shape[1:4], (kt, kh, kw), stride)]
    sums = np.zeros((x.shape[0], *sizes, kernel.shape[-1]))
    for t in range(kt):
        for i in range(kh):
            for j in range(kw):
                window = padded[
                    :,
                    t : t + sizes[0],
                    i : i + (sizes[1] - 1) * stride[1] + 1 : stride[1],
                    j : j + (sizes[2] - 1) * stride[2] + 1 : stride[2],
                ]
                sums += window @ kernel[t, i, j]
    return sums


def oracle_conv3d_transpose(x, kernel):
    """PyTorch's definition: every pixel adds its kernel to the output around 2·position − 1."""
    batch, time, height, width, _ = x.shape
    torch_kernel = kernel[::-1, ::-1, ::-1]
    sums = np.zeros((batch, time + 2, 2 * height + 2, 2 * width + 2, kernel.shape[-1]))
    for t in range(3):
        for i in range(4):
            for j in range(4):
                sums[:, t : t + time, i : i + 2 * height : 2, j : j + 2 * width : 2] += (
                    x @ torch_kernel[t, i, j]
                )
    return sums[:, 1:-1, 1:-1, 1:-1]


def oracle_gate(x, kernel, bias):
    mean = x.mean(axis=(1, 2, 3))
    return x / (1 + np.exp(-(mean @ kernel + bias)))[:, None, None, None]


def oracle_sample(images, displacements, weights):
    """One pixel of one image after another: four neighbours, clamped to the border."""
    height, width = weights.shape[-2:]
    total = np.zeros((*weights.shape[:2], height, width, images.shape[-1]))
    for b, o, s, row, column in np.ndindex(*weights.shape):
        dx, dy = displacements[b, o, s, row, column]
        x, y = min(max(column + dx, 0), width - 1), min(max(row + dy, 0), height - 1)
        left, top = min(math.floor(x), width - 1), min(math.floor(y), height - 1)
        right, below = min(left + 1, width - 1), min(top + 1, height - 1)
        image, across, down = images[b, s], x - left, y - top
        upper = image[top, left] * (1 - across) + image[top, right] * across
        lower = image[below, left] * (1 - across) + image[below, right] * across
        total[b, o, row, column] += weights[b, o, s, row, column] * (
            upper * (1 - down) + lower * down
        )
    return total


def leaky_relu(x):
    return np.where(x >= 0, x, 0.2 * x)


def oracle_geometry(inputs, weights, geometry, size):
    """What a geometry means: taps from ``low`` before the picture on, zeros around it."""
    x = jnp.concatenate(inputs, axis=-1)
    kernel, low, phases = geometry.kernel, geometry.low, (1, geometry.phases, geometry.phases)
    strides = (1, geometry.stride, geometry.stride)
    # Between the pixels of a transposed convolution are zeros; its phases read every second tap.
    before = [phase * first for phase, first in zip(phases, low)]
    wide = [(have - 1) * phase + 1 for have, phase in zip(x.shape[1:4], phases)]
    out = [count * phase for count, phase in zip(size, phases)]
    padding = [
        (first, (count - 1) * stride + taps - first - have)
        for first, count, stride, taps, have in zip(before, out, strides, kernel, wide)
    ]
    return lax.conv_general_dilated(
        x,
        weights,
        strides,
        padding,
        lhs_dilation=phases,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        preferred_element_type=jnp.float32,
    )


def gemm_without_kernel(
    inputs,
    weights,
    geometry,
    size,
    *,
    scale=None,
    offset=None,
    residual=None,
    residual_scale=None,
    **options,
):
    """:func:`implicit_gemm` as a convolution of lax, in float32."""
    out_dtype = inputs[0].dtype
    if weights.dtype.itemsize == 1:  # 8-bit weights are [out, in], and lax has no sums of them
        inputs = tuple(x.astype(jnp.float32) for x in inputs)
        weights = jnp.swapaxes(weights, -1, -2).astype(jnp.float32)
    sums = oracle_geometry(inputs, weights, geometry, size)
    if offset is not None:
        sums = sums if scale is None else sums * scale[:, None, None, None]
        sums, scale = sums + offset[:, None, None, None], None
    added = None if residual is None else residual.astype(jnp.float32)
    if residual_scale is not None:
        added = added * residual_scale
    sums = finish(sums, scale=scale, residual=added, activation=options.get("activation"))
    totals = sums.sum(axis=(2, 3))[:, :, None] if options.get("totals") else None
    return sums.astype(options.get("out_dtype") or out_dtype), totals


def oracle_fields(fields, scale):
    """Fields enlarged by linear interpolation between pixel centres, in float64."""
    for axis in (2, 3):
        length = fields.shape[axis]
        place = np.clip((np.arange(length * scale) + 0.5) / scale - 0.5, 0, length - 1)
        first = np.minimum(place.astype(int), max(length - 2, 0))
        share = (place - first).reshape([-1 if a == axis else 1 for a in range(fields.ndim)])
        second = np.minimum(first + 1, length - 1)
        fields = fields.take(first, axis) * (1 - share) + fields.take(second, axis) * share
    return fields
