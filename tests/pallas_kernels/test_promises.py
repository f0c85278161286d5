# SPDX-License-Identifier: Apache-2.0
"""What every operation promises of its output: types, shapes, and NaN or infinity passed on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk

IMPLEMENTATIONS = ("xla", "reference")


def gated(operation, x, kernel, **options):
    channels = kernel.shape[-1]
    gate = jnp.zeros((channels, channels), kernel.dtype), jnp.zeros(channels, kernel.dtype)
    return operation(x, kernel, None, *gate, **options).values


OPERATIONS = {  # operation of a clip and a kernel, the kernel's size, the output's size
    "conv3d": (lambda x, k, **o: pk.conv3d(x, k, **o).values, (3, 3, 3), (2, 5, 6)),
    "strided": (
        lambda x, k, **o: pk.conv3d(x, k, stride=(1, 2, 2), **o).values, (3, 3, 3), (2, 3, 3),
    ),
    "fused": (
        lambda x, k, **o: pk.conv3d(x, k, pad_time=False, **o).values, (2, 1, 1), (1, 5, 6),
    ),
    "gated": (functools.partial(gated, pk.gated_conv3d), (3, 3, 3), (2, 5, 6)),
    "transposed": (functools.partial(gated, pk.gated_conv3d_transpose), (3, 4, 4), (2, 10, 12)),
}  # fmt: skip


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_output_has_its_inputs_type_and_the_promised_size(name, dtype, implementation):
    operation, size, out = OPERATIONS[name]
    x = jax.ShapeDtypeStruct((3, 2, 5, 6, 8), dtype)
    kernel = jax.ShapeDtypeStruct((*size, 8, 4), dtype)
    actual = jax.eval_shape(functools.partial(operation, implementation=implementation), x, kernel)
    assert (actual.shape, actual.dtype) == ((3, *out, 4), dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("out_dtype", [None, "float32", "bfloat16"])
def test_conv2d_has_out_dtype_or_its_inputs_type(padding, out_dtype, implementation):
    call = functools.partial(
        pk.conv2d, padding=padding, out_dtype=out_dtype, implementation=implementation
    )
    x = jax.ShapeDtypeStruct((3, 5, 6, 8), "float16")
    actual = jax.eval_shape(call, x, jax.ShapeDtypeStruct((3, 5, 8, 4), "float16"))
    assert (actual.shape, actual.dtype) == ((3, 5, 6, 4), out_dtype or "float16")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["conv3d", "strided", "fused"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_the_outputs_that_read_it_and_no_other(
    name, value, implementation
):
    operation, size, _ = OPERATIONS[name]
    x = jnp.ones((1, 2, 5, 6, 8)).at[0, 0, 0, 0, 3].set(value)
    kernel = jnp.ones((*size, 8, 4))
    out = np.asarray(operation(x, kernel, implementation=implementation))
    corner = out[0, 0, 0, 0]
    assert np.isnan(corner).all() if np.isnan(value) else (corner == value).all()
    assert np.isfinite(out[0, :, -1, -1]).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["gated", "transposed"])
def test_a_gate_spreads_nan_over_its_sample_and_to_no_other(name, implementation):
    operation, size, _ = OPERATIONS[name]
    x = jnp.ones((2, 2, 5, 6, 8)).at[0, 0, 0, 0, 3].set(jnp.nan)
    out = np.asarray(operation(x, jnp.ones((*size, 8, 4)), implementation=implementation))
    assert np.isnan(out[0]).all()  # its mean is NaN
    assert np.isfinite(out[1]).all()


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
def test_an_activation_keeps_nan(activation):
    assert np.isnan(pk.activate(jnp.asarray([jnp.nan]), activation)).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_gate_of_zeros_halves_and_keeps_the_type(implementation):
    x = jnp.asarray(np.arange(16).reshape(1, 1, 2, 2, 4), jnp.bfloat16)
    zeros = jnp.zeros((4, 4), jnp.bfloat16)
    out = pk.gate(x, zeros, zeros[0], residual=x, implementation=implementation)
    assert out.dtype == jnp.bfloat16
    assert (np.asarray(out) == 1.5 * np.asarray(x)).all()


def clip(*channels, size=(1, 2, 5, 6)):
    return tuple(jnp.ones((*size, count)) for count in channels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: pk.gated_conv3d(x, jnp.ones((2, 3, 3, 8, 4)), None, *GATE), "must be odd"),
        (
            lambda x: pk.gated_conv3d((x,), jnp.ones((3, 3, 3, 9, 4)), None, *GATE),
            "have 8 channels",
        ),
        (
            lambda x: pk.gated_conv3d_transpose(x, jnp.ones((3, 3, 3, 8, 4)), None, *GATE),
            r"only \(3, 4, 4\) is supported",
        ),
        (
            lambda x: pk.conv3d(x, jnp.ones((3, 1, 1, 8, 4)), pad_time=False),
            "spans 3 frames, but the inputs have only 2",
        ),
        (lambda x: pk.conv3d(x, jnp.ones((3, 3, 3, 8, 4)), stride=(1, 1, 2)), "`stride` is"),
        (lambda x: pk.conv2d(x[:, 0], jnp.ones((2, 3, 8, 4))), "sizes must be odd"),
        (lambda x: pk.conv2d(x, jnp.ones((3, 3, 8, 4))), "must be 4-dimensional"),
        (
            lambda x: pk.conv3d(x, pk.quantize_kernel(jnp.ones((3, 3, 3, 8, 4)), jnp.ones(8), 1.0)),
            "quantise it without `in_scales`, or store them all in 8 bits",
        ),
    ],
)
def test_errors_give_the_value_the_rule_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call(*clip(8))


GATE = jnp.ones((4, 4)), jnp.ones(4)


def test_a_feature_map_in_units_has_lost_its_scale_and_no_value():
    stored = pk.FeatureMap(jnp.full((1, 1, 2, 2, 3), 3.0), jnp.full((1, 1, 1, 3), 12.0),
                           jnp.float32(0.5))  # fmt: skip
    plain = stored.in_units(jnp.float16)
    assert plain.scale is None
    assert plain.values.dtype == jnp.float16
    assert (plain.values == 1.5).all()
    assert plain.totals is not None
    assert (plain.totals == 6).all()
    assert stored.map(lambda values: values + 1).totals is None
