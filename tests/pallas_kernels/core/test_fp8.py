# SPDX-License-Identifier: Apache-2.0
"""Operations on numbers of 8 bits against float64 sums of the same stored numbers."""

import contextlib

import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels import FeatureMap
from pallas_kernels.core import device
from pallas_kernels.core.fp8 import E4M3, LARGEST, quantize
from tests.pallas_kernels.oracles import (
    draw,
    leaky_relu,
    needs_interpreter,
    oracle_conv3d,
    oracle_conv3d_transpose,
    rounded,
)

IMPLEMENTATIONS = ["xla", "reference", pytest.param("mosaic_gpu", marks=needs_interpreter)]
OF_SUMS = 2**-8  # Hopper's tensor cores keep about 14 bits of sums of products of 8 bits
on_a_gpu = pytest.mark.skipif(device.why_not() is not None, reason="needs a Hopper GPU")
HALF_A_UNIT = 2**-4  # of the last place of a number with three bits of mantissa, relative to it
SMALLEST = 2**-9  # what e4m3 holds above zero


def stored(array, scale):
    """A feature map in 8 bits, and what it stands for in float64."""
    values = quantize(jnp.asarray(array, jnp.float32), scale)
    return FeatureMap(values, None, jnp.float32(scale)), np.asarray(values, np.float64) * scale


def kernel_for(array, *scales, out_scale=None, channels=None):
    """A quantised kernel for inputs of these scales, and what it stands for in float64."""
    each = channels or array.shape[-2] // len(scales)
    in_scales = jnp.repeat(jnp.asarray(scales, jnp.float32), jnp.asarray(each))
    kernel = pk.quantize_kernel(jnp.asarray(array, jnp.float32), in_scales, out_scale)
    values = np.swapaxes(np.asarray(kernel.values, np.float64), -1, -2)
    values = values * np.asarray(kernel.scales, np.float64)
    return kernel, values / np.asarray(in_scales, np.float64)[:, None]


def run(operation, implementation, *arguments, **options):
    interpreted = pk.interpret() if implementation == "mosaic_gpu" else contextlib.nullcontext()
    with interpreted:
        return operation(*arguments, implementation=implementation, **options)


def assert_stored(actual, expected, relative=1e-3, of_largest=1e-5):
    """Rounded to the nearest number there is; the rest is how exact the sums themselves are."""
    assert actual.values.dtype == E4M3
    assert actual.values.shape == expected.shape
    scale = float(actual.scale)
    error = np.abs(np.asarray(actual.values, np.float64) * scale - expected)
    allowed = (HALF_A_UNIT + relative) * np.abs(expected) + SMALLEST / 2 * scale
    assert (error <= allowed + of_largest * np.abs(expected).max()).all()


def assert_close(actual, expected, of_largest=2**-8):
    assert actual.values.dtype == jnp.bfloat16
    assert actual.scale is None
    error = np.abs(np.asarray(actual.values, np.float64) - expected).max()
    assert error < of_largest * np.abs(expected).max()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("time", "size", "pixels", "stride", "channels"),
    [
        (4, (3, 3, 3), (9, 7), (1, 1, 1), 64),
        (2, (3, 3, 3), (6, 10), (1, 2, 2), 32),
        (1, (1, 1, 1), (5, 8), (1, 2, 2), 96),
    ],
)
def test_conv3d_multiplies_and_stores_8_bits(implementation, time, size, pixels, stride, channels):
    x, x64 = stored(draw(1, time, *pixels, 32), 0.02)
    kernel, kernel64 = kernel_for(draw(*size, 32, channels, seed=1), 0.02, out_scale=0.3)
    bias, bias64 = rounded(draw(channels, seed=2))
    actual = run(pk.conv3d, implementation, x, kernel, bias, stride=stride, activation="relu")
    assert_stored(actual, np.maximum(oracle_conv3d(x64, kernel64, stride) + bias64, 0))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("out_scale", "channels"), [(0.5, 128), (None, 64)])
def test_gated_conv3d_adds_a_residual_of_another_scale(implementation, out_scale, channels):
    x, x64 = stored(draw(2, 2, 5, 6, channels), 0.01)
    residual, residual64 = stored(draw(2, 2, 5, 6, channels, seed=1) * 20, 0.4)
    array = draw(3, 3, 3, channels, channels, seed=2)
    kernel, kernel64 = kernel_for(array, 0.01, out_scale=out_scale)
    bias, bias64 = rounded(draw(channels, seed=3))
    gate, gate64 = rounded(draw(channels, channels, seed=4) / channels)
    shift, shift64 = rounded(draw(channels, seed=5))
    sums = oracle_conv3d(x64, kernel64) + bias64
    scale = 1 / (1 + np.exp(-(sums.mean(axis=(1, 2, 3)) @ gate64 + shift64)))
    expected = np.maximum(sums * scale[:, None, None, None] + residual64, 0)
    actual = run(
        pk.gated_conv3d,
        implementation,
        x,
        kernel,
        bias,
        gate,
        shift,
        residual=residual,
        activation="relu",
        with_totals=True,
    )
    if out_scale is None:
        assert_close(actual, expected)
    else:  # the gate is of 16-bit numbers, and what it scales may nearly cancel the residual
        assert_stored(actual, expected, of_largest=2**-8)
    if actual.totals is not None:
        totals = np.asarray(actual.totals, np.float64).sum(axis=2) * (out_scale or 1)
        assert np.abs(totals - expected.sum(axis=(2, 3))).max() < 1e-2 * totals.max()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("channels", [(64, 64), (64, 32)])
def test_a_transposed_convolution_joins_inputs_of_two_scales(implementation, channels):
    x, x64 = stored(draw(1, 2, 3, 5, channels[0]), 0.01)
    y, y64 = stored(draw(1, 2, 3, 5, channels[1], seed=1) * 30, 0.5)
    array = draw(3, 4, 4, sum(channels), 32, seed=2)
    array[..., channels[0] :, :] /= 30
    kernel, kernel64 = kernel_for(array, 0.01, 0.5, out_scale=0.2, channels=channels)
    gate, gate64 = rounded(draw(32, 32, seed=3) / 6)
    zeros = jnp.zeros(32, jnp.bfloat16)
    sums = oracle_conv3d_transpose(np.concatenate([x64, y64], axis=-1), kernel64)
    scale = 1 / (1 + np.exp(-(sums.mean(axis=(1, 2, 3)) @ gate64)))
    actual = run(
        pk.gated_conv3d_transpose,
        implementation,
        (x, y),
        kernel,
        zeros,
        gate,
        zeros,
        activation="leaky_relu",
    )
    expected = leaky_relu(sums * scale[:, None, None, None])
    assert_stored(actual, expected, relative=2**-7)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_stem_of_16_bits_stores_8(implementation):
    x, x64 = rounded(draw(1, 2, 12, 10, 3))
    array, array64 = rounded(draw(3, 7, 7, 3, 64, seed=1))
    kernel = pk.quantize_kernel(array, None, 0.25)
    actual = run(pk.conv3d, implementation, x, kernel, stride=(1, 2, 2), activation="relu")
    assert_stored(actual, np.maximum(oracle_conv3d(x64, array64, (1, 2, 2)), 0))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_products_of_16_bits_take_what_8_bits_stand_for(implementation):
    x, x64 = stored(draw(1, 2, 5, 6, 32), 0.02)
    array, array64 = rounded(draw(3, 3, 3, 32, 32, seed=1))
    # A scale that is a power of two makes the map exact in bfloat16; this one rounds it.
    exact = np.asarray(jnp.asarray(x64, jnp.bfloat16), np.float64)
    actual = run(pk.conv3d, implementation, x, array)
    assert_close(actual, oracle_conv3d(exact, array64))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_is_too_large_becomes_the_largest_number(implementation):
    x, x64 = stored(100 * draw(1, 2, 4, 6, 32), 1.0)
    kernel, kernel64 = kernel_for(draw(3, 3, 3, 32, 64, seed=1), 1.0, out_scale=1e-6)
    actual = run(pk.conv3d, implementation, x, kernel)
    sums = oracle_conv3d(x64, kernel64)
    assert (np.asarray(actual.values, np.float64) == np.sign(sums) * LARGEST).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_zeros_stay_zeros(implementation):
    x = FeatureMap(jnp.zeros((1, 2, 4, 6, 32), E4M3), None, jnp.float32(0.1))
    kernel, _ = kernel_for(draw(3, 3, 3, 32, 32), 0.1, out_scale=0.1)
    gate = jnp.ones((32, 32), jnp.bfloat16), jnp.zeros(32, jnp.bfloat16)
    actual = run(pk.gated_conv3d, implementation, x, kernel, None, *gate)
    assert (np.asarray(actual.values, np.float32) == 0).all()


def test_an_output_channel_without_weights_is_zero():
    array = draw(3, 3, 3, 32, 32)
    array[..., 7] = 0
    kernel, kernel64 = kernel_for(array, 0.1)
    assert np.isfinite(np.asarray(kernel.scales)).all()
    assert (kernel64[..., 7] == 0).all()
    assert np.abs(kernel64 - array).max() < HALF_A_UNIT * np.abs(array).max()


def test_a_residual_of_16_bits_is_refused_by_products_of_8():
    x, _ = stored(draw(1, 2, 4, 6, 32), 0.1)
    kernel, _ = kernel_for(draw(3, 3, 3, 32, 32), 0.1)
    with pytest.raises(ValueError, match="residual is bfloat16"):
        pk.conv3d(x, kernel, residual=jnp.zeros((1, 2, 4, 6, 32), jnp.bfloat16))


def test_a_stem_whose_output_fills_no_row_is_refused_by_the_kernels():
    kernel = pk.quantize_kernel(jnp.asarray(draw(3, 7, 7, 3, 16), jnp.bfloat16), None, 0.1)
    x = jnp.zeros((1, 2, 8, 8, 3), jnp.bfloat16)
    with pk.interpret(), pytest.raises(NotImplementedError, match="multiples of 32"):
        pk.conv3d(x, kernel, stride=(1, 2, 2), implementation="mosaic_gpu")


def test_channels_that_fill_no_row_are_refused_by_the_kernels_alone():
    x, x64 = stored(draw(1, 2, 4, 6, 16), 0.1)
    kernel, kernel64 = kernel_for(draw(3, 3, 3, 16, 16), 0.1, out_scale=0.5)
    with pk.interpret(), pytest.raises(NotImplementedError, match="multiples of 32"):
        pk.conv3d(x, kernel, implementation="mosaic_gpu")
    assert_stored(pk.conv3d(x, kernel), oracle_conv3d(x64, kernel64))


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("pixels", [(1, 1), (9, 21), (33, 70)])
@pytest.mark.parametrize("channels", [(32, 32), (64, 64), (64, 128), (256, 512)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_gpu_stores_what_the_definition_does(pixels, channels, stride):
    x, x64 = stored(draw(2, 4, *pixels, channels[0]), 0.01)
    array = draw(3, 3, 3, *channels, seed=1)
    sums = oracle_conv3d(x64, kernel_for(array, 0.01)[1], (1, stride, stride))
    residual, residual64 = stored(draw(*sums.shape, seed=2) * 20, 0.4)
    for out_scale in (1.0, None):
        kernel, _ = kernel_for(array, 0.01, out_scale=out_scale)
        actual = pk.conv3d(
            x,
            kernel,
            stride=(1, stride, stride),
            residual=residual,
            activation="relu",
            with_totals=True,
            implementation="mosaic_gpu",
        )
        expected = np.maximum(sums + residual64, 0)
        if out_scale is None:
            assert_close(actual, expected, of_largest=2**-8 + OF_SUMS)
        else:
            assert_stored(actual, expected, of_largest=OF_SUMS)
        totals = np.asarray(actual.totals, np.float64).sum(axis=2)
        assert np.abs(totals - expected.sum(axis=(2, 3))).max() < 4e-3 * totals.max() + 1e-3


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("pixels", [(1, 1), (9, 21), (32, 56)])
@pytest.mark.parametrize("channels", [32, 64, 128])
def test_gates_on_a_gpu_scale_what_is_stored(pixels, channels):
    x, x64 = stored(draw(2, 4, *pixels, channels), 0.01)
    y, y64 = stored(draw(2, 4, *pixels, channels, seed=1) * 9, 0.1)
    gate, gate64 = rounded(draw(64, 64, seed=2) / 64)
    zeros = jnp.zeros(64, jnp.bfloat16)
    joined = np.concatenate([x64, y64], axis=-1)
    for operation, oracle, size in (
        (pk.gated_conv3d, oracle_conv3d, (3, 3, 3)),
        (pk.gated_conv3d_transpose, oracle_conv3d_transpose, (3, 4, 4)),
    ):
        array = draw(*size, 2 * channels, 64, seed=3) / channels
        kernel, kernel64 = kernel_for(array, 0.01, 0.1, out_scale=0.5)
        sums = oracle(joined, kernel64)
        scale = 1 / (1 + np.exp(-(sums.mean(axis=(1, 2, 3)) @ gate64)))
        actual = operation(
            (x, y), kernel, zeros, gate, zeros, activation="leaky_relu", implementation="mosaic_gpu"
        )
        expected = leaky_relu(sums * scale[:, None, None, None])
        assert_stored(actual, expected, relative=2**-6, of_largest=OF_SUMS)
