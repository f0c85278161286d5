# SPDX-License-Identifier: Apache-2.0
"""Feature maps, the epilogue and the checks of arguments that all operations share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.core.epilogue import LEAKY_SLOPE, finish
from pallas_kernels.core.feature_map import FeatureMap, as_map, as_maps, check_channels, for_kernel
from pallas_kernels.core.fp8 import E4M3
from tests.pallas_kernels.oracles import draw

SHAPE = (2, 3, 4, 5, 6)


def ones(*shape, dtype=jnp.float32):
    return jnp.ones(shape, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("activation", "below"), [(None, -2.0), ("relu", 0.0), ("leaky_relu", -0.4)]
)
def test_an_activation_keeps_positive_numbers_and_the_type(activation, below, dtype):
    out = pk.activate(jnp.asarray([-2.0, 0.0, 3.0], dtype), activation)
    assert out.dtype == dtype
    assert np.asarray(out, np.float64) == pytest.approx([below, 0, 3], rel=2**-8)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_an_activation_commutes_with_a_positive_factor(activation, factor):
    # The kernels rely on it: they apply the scale of an 8-bit output before the activation.
    x = jnp.asarray([-2.0, -0.25, 0.0, 1.5])
    assert (pk.activate(factor * x, activation) == factor * pk.activate(x, activation)).all()


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leaky_relu", LEAKY_SLOPE)])
def test_an_activation_has_the_slope_of_its_sign(activation, slope):
    gradient = jax.vmap(jax.grad(lambda x: pk.activate(x, activation)))
    assert gradient(jnp.asarray([-3.0, 3.0])).tolist() == pytest.approx([slope, 1.0])


@pytest.mark.parametrize("inner", [(), (3,), (3, 4), (2, 3, 4)])
def test_the_epilogue_adds_scales_adds_and_activates_in_this_order(inner):
    sums, residual = draw(2, *inner, 5), draw(2, *inner, 5, seed=1)
    bias, scale = draw(5, seed=2), draw(2, 5, seed=3)
    arrays = (jnp.asarray(a, jnp.float32) for a in (sums, bias, scale, residual))
    actual = finish(*arrays, activation="relu")
    expected = np.empty_like(sums)
    for sample in range(2):
        for channel in range(5):
            at = (sample, ..., channel)
            scaled = (sums[at] + bias[channel]) * scale[sample, channel]
            expected[at] = np.maximum(scaled + residual[at], 0)
    assert np.asarray(actual) == pytest.approx(expected, abs=1e-5)


def test_an_epilogue_of_nothing_returns_the_sums():
    sums = ones(*SHAPE)
    assert finish(sums) is sums


def test_values_are_rounded_once_and_after_scaling():
    numbers = jnp.arange(1, 16, dtype=jnp.float32).reshape(1, 1, 1, 3, 5)
    stored = FeatureMap(numbers.astype(E4M3), None, jnp.float32(0.3))
    exact = (np.arange(1, 16) * np.float64(np.float32(0.3))).reshape(numbers.shape)
    expected = jnp.asarray(exact, jnp.bfloat16)
    assert (stored.in_units().values == expected).all()
    # A scale that is rounded to bfloat16 as well would give other numbers.
    assert (numbers.astype(jnp.bfloat16) * jnp.bfloat16(0.3) != expected).any()


def test_a_map_without_a_scale_is_in_units_already():
    plain = FeatureMap(ones(*SHAPE), ones(2, 3, 1, 6))
    assert plain.in_units() is plain
    assert plain.in_units(jnp.bfloat16).values.dtype == jnp.float32


def test_a_function_sees_the_values_in_units_and_totals_are_dropped():
    stored = FeatureMap(ones(*SHAPE), ones(2, 3, 1, 6), jnp.float32(4.0))
    mapped = stored.map(lambda values: values + 1)
    assert (mapped.values == 5).all()
    assert (mapped.totals, mapped.scale) == (None, None)


def test_one_array_and_a_tuple_of_it_are_the_same_inputs():
    x = ones(*SHAPE)
    maps = [as_maps(given) for given in (x, (x,), FeatureMap(x), (FeatureMap(x),))]
    assert all(len(each) == 1 and each[0].values is x for each in maps)
    assert as_map(maps[0][0]) is maps[0][0]  # totals and scale are not lost


def test_a_feature_map_is_one_input_although_it_is_a_tuple():
    (only,) = as_maps(FeatureMap(ones(*SHAPE), ones(2, 3, 1, 6)))
    assert only.totals is not None


@pytest.mark.parametrize(
    ("shapes", "kernel", "message"),
    [
        ([(1, 4, 4, 3)], (3, 3, 3, 3, 2), r"they must be 5-dimensional"),
        ([(1, 2, 4, 4, 3), (1, 2, 4, 5, 3)], (3, 3, 3, 6, 2), "agree in every axis but the last"),
        ([(1, 2, 4, 4, 3), (2, 2, 4, 4, 3)], (3, 3, 3, 6, 2), "agree in every axis but the last"),
        ([(1, 2, 4, 4, 3)], (3, 3, 3, 2, 3), r"\(3, 3, 3, 2, 3\), but the inputs have 3 channels"),
        ([(1, 2, 4, 4, 3)], (3, 3, 3, 2), "must be 5-dimensional with 3 as its last axis but one"),
        ([(1, 2, 4, 4, 3)] * 3, (1, 1, 1, 3, 2), "the inputs have 9 channels"),
    ],
)
def test_shapes_that_do_not_match_are_named(shapes, kernel, message):
    maps = tuple(FeatureMap(jax.ShapeDtypeStruct(shape, "float32")) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        check_channels(maps, jax.ShapeDtypeStruct(kernel, "float32"), rank=5)


def test_shapes_that_match_pass():
    maps = (FeatureMap(ones(1, 2, 4, 4, 3)), FeatureMap(ones(1, 2, 4, 4, 5)))
    check_channels(maps, ones(3, 3, 3, 8, 2), rank=5)


@pytest.fixture
def eight_bits():
    return FeatureMap(ones(1, 2, 3, 3, 32, dtype=E4M3), None, jnp.float32(0.5))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_plain_kernel_reads_8_bit_maps_in_its_own_type(eight_bits, dtype):
    (x,), added = for_kernel((eight_bits,), eight_bits, ones(1, 1, 1, 32, 4, dtype=dtype))
    assert added is not None
    for each in (x, added):
        assert (each.values.dtype, each.scale) == (dtype, None)
        assert (each.values == 0.5).all()


def test_a_kernel_of_8_bits_reads_stored_numbers(eight_bits):
    kernel = pk.quantize_kernel(ones(1, 1, 1, 32, 4), jnp.full(32, 0.5), None)
    (x,), added = for_kernel((eight_bits,), None, kernel)
    assert x is eight_bits
    assert added is None


def test_a_kernel_that_only_stores_8_bits_reads_16(eight_bits):
    kernel = pk.quantize_kernel(ones(1, 1, 1, 32, 4), None, 0.5)
    (x,), _ = for_kernel((eight_bits,), None, kernel)
    assert (x.values.dtype, x.scale) == (jnp.bfloat16, None)


@pytest.mark.parametrize("which", ["input", "residual"])
def test_16_bits_beside_8_are_refused_with_a_remedy(eight_bits, which):
    kernel = pk.quantize_kernel(ones(1, 1, 1, 64, 4), jnp.ones(64), None)
    half = FeatureMap(ones(1, 2, 3, 3, 32, dtype=jnp.bfloat16))
    inputs = (eight_bits, half) if which == "input" else (eight_bits, eight_bits)
    with pytest.raises(ValueError, match=r"float8_e4m3fn, but .* is bfloat16; quantise it without"):
        for_kernel(inputs, half if which == "residual" else None, kernel)
