# SPDX-License-Identifier: Apache-2.0
"""A gate ahead of its convolution: the same as after it, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.core import device
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.hopper import launch
from pallas_kernels.hopper.gate.kernel import gate_ahead
from tests.pallas_kernels.oracles import (
    draw,
    needs_interpreter,
    oracle_conv3d,
    oracle_conv3d_transpose,
    rounded,
)


def partial_totals(x64, partials):
    """Totals of each frame, split over any pixels: ``[batch, time, partials, channel]``."""
    batch, time, height, width, channels = x64.shape
    sums = np.zeros((batch, time, partials, channels))
    for pixel in range(height * width):
        sums[:, :, pixel % partials] += x64[:, :, pixel // width, pixel % width]
    return jnp.asarray(sums, jnp.float32)


def assert_gate(shape, channels, size, partials):
    """Scale and offset ahead of a convolution against those after it, in float64."""
    *channels, out = channels
    arrays = [rounded(draw(*shape, n, seed=i)) for i, n in enumerate(channels)]
    inputs = tuple(FeatureMap(x, partial_totals(x64, n)) for (x, x64), n in zip(arrays, partials))
    kernel, kernel64 = rounded(draw(*size, sum(channels), out, seed=2) / 4)
    bias, bias64 = rounded(draw(out, seed=3))
    matrix, matrix64 = rounded(draw(out, out, seed=4) / 4)
    shift, shift64 = rounded(draw(out, seed=5))
    transposed = size == (3, 4, 4)
    scale, offset = launch.gate(
        inputs, kernel, bias, (matrix, shift), phases=2 if transposed else 1
    )
    oracle = oracle_conv3d_transpose if transposed else oracle_conv3d
    sums = oracle(np.concatenate([x64 for _, x64 in arrays], axis=-1), kernel64)
    mean = (sums + bias64).mean(axis=(1, 2, 3))
    expected = 1 / (1 + np.exp(-(mean @ matrix64 + shift64)))
    np.testing.assert_allclose(scale, expected, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(offset, expected * bias64, rtol=2e-5, atol=1e-7)


@needs_interpreter
@pytest.mark.parametrize(
    ("shape", "channels", "size", "partials"),
    [
        ((1, 1, 1, 1), (16, 16), (3, 3, 3), (1,)),  # every edge is the same pixel
        ((2, 3, 5, 70), (16, 48, 80), (3, 3, 3), (3, 70)),  # samples, joined inputs, 64 pixels
        ((1, 2, 600, 2), (32, 16), (1, 3, 1), (600,)),  # more lines than a thread block adds up
        ((1, 4, 3, 4), (64, 64, 32), (3, 4, 4), (2, 5)),  # transposed
    ],
)
def test_scale_and_offset_are_those_of_the_gate_after_the_convolution(
    shape, channels, size, partials
):
    with pk.interpret():
        assert_gate(shape, channels, size, partials)


@pytest.mark.gpu
@pytest.mark.skipif(device.why_not() is not None, reason="needs a Hopper GPU")
@pytest.mark.parametrize("pixels", [(1, 1), (2, 130), (65, 3), (33, 56)])
@pytest.mark.parametrize("size", [(3, 3, 3), (1, 3, 1), (3, 4, 4)])
@pytest.mark.parametrize(
    ("channels", "partials"),
    [
        ((16, 16), (1,)),
        ((64, 64), (600,)),
        ((48, 16, 80), (7, 1100)),
        ((128, 128, 64), (64, 2)),
        ((256, 320), (28,)),
    ],
)
def test_scale_and_offset_on_a_gpu(pixels, channels, size, partials):
    assert_gate((2, 4, *pixels), channels, size, partials)


@needs_interpreter
def test_without_bias_there_is_no_offset():
    x, kernel, matrix, shift = (
        jnp.ones(shape, jnp.bfloat16)
        for shape in ((1, 1, 2, 2, 16), (1, 1, 1, 16, 16), (16, 16), 16)
    )
    with pk.interpret():
        affine = gate_ahead(
            (x,), (4 * x[:, :, 0, :1].astype(jnp.float32),), kernel, None, (matrix / 256, shift)
        )
    np.testing.assert_allclose(affine[0, 0], 1 / (1 + np.exp(-2.0)), rtol=1e-6)  # 16·16/256 + 1
    assert not np.asarray(affine[0, 1]).any()


@needs_interpreter
def test_units_scale_the_gate_and_further_rows_are_passed_through():
    x, x64 = rounded(draw(2, 1, 2, 2, 16))
    kernel, bias, matrix, shift = (
        rounded(draw(*size, seed=seed) / 4)[0]
        for seed, size in enumerate(((1, 1, 1, 16, 32), (32,), (32, 32), (32,)), 1)
    )
    units = jnp.asarray(draw(3, 32, seed=9), jnp.float32)
    with pk.interpret():
        plain, scaled = (
            gate_ahead((x,), (partial_totals(x64, 1),), kernel, bias, (matrix, shift), units=each)
            for each in (None, units)
        )
    assert plain.shape == (2, 2, 32)
    np.testing.assert_allclose(scaled[:, :2], plain * units[:2], rtol=1e-6)
    assert (scaled[:, 2] == units[2]).all()


@pytest.mark.parametrize(
    ("batch", "pixels", "channels", "out", "phases", "partials"),
    [
        (1, (128, 224), (64,), 64, 1, (448,)),
        (1, (32, 56), (512,), 512, 1, (28,)),
        (2, (9, 21), (16, 48), 80, 1, (1, 4)),
        (1, (64, 112), (128, 128), 64, 2, (112, 224)),
    ],
)
def test_the_kernels_lower_for_a_gpu(batch, pixels, channels, out, phases, partials):
    def shape(*size, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(size, dtype)

    size = (3, 3, 3) if phases == 1 else (3, 4, 4)
    arguments = (
        tuple(shape(batch, 4, *pixels, n) for n in channels),
        tuple(shape(batch, 4, s, n, dtype=jnp.float32) for s, n in zip(partials, channels)),
        shape(*size, sum(channels), out),
        shape(out),
        (shape(out, out), shape(out)),
    )
    with pk.assume_hopper():
        traced = jax.jit(gate_ahead, static_argnames="phases").trace(*arguments, phases=phases)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@mosaic_gpu") == 3
