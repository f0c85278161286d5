# SPDX-License-Identifier: Apache-2.0
"""Convolutions in int8, against float64 NumPy on inputs and weights that NumPy rounds."""

import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.core import device
from pallas_kernels.core.int8 import rounded
from tests.pallas_kernels.oracles import (
    assert_close,
    draw,
    leaky_relu,
    oracle_conv3d,
    oracle_conv3d_transpose,
    oracle_gate,
)


def as_stored(array, *axes):
    """What remains of an array with 255 numbers for each scale, which extends over the axes."""
    scale = np.abs(array).max(axis=axes, keepdims=True) / 127
    return np.rint(array / scale) * scale


def in_32_bits(*arrays):
    """The arrays in float32, for JAX, and what they hold in float64."""
    narrow = [np.asarray(array, np.float32) for array in arrays]
    return [jnp.asarray(each) for each in narrow], [each.astype(np.float64) for each in narrow]


@pytest.mark.parametrize("time", [1, 3, 4])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("channels", [3, 12])
def test_conv3d_adds_products_of_stored_numbers(channels, stride, time):
    # Samples of unlike magnitude, each of which has its own scale.
    x = draw(2, time, 7, 6, channels) * np.array([1, 50])[:, None, None, None, None]
    (x, kernel, bias), exact = in_32_bits(x, draw(3, 5, 5, channels, 6, seed=1), draw(6, seed=2))
    packed = pk.pack_kernel(kernel, time, with_int8=True)
    actual = pk.conv3d(x, packed, bias, stride=stride, activation="relu").values
    stored = as_stored(exact[0], 1, 2, 3, 4), as_stored(exact[1], 0, 1, 2, 3)
    assert_close(actual, np.maximum(oracle_conv3d(*stored, stride) + exact[2], 0))


def test_inputs_that_are_convolved_together_have_scales_of_their_own():
    (x, y, kernel), exact = in_32_bits(
        draw(1, 4, 5, 6, 9), 30 * draw(1, 4, 5, 6, 2, seed=1), draw(3, 3, 3, 11, 4, seed=2)
    )
    packed = pk.pack_kernel(kernel, 4, with_int8=True)
    gate = draw(4, 4, seed=3), draw(4, seed=4)
    actual = pk.gated_conv3d(
        (x, y), packed, None, *(jnp.asarray(each, jnp.float32) for each in gate)
    ).values
    both = [as_stored(each, 1, 2, 3, 4) for each in exact[:2]]
    sums = oracle_conv3d(np.concatenate(both, axis=-1), as_stored(exact[2], 0, 1, 2, 3))
    assert_close(actual, oracle_gate(sums, *gate))


def test_transposed_convolutions_multiply_stored_numbers_too():
    (x, kernel, bias), exact = in_32_bits(
        draw(2, 4, 5, 6, 9), draw(3, 4, 4, 9, 4, seed=1), draw(4, seed=2)
    )
    packed = pk.pack_kernel(kernel, 4, with_int8=True)
    gate = jnp.zeros((4, 4)), jnp.full(4, 40.0)  # wide open
    actual = pk.gated_conv3d_transpose(x, packed, bias, *gate, activation="leaky_relu").values
    stored = as_stored(exact[0], 1, 2, 3, 4), as_stored(exact[1], 0, 1, 2, 3)
    assert_close(actual, leaky_relu(oracle_conv3d_transpose(*stored) + exact[2]))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_conv2d_has_a_scale_for_each_channel_of_its_input(padding):
    magnitudes = np.array([1, 20, 0.01, 300])
    (x, kernel), exact = in_32_bits(
        draw(2, 7, 6, 4) * magnitudes, draw(3, 3, 4, 5, seed=1) / magnitudes[:, None]
    )
    packed = pk.pack_kernel(kernel, 1, with_int8=True)
    actual = pk.conv2d(x, packed, padding=padding)
    stored = as_stored(exact[0], 0, 1, 2)
    ends = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = np.pad(stored, ends, mode="reflect" if padding == "reflect" else "constant")
    scales = np.abs(exact[0]).max(axis=(0, 1, 2))
    weights = as_stored(exact[1] * scales[:, None], 0, 1, 2) / scales[:, None]
    sums = oracle_conv3d(padded[:, None], weights[None])[:, 0, 1:-1, 1:-1]
    assert_close(actual, sums, float32=3e-6)


def test_kernels_of_one_pixel_stay_as_they_are():
    for kernel in (jnp.ones((1, 1, 1, 8, 4)), jnp.ones((1, 1, 8, 4))):
        assert pk.pack_kernel(kernel, 4, with_int8=True) is kernel


@pytest.mark.parametrize("name", ["reference", "mosaic_gpu"])
def test_other_implementations_refuse_kernels_in_int8(name):
    packed = pk.pack_kernel(jnp.ones((3, 3, 8, 4)), 1, with_int8=True)
    with pytest.raises(NotImplementedError, match=f"{name}: .*packed"):
        pk.conv2d(jnp.ones((1, 4, 4, 8)), packed, implementation=name)
    plain = jnp.ones((3, 3, 8, 4))
    assert pk.pack_kernel(plain, 1, with_int8=True, implementation=name) is plain


def test_zeros_have_a_scale_and_what_is_not_finite_does_not_vanish():
    zeros, scales = rounded(jnp.zeros((1, 4)), (1,))
    assert not zeros.any()
    assert scales == 1
    for value in (np.nan, np.inf):
        stored, scales = rounded(jnp.array([[value, 1.0]]), (1,))
        assert not jnp.isfinite(stored * scales).all()


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx512_vnni sse", True), ("fpu amx_int8", True), ("fpu avx2 avx512f", False)],
)
def test_the_processors_instructions_decide_whether_int8_is_fast(flags, fast, monkeypatch):
    monkeypatch.setattr(device, "_processor_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(device.jax, "__version_info__", (0, 11, 0))
    assert (device.why_not_int8() is None) == fast
    monkeypatch.setattr(device.jax, "__version_info__", (0, 10, 2))
    assert "before jax 0.11" in (device.why_not_int8() or "")
