# SPDX-License-Identifier: Apache-2.0
"""Numbers in float8_e4m3fn: what is stored, how far off it is, and what a quantised kernel is."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.core.fp8 import E4M3, LARGEST, quantize
from tests.pallas_kernels.oracles import draw

# All numbers of the format, from their definition: sign, 4 exponent bits (bias 7), 3 mantissa bits.
POSITIVE = [
    (mantissa / 8) * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    for exponent in range(16)
    for mantissa in range(8)
    if (exponent, mantissa) != (15, 7)  # the pattern of NaN
]


def float32(array):
    return jnp.asarray(array, jnp.float32)


def test_the_largest_number_is_that_of_the_format():
    assert max(POSITIVE) == LARGEST == float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", [1.0, 0.25, 8.0])
def test_every_number_of_the_format_is_stored_exactly(sign, scale):
    numbers = sign * scale * np.asarray(POSITIVE)
    assert (np.asarray(quantize(float32(numbers), scale), np.float64) * scale == numbers).all()


def test_other_numbers_go_to_the_nearest_of_the_format():
    x = np.sort(np.abs(draw(2000)) * 100)
    stored = np.asarray(quantize(float32(x), 1.0), np.float64)
    x = np.asarray(float32(x), np.float64)
    nearest = np.abs(x[:, None] - np.asarray(POSITIVE)).min(axis=1)
    assert (np.abs(stored - x) == nearest).all()


@pytest.mark.parametrize("kind", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_a_program_that_stores_and_reads_numbers_rounds_them(kind):
    x = jax.device_put(float32(draw(2000) * 100), jax.devices(kind)[0])
    found = jax.jit(lambda x: quantize(x, 1.0).astype(jnp.float32))(x)
    expected = np.asarray(x).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [448.1, 1e3, 1e30, np.inf])
def test_numbers_that_are_too_large_become_the_largest_and_not_nan(value):
    stored = np.asarray(quantize(float32([value, -value]), 1.0), np.float64)
    assert stored.tolist() == [LARGEST, -LARGEST]


def test_nan_stays_nan():
    # A broken frame must show in the output; it must not become a plausible number.
    assert np.isnan(np.asarray(quantize(float32([np.nan]), 1.0), np.float32)).all()


def test_a_power_of_two_in_the_scale_changes_no_stored_number():
    # Except near zero, where the format loses digits.
    x = float32(draw(500) / 4)
    stored = np.asarray(quantize(x, 2.0**-7), np.float64)
    finer = np.asarray(quantize(x, 2.0**-6), np.float64)
    large = np.abs(finer) >= 2.0**-5
    assert large.mean() > 0.9
    assert (stored[large] == 2 * finer[large]).all()


def value_of(kernel, in_scales):
    """The kernel that quantised numbers stand for, in float64 ``[..., in, out]``."""
    stored = np.swapaxes(np.asarray(kernel.values, np.float64), -1, -2)
    return stored * np.asarray(kernel.scales, np.float64) / np.asarray(in_scales)[:, None]


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 3, 3), (3, 4, 4)])
def test_each_output_channel_uses_the_whole_range(size):
    array = draw(*size, 24, 8) * np.geomspace(1e-4, 1e4, 8)
    in_scales = np.geomspace(0.01, 1, 24)
    kernel = pk.quantize_kernel(float32(array), float32(in_scales), None)
    assert kernel.values.shape == (*size, 8, 24)  # input channels last, as WGMMA reads them
    largest = np.abs(np.asarray(kernel.values, np.float64)).max(axis=(0, 1, 2, 4))
    assert (largest == LARGEST).all()


def test_a_quantised_kernel_is_off_by_half_a_unit_in_the_last_place():
    array, in_scales = draw(3, 3, 3, 24, 8), np.geomspace(0.01, 1, 24)
    kernel = pk.quantize_kernel(float32(array), float32(in_scales), None)
    # The rounding of subnormals is relative to the channel's scale, not to the weight.
    scales = np.asarray(kernel.scales, np.float64) / in_scales[:, None]
    allowed = 2.0**-4 * np.abs(array) + 2.0**-10 * scales
    assert (np.abs(value_of(kernel, in_scales) - array) <= 1.0001 * allowed).all()


def test_a_factor_of_a_channel_goes_into_its_scale_alone():
    array, in_scales = draw(3, 3, 3, 24, 8), np.full(24, 0.1)
    factors = 2.0 ** np.arange(-4, 4)
    plain, scaled = (
        pk.quantize_kernel(float32(each), float32(in_scales), None)
        for each in (array, array * factors)
    )
    assert (np.asarray(plain.values, np.float32) == np.asarray(scaled.values, np.float32)).all()
    assert np.asarray(scaled.scales / plain.scales) == pytest.approx(factors)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_kernel_says_in_which_types_it_multiplies_and_stores(dtype):
    array, scales = float32(draw(1, 1, 1, 8, 4)), jnp.ones(8)
    made = {
        (reads, stores): pk.quantize_kernel(array, scales if reads else None, stores, dtype)
        for reads in (False, True)
        for stores in (None, 0.5)
    }
    for (reads, stores), kernel in made.items():
        assert (kernel.shape, kernel.ndim) == ((1, 1, 1, 8, 4), 5)
        assert kernel.dtype == (E4M3 if reads else dtype)
        assert kernel.out_dtype == (dtype if stores is None else E4M3)
        assert kernel.in_16_bits.dtype == dtype


def test_the_16_bit_copy_is_the_kernel_that_multiplies():
    # Gates are computed from the copy; were it the original kernel, gates and products would differ
    # by the rounding to 8 bits.
    array, in_scales = draw(3, 3, 3, 16, 8), np.full(16, 0.5)
    kernel = pk.quantize_kernel(float32(array), float32(in_scales), None)
    copy = np.asarray(kernel.in_16_bits, np.float64)
    assert np.abs(copy - np.asarray(kernel.in_float32, np.float64)).max() <= 2**-8 * copy.max()
    assert np.abs(copy - array * 0.5).max() > 2**-6 * copy.max()


def test_a_quantised_kernel_passes_through_jit_as_a_tree_of_arrays():
    kernel = pk.quantize_kernel(float32(draw(1, 1, 1, 8, 4)), jnp.ones(8), 0.25)
    same = jax.jit(lambda kernel: kernel)(kernel)
    assert jax.tree.structure(same) == jax.tree.structure(kernel)
    assert len(jax.tree.leaves(kernel)) == 4
    for ours, theirs in zip(jax.tree.leaves(same), jax.tree.leaves(kernel)):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_an_output_is_stored_as_the_kernel_says():
    x = float32([1.0, 3.3, 1000.0])
    stored = pk.quantize_kernel(jnp.ones((1, 1, 1, 2, 3)), None, 0.5).store(x)
    assert np.asarray(stored, np.float64).tolist() == [2.0, 6.5, LARGEST]
    plain = pk.quantize_kernel(jnp.ones((1, 1, 1, 2, 3)), None, None, "float16").store(x)
    assert plain.dtype == jnp.float16
