# SPDX-License-Identifier: Apache-2.0
"""The contract of every operation, checked on every implementation against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from tests.pallas_kernels.oracles import (
    draw,
    leaky_relu,
    oracle_conv3d,
    oracle_conv3d_transpose,
    oracle_gate,
)

IMPLEMENTATIONS = ("xla", "reference")
# Largest error relative to the largest value: float32 sums of a few hundred products lose at most
# a handful of the 24 bits; bfloat16 rounds inputs to 8 bits.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2}


def transposed(inputs, kernel, bias, implementation):
    """The transposed convolution alone: behind a gate that is wide open."""
    channels = kernel.shape[-1]
    gate = jnp.zeros((channels, channels), kernel.dtype), jnp.full(channels, 40, kernel.dtype)
    return pk.gated_conv3d_transpose(inputs, kernel, bias, *gate, implementation=implementation)


def as_jax(array, dtype):
    return jnp.asarray(array, dtype)


def assert_matches(actual, expected, dtype):
    if isinstance(actual, pk.FeatureMap):
        actual = actual.values
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    error = np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max()
    assert error < TOLERANCE[dtype]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("time", [1, 2, 4, 5])
@pytest.mark.parametrize(
    ("size", "stride"),
    [
        ((3, 3, 3), (1, 1, 1)),
        ((3, 3, 3), (1, 2, 2)),
        ((1, 1, 1), (1, 2, 2)),
        ((1, 3, 3), (1, 1, 1)),
        ((3, 1, 1), (1, 1, 1)),
        ((5, 3, 3), (1, 1, 1)),
    ],
)
def test_conv3d_is_the_sum_over_taps(size, stride, time, dtype, implementation):
    x = draw(2, time, 7, 6, 12)
    kernel, bias = draw(*size, 12, 5, seed=1), draw(5, seed=2)
    actual = pk.conv3d(
        as_jax(x, dtype),
        as_jax(kernel, dtype),
        as_jax(bias, dtype),
        stride=stride,
        implementation=implementation,
    )
    assert_matches(actual, oracle_conv3d(x, kernel, stride) + bias, dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("pixels", [(8, 10), (7, 9), (1, 3)])
@pytest.mark.parametrize("size", [(3, 7, 7), (1, 7, 7), (3, 3, 3), (1, 1, 1), (3, 5, 5)])
def test_strided_conv3d_of_few_channels(size, pixels, implementation):
    x, kernel = draw(2, 4, *pixels, 3), draw(*size, 3, 5, seed=1)
    actual = pk.conv3d(
        as_jax(x, "float32"),
        as_jax(kernel, "float32"),
        stride=(1, 2, 2),
        implementation=implementation,
    )
    assert_matches(actual, oracle_conv3d(x, kernel, (1, 2, 2)), "float32")


def test_four_frames_of_many_channels_keep_float32s_precision():
    x, kernel = draw(1, 4, 6, 5, 128), draw(3, 3, 3, 128, 16, seed=1)
    actual = pk.conv3d(as_jax(x, "float32"), as_jax(kernel, "float32"), implementation="xla")
    assert_matches(actual, oracle_conv3d(x, kernel, (1, 1, 1)), "float32")


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("implementation", [None, *IMPLEMENTATIONS])
def test_a_packed_kernel_convolves_as_the_one_that_it_was(implementation, stride):
    x, kernel = draw(2, 4, 7, 6, 12), draw(3, 3, 3, 12, 5, seed=1)
    packed = pk.pack_kernel(as_jax(kernel, "float32"), 4, implementation=implementation)
    actual = pk.conv3d(as_jax(x, "float32"), packed, stride=stride, implementation=implementation)
    assert_matches(actual, oracle_conv3d(x, kernel, stride), "float32")


def test_a_packed_kernel_convolves_transposed_as_the_one_that_it_was():
    x, y = draw(2, 4, 5, 6, 9), draw(2, 4, 5, 6, 2, seed=1)
    kernel, bias = draw(3, 4, 4, 11, 4, seed=2), draw(4, seed=3)
    packed = pk.pack_kernel(as_jax(kernel, "float32"), 4, implementation="xla")
    inputs = as_jax(x, "float32"), as_jax(y, "float32")
    actual = transposed(inputs, packed, as_jax(bias, "float32"), "xla")
    expected = oracle_conv3d_transpose(np.concatenate([x, y], axis=-1), kernel) + bias
    assert_matches(actual, expected, "float32")


def test_a_kernel_packed_for_four_frames_refuses_five():
    packed = pk.pack_kernel(jnp.ones((3, 3, 3, 12, 5)), 4)
    with pytest.raises(ValueError, match="packed for 4 frames, but the inputs have 5"):
        pk.conv3d(jnp.ones((1, 5, 4, 4, 12)), packed)


@pytest.mark.parametrize("name", ["reference", "mosaic_gpu"])
def test_a_packed_kernel_is_refused_by_implementations_that_it_was_not_packed_for(name):
    packed = pk.pack_kernel(jnp.ones((3, 3, 3, 12, 5)), 4)
    with pytest.raises(NotImplementedError, match=f"{name}: .*packed"):
        pk.conv3d(jnp.ones((1, 4, 4, 4, 12)), packed, implementation=name)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_conv3d_joins_inputs_and_finishes_in_one_go(implementation):
    x, y = draw(2, 3, 5, 4, 3), draw(2, 3, 5, 4, 6, seed=1)
    kernel, bias = draw(3, 3, 3, 9, 4, seed=2), draw(4, seed=3)
    scale, residual = draw(2, 4, seed=4), draw(2, 3, 5, 4, 4, seed=5)
    arrays = [as_jax(a, "float32") for a in (x, y, kernel, bias, scale, residual)]
    actual = pk.conv3d(
        (arrays[0], arrays[1]),
        arrays[2],
        arrays[3],
        scale=arrays[4],
        residual=arrays[5],
        activation="leaky_relu",
        implementation=implementation,
    )
    sums = oracle_conv3d(np.concatenate([x, y], axis=-1), kernel) + bias
    expected = leaky_relu(sums * scale[:, None, None, None] + residual)
    assert_matches(actual, expected, "float32")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gated_conv3d_gates_before_the_residual(implementation):
    x, residual = draw(2, 4, 5, 6, 3), draw(2, 4, 5, 6, 4, seed=1)
    kernel, bias = draw(3, 3, 3, 3, 4, seed=2), draw(4, seed=3)
    gate_kernel, gate_bias = draw(4, 4, seed=4), draw(4, seed=5)
    arrays = [as_jax(a, "float32") for a in (x, kernel, bias, gate_kernel, gate_bias)]
    actual = pk.gated_conv3d(
        *arrays,
        residual=as_jax(residual, "float32"),
        activation="relu",
        implementation=implementation,
    )
    gated = oracle_gate(oracle_conv3d(x, kernel) + bias, gate_kernel, gate_bias)
    assert_matches(actual, np.maximum(gated + residual, 0), "float32")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 1, 1), (2, 3, 1)])
def test_transposed_conv3d_spreads_every_pixel(shape, dtype, implementation):
    x, y = draw(2, *shape, 3), draw(2, *shape, 2, seed=1)
    kernel, bias = draw(3, 4, 4, 5, 4, seed=2), draw(4, seed=3)
    actual = transposed(
        (as_jax(x, dtype), as_jax(y, dtype)),
        as_jax(kernel, dtype),
        as_jax(bias, dtype),
        implementation,
    )
    expected = oracle_conv3d_transpose(np.concatenate([x, y], axis=-1), kernel) + bias
    assert_matches(actual, expected, dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gated_transposed_conv3d_gates_before_the_activation(implementation):
    x, kernel, bias = draw(2, 4, 3, 5, 3), draw(3, 4, 4, 3, 4, seed=1), draw(4, seed=2)
    gate_kernel, gate_bias = draw(4, 4, seed=3), draw(4, seed=4)
    actual = pk.gated_conv3d_transpose(
        *(as_jax(a, "float32") for a in (x, kernel, bias, gate_kernel, gate_bias)),
        activation="leaky_relu",
        implementation=implementation,
    )
    sums = oracle_conv3d_transpose(x, kernel) + bias
    assert_matches(actual, leaky_relu(oracle_gate(sums, gate_kernel, gate_bias)), "float32")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_conv2d_pads_with_zeros_or_a_mirror_image(size, padding, implementation):
    x, y = draw(2, 5, 8, 3), draw(2, 5, 8, 2, seed=1)
    kernel, bias = draw(size, size, 5, 4, seed=2), draw(4, seed=3)
    actual = pk.conv2d(
        (as_jax(x, "float32"), as_jax(y, "float32")),
        as_jax(kernel, "float32"),
        as_jax(bias, "float32"),
        padding=padding,
        activation="leaky_relu",
        implementation=implementation,
    )
    reach = size // 2
    joined = np.concatenate([x, y], axis=-1)
    if padding == "reflect":
        joined = np.pad(joined, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    sums = oracle_conv3d(joined[:, None], kernel[None])[:, 0]
    if padding == "reflect":
        sums = sums[:, reach : reach + 5, reach : reach + 8]
    assert_matches(actual, leaky_relu(sums + bias), "float32")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("samples", [1, 2, 4])
def test_conv2d_adds_each_residual_to_as_many_images(samples, implementation):
    x, kernel = draw(4, 5, 8, 16), draw(3, 3, 16, 16, seed=1)
    bias, residual = draw(16, seed=2), draw(samples, 5, 8, 16, seed=3)
    actual = pk.conv2d(
        *(as_jax(each, "float32") for each in (x, kernel, bias)),
        residual=as_jax(residual, "float32"),
        activation="leaky_relu",
        implementation=implementation,
    )
    sums = oracle_conv3d(x[:, None], kernel[None])[:, 0] + bias
    assert_matches(actual, leaky_relu(sums + residual.repeat(4 // samples, axis=0)), "float32")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_gradient_of_a_shared_residual_is_the_sum_over_its_images(implementation):
    x, kernel, residual = draw(6, 4, 5, 3), draw(3, 3, 3, 2, seed=1), draw(2, 4, 5, 2, seed=2)
    weights = draw(6, 4, 5, 2, seed=3)

    def loss(residual):
        made = pk.conv2d(
            *(as_jax(each, "float32") for each in (x, kernel)),
            residual=residual,
            activation="relu",
            implementation=implementation,
        )
        return (made * weights).sum()

    sums = oracle_conv3d(x[:, None], kernel[None])[:, 0] + residual.repeat(3, axis=0)
    expected = np.where(sums > 0, weights, 0).reshape(2, 3, 4, 5, 2).sum(axis=1)
    assert_matches(jax.grad(loss)(as_jax(residual, "float32")), expected, "float32")


@pytest.mark.parametrize("shape", [(4, 4, 5, 2), (12, 4, 5, 2), (2, 4, 6, 2)])
def test_a_residual_that_does_not_fit_the_images_is_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(6, 4, 5, 2\), or have .* that divides 6"):
        pk.conv2d(jnp.ones((6, 4, 5, 3)), jnp.ones((3, 3, 3, 2)), residual=jnp.ones(shape))


def test_a_gate_averages_in_float32():
    # 2¹⁶ ones: a bfloat16 sum would stop growing at 256.
    x = jnp.ones((1, 4, 128, 128, 1), jnp.bfloat16)
    kernel, bias = jnp.ones((1, 1), jnp.bfloat16), jnp.zeros(1, jnp.bfloat16)
    expected = 1 / (1 + np.exp(-1.0))
    assert float(pk.gate(x, kernel, bias)[0, 0, 0, 0, 0]) == pytest.approx(expected, rel=4e-3)


def test_the_xla_gradients_are_those_of_the_definition():
    x, skip = draw(1, 4, 6, 8, 3), draw(1, 4, 6, 8, 2, seed=1)
    parameters = {
        "kernel": draw(3, 3, 3, 5, 4, seed=2),
        "gate": draw(4, 4, seed=3),
        "up": draw(3, 4, 4, 4, 3, seed=4),
        "stem": draw(3, 7, 7, 3, 2, seed=5),
    }
    inputs = jax.tree.map(lambda a: as_jax(a, "float32"), (parameters, x, skip))

    def objective(inputs, implementation):
        parameters, x, skip = inputs
        zeros = jnp.zeros(4)
        y = pk.gated_conv3d(
            (x, skip),
            parameters["kernel"],
            None,
            parameters["gate"],
            zeros,
            activation="leaky_relu",
            implementation=implementation,
        )
        y = transposed(y, parameters["up"], None, implementation)
        y = pk.conv3d(y, parameters["stem"], stride=(1, 2, 2), implementation=implementation)
        return jnp.sum(y.values**2)

    gradient = jax.jit(jax.grad(objective), static_argnums=1)
    gradients = [gradient(inputs, name) for name in IMPLEMENTATIONS]
    for ours, defined in zip(*map(jax.tree.leaves, gradients)):
        assert np.abs(ours - defined).max() < 1e-5 * np.abs(defined).max()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, k: pk.conv3d(x, k[:2]), "must be odd"),
        (lambda x, k: pk.conv3d(x, k, stride=(2, 2, 2)), r"\(1, 2, 2\) are supported"),
        (lambda x, k: pk.conv3d((x, x), k), "inputs have 6 channels"),
        (lambda x, k: pk.conv3d((x, x[:, :1]), k), "agree in every axis but the last"),
        (lambda x, k: pk.conv3d(x, k, implementation="fast"), "fast"),
        (lambda x, k: transposed(x, k, None, None), r"only \(3, 4, 4\)"),
        (
            lambda x, k: pk.conv2d(x[:, 0], jnp.ones((7, 7, 3, 1)), padding="reflect"),
            "cannot be mirrored by 3",
        ),
    ],
)
def test_wrong_arguments_are_explained(call, message):
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        call(jnp.ones((1, 2, 3, 4, 3)), jnp.ones((3, 3, 3, 3, 2)))
