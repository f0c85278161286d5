# SPDX-License-Identifier: Apache-2.0
"""Operations in float64 NumPy, written from their definitions: what implementations must match."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

needs_interpreter = pytest.mark.skipif(
    not hasattr(plgpu, "InterpretGPUParams"), reason="needs jax ≥ 0.11, and so Python ≥ 3.12"
)
# Of the largest value: half a unit in the last place of the output (8 or 11 bits), and as much
# again for what rounding a large sum costs a small one.
TOLERANCE = {"bfloat16": 2**-8, "float16": 2**-11}


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


def leaky_relu(x):
    return np.where(x >= 0, x, 0.2 * x)
