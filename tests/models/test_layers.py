# SPDX-License-Identifier: Apache-2.0
"""Layers: what their parameters are, and that they compute what their documentation says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flavr_jax.models.layers import (
    Conv2d,
    Conv3d,
    FactorisedConv3d,
    FeatureMap,
    Fusion,
    Gate,
    LayerOptions,
    TransposedConv3d,
    TrilinearConv3d,
    normalise,
    quantize_kernel,
    watching,
    watching_gates,
)
from tests.pallas_kernels.oracles import (
    draw,
    leaky_relu,
    oracle_conv3d,
    oracle_conv3d_transpose,
    oracle_gate,
)


def options(seed=0, **others):
    return LayerOptions(nnx.Rngs(seed), **others)


def float64(parameter):
    return np.asarray(parameter[...], np.float64)


def feature_map(*channels, size=(2, 4, 5, 6)):
    """A float32 map, and its values in float64."""
    values = jnp.asarray(draw(*size, *channels), jnp.float32)
    return FeatureMap(values), np.asarray(values, np.float64)


def halve(layer):
    """Convert a layer's parameters to bfloat16."""
    nnx.update(layer, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.state(layer)))


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(np.asarray(actual) - expected).max() < 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize(("shape", "gain"), [((3, 3, 3, 64, 32), 2.0), ((7, 7, 48, 40), 0.01)])
def test_initial_weights_have_the_variance_of_the_gain_over_the_fan_in(shape, gain):
    kernel = float64(options().kernel(*shape, gain=gain))
    fan_in = np.prod(shape[:-1])
    assert kernel.std() == pytest.approx((gain / fan_in) ** 0.5, rel=0.02)
    assert abs(kernel.mean()) < 0.02 * kernel.std()


def test_initial_weights_keep_the_size_of_features_through_a_layer():
    # He initialisation: behind a ReLU, the mean square is that of the input.
    layer = Conv3d(64, 256, (3, 1, 1), options())
    x = jnp.asarray(draw(1, 16, 8, 8, 64), jnp.float32)
    out = np.asarray(layer(FeatureMap(x), "relu").values)[:, 1:-1]
    assert np.square(out).mean() == pytest.approx(1.0, rel=0.1)


def test_each_parameter_is_drawn_anew_and_the_seed_repeats_all():
    first, again = options(3), options(3)
    drawn = [[float64(each.kernel(2, 3, gain=1.0)) for _ in range(2)] for each in (first, again)]
    assert (drawn[0][0] != drawn[0][1]).all()
    assert (np.asarray(drawn[0]) == np.asarray(drawn[1])).all()


def test_without_a_source_of_random_numbers_weights_are_zeros_of_the_same_shapes():
    empty = Conv3d(3, 4, (3, 7, 7), LayerOptions(None, batch_norm=True))
    drawn = Conv3d(3, 4, (3, 7, 7), options())
    assert empty.kernel[...].shape == drawn.kernel[...].shape
    assert not np.asarray(empty.kernel[...]).any()


@pytest.mark.parametrize(
    ("asked", "without_kernel"), [(None, None), ("xla", "xla"), ("mosaic_gpu", "xla")]
)
def test_operations_without_a_gpu_kernel_take_xla(asked, without_kernel):
    assert LayerOptions(None, implementation=asked).without_kernel == without_kernel
    assert Gate(4, LayerOptions(None, implementation=asked)).implementation == without_kernel


def test_batch_norm_is_off_unless_asked_for_and_uses_running_statistics():
    assert options().norm(4) is None
    norm = options(batch_norm=True).norm(4)
    assert norm is not None
    x, x64 = feature_map(4)
    # Running statistics start at mean 0 and variance 1.
    assert_close(normalise(norm, x).values, x64 / (1 + 1e-5) ** 0.5)
    norm.mean[...] = jnp.full(4, 0.5)
    norm.var[...] = jnp.full(4, 4.0)
    assert_close(normalise(norm, x, "relu").values, np.maximum((x64 - 0.5) / 2, 0))
    assert_close(normalise(None, x, "relu").values, np.maximum(x64, 0))


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2)])
def test_conv3d_is_its_kernel_bias_and_activation(use_bias, stride):
    layer = Conv3d(9, 4, (3, 3, 3), options(), stride=stride, use_bias=use_bias)
    x, x64 = feature_map(9)
    expected = oracle_conv3d(x64, float64(layer.kernel), stride)
    if use_bias:
        assert layer.bias is not None
        layer.bias[...] = jnp.asarray(draw(4, seed=1), jnp.float32)
        expected = expected + float64(layer.bias)
    else:
        assert layer.bias is None
    assert_close(layer(x, "leaky_relu").values, leaky_relu(expected))


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_gated_convolution_scales_by_its_gate_and_adds_the_residual(activation):
    layer, gate = Conv3d(9, 4, (3, 3, 3), options()), Gate(4, options(1))
    gate.bias[...] = jnp.asarray(draw(4, seed=1), jnp.float32)
    (x, x64), (residual, added) = feature_map(9), feature_map(4)
    sums = oracle_conv3d(x64, float64(layer.kernel))
    expected = oracle_gate(sums, float64(gate.kernel), float64(gate.bias)) + added
    expected = expected if activation is None else np.maximum(expected, 0)
    assert_close(layer.gated(x, gate, residual, activation).values, expected)


def test_a_factorised_convolution_is_space_then_relu_then_time():
    layer = FactorisedConv3d(9, 5, 4, 3, options(), stride=(1, 2, 2), use_bias=False)
    x, x64 = feature_map(9)
    space, time = float64(layer.spatial.kernel), float64(layer.temporal.kernel)
    assert (space.shape, time.shape) == ((1, 3, 3, 9, 5), (3, 1, 1, 5, 4))
    between = np.maximum(oracle_conv3d(x64, space, (1, 2, 2)), 0)
    assert_close(layer(x).values, oracle_conv3d(between, time))


def test_a_factorised_convolution_in_16_bits_computes_the_same_with_zeros_between_its_halves():
    layer, gate = FactorisedConv3d(9, 5, 4, 3, options()), Gate(4, options(1))
    layer.spatial.bias = nnx.Param(jnp.asarray(draw(5, seed=1), jnp.float32))
    x, _ = feature_map(9)
    expected = [layer(x).values, layer.gated(x, gate, activation="relu").values]
    halve(layer)
    half = x.map(lambda values: values.astype(jnp.bfloat16))
    assert layer._over_space(half).values.shape[-1] == 16
    for found, wanted in zip((layer(half), layer.gated(half, gate, activation="relu")), expected):
        assert found.values.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.values.astype(jnp.float32), wanted, rtol=0.05, atol=0.05)
    with watching() as calls:  # records have the shapes of the parameters
        layer(half)
    assert calls[0].output.values.shape[-1] == 5


def test_a_transposed_convolution_is_that_of_pytorch_behind_its_gate():
    layer, gate = TransposedConv3d(9, 4, options(), gain=8.0), Gate(4, options(1))
    x, x64 = feature_map(9, size=(1, 4, 3, 5))
    sums = oracle_conv3d_transpose(x64, float64(layer.kernel))
    expected = leaky_relu(oracle_gate(sums, float64(gate.kernel), float64(gate.bias)))
    assert_close(layer.gated(x, gate, "leaky_relu").values, expected)


@pytest.mark.parametrize("kind", [TransposedConv3d, TrilinearConv3d])
def test_both_ways_of_upsampling_keep_the_size_of_features(kind):
    # A gate of zeros is one half, for which the gain of 8 makes up; see decoder.py.
    layer, gate = kind(64, 64, options(), gain=8.0), Gate(64, LayerOptions(None))
    x, _ = feature_map(64, size=(1, 4, 12, 12))
    out = np.asarray(layer.gated(x, gate, "leaky_relu").values)
    assert out.shape == (1, 4, 24, 24, 64)
    inside = out[:, 1:-1, 2:-2, 2:-2]
    # Interpolation averages neighbours, which takes away more than half of white noise's power.
    least, most = (0.8, 1.3) if kind is TransposedConv3d else (0.2, 0.7)
    assert least < np.square(inside).mean() < most


def test_linear_upsampling_keeps_a_ramp_and_mixes_channels():
    layer, gate = TrilinearConv3d(2, 3, options(), gain=1.0), Gate(3, LayerOptions(None))
    ramp = np.arange(8.0)[None, None, None, :, None] * np.ones((1, 2, 4, 1, 2))
    out = layer.gated(FeatureMap(jnp.asarray(ramp, jnp.float32)), gate).values
    # Pixel centres: output column x lies at (x − 1/2) / 2 of the input. The gate of zeros halves.
    columns = (np.arange(16) - 0.5) / 2
    expected = columns[:, None] * float64(layer.kernel)[0, 0, 0].sum(axis=0) / 2
    assert np.asarray(out)[0, 0, 3, 1:-1] == pytest.approx(expected[1:-1], rel=1e-5)


def test_fusion_reads_channels_by_frame_and_then_by_channel():
    layer = Fusion(4, 3, options())
    x, x64 = feature_map(3)
    # As a 1×1 convolution over the frames' channels side by side.
    side_by_side = np.moveaxis(x64, 1, 3).reshape(2, 5, 6, 12)
    expected = side_by_side @ float64(layer.kernel)[0, 0]
    assert_close(layer(x), expected)
    assert_close(layer(x, "leaky_relu"), leaky_relu(expected))


@pytest.mark.parametrize("channels", [[0], [5, 2], [0, 1, 2, 3, 4, 5]])
def test_some_output_channels_are_those_of_all(channels):
    layer = Conv2d(9, 6, 3, options(), padding="reflect")
    assert layer.bias is not None
    layer.bias[...] = jnp.arange(6.0)
    image = feature_map(9)[0].values[:, 0]
    some = layer(image, "relu", channels=np.asarray(channels))
    assert_close(some, np.asarray(layer(image, "relu"))[..., channels])


@pytest.mark.parametrize("out_dtype", [None, "float32"])
def test_conv2d_returns_the_type_that_is_asked_for(out_dtype):
    layer = Conv2d(9, 6, 3, options())
    halve(layer)
    image = feature_map(9)[0].values[:, 0].astype(jnp.bfloat16)
    assert layer(image, out_dtype=out_dtype).dtype == (out_dtype or "bfloat16")


def test_the_logits_of_a_gate_are_those_that_it_computes_with():
    gate = Gate(4, options())
    gate.bias[...] = jnp.asarray(draw(4, seed=1), jnp.float32)
    x, x64 = feature_map(4, size=(1, 4, 5, 6))
    logits = gate.logits(jnp.asarray(x64.mean(axis=(0, 1, 2, 3)), jnp.float32))
    expected = x64 / (1 + np.exp(-np.asarray(logits, np.float64)))
    assert_close(gate(x).values, expected)


def test_a_fixed_gate_scales_any_input_alike():
    gate, logits = Gate(4, options()), jnp.asarray([-2.0, 0.0, 1.0, 30.0])
    gate.fix(logits)
    for seed in range(2):
        x = jnp.asarray(draw(1, 2, 3, 4, 4, seed=seed) + seed, jnp.float32)
        expected = np.asarray(x, np.float64) / (1 + np.exp(-np.asarray(logits, np.float64)))
        assert_close(gate(FeatureMap(x)).values, expected)


def test_watching_lists_convolutions_in_order_with_what_they_read_and_wrote():
    first, second = Conv3d(9, 4, (3, 3, 3), options()), Conv3d(4, 4, (1, 3, 3), options(1))
    gate = Gate(4, options(2))
    x, _ = feature_map(9)
    with watching() as calls:
        between = first(x, "relu")
        last = second.gated(between, gate, residual=between)
    assert [call.layer for call in calls] == [first, second]
    assert calls[0].inputs[0].values is x.values
    assert calls[1].inputs[0].values is between.values
    assert calls[1].residual is between
    assert calls[1].output is last


def test_nothing_is_recorded_outside_the_block_or_by_an_outer_one():
    layer = Conv3d(9, 4, (1, 1, 1), options())
    x, _ = feature_map(9)
    with watching() as outer:
        with watching() as inner:
            layer(x)
        layer(x)
    layer(x)
    assert (len(outer), len(inner)) == (1, 1)


def test_watched_gates_see_what_the_convolution_gives_them_and_change_no_output():
    layers = Conv3d(9, 4, (3, 3, 3), options()), TransposedConv3d(9, 4, options(), gain=8.0)
    oracles = oracle_conv3d, oracle_conv3d_transpose
    gate = Gate(4, options(1))
    x, x64 = feature_map(9)
    for layer, oracle in zip(layers, oracles):
        fused = layer.gated(x, gate, activation="relu").values
        with watching_gates() as maps:
            apart = layer.gated(x, gate, activation="relu").values
        (ungated,) = maps
        assert_close(ungated.values, oracle(x64, float64(layer.kernel)))
        assert_close(apart, np.asarray(fused, np.float64))


def test_watched_gates_keep_the_scale_of_a_map_in_8_bits():
    layer, gate = Conv3d(9, 4, (3, 3, 3), options()), Gate(4, options(1))
    x, _ = feature_map(9)
    exact = layer.gated(x, gate, activation="relu").values
    plain = layer.kernel[...]
    scale = float(exact.max()) / 400
    layer.kernel = nnx.Param(quantize_kernel(plain, None, scale))
    with watching_gates():
        apart = layer.gated(x, gate, activation="relu")
    assert apart.values.dtype == jnp.float8_e4m3fn
    assert apart.scale == pytest.approx(scale)
    # Three rounded bits, of the sums as they are measured and once more behind the gate.
    error = jnp.linalg.norm(apart.in_units(jnp.float32).values - exact) / jnp.linalg.norm(exact)
    assert 0 < float(error) < 2**-4


def test_a_layer_computes_in_the_type_of_its_parameters():
    layer = Conv3d(9, 4, (3, 3, 3), options())
    halve(layer)
    x, _ = feature_map(9)
    assert layer(x.map(lambda values: values.astype(jnp.bfloat16))).values.dtype == jnp.bfloat16
