# SPDX-License-Identifier: Apache-2.0
"""Four frames as 2-D convolutions at six points: exact as algebra, and close in float32."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.conv3d import winograd
from pallas_kernels.conv3d.winograd import FRAMES_AT, OUTPUTS_FROM, TAPS_AT, TapsAtPoints
from tests.pallas_kernels.oracles import draw, oracle_conv3d

needs_a_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="kernels are packed for CPUs only"
)


def test_the_matrices_are_a_convolution_over_time():
    # Output t is the sum of tap · frame over t' = t + tap − 1: the coefficient of each pair of a
    # frame and a tap, summed over the six points, is 1 there and 0 elsewhere.
    for output, frame, tap in itertools.product(range(4), range(4), range(3)):
        coefficient = sum(
            OUTPUTS_FROM[output][point] * FRAMES_AT[point][frame] * TAPS_AT[point][tap]
            for point in range(6)
        )
        assert coefficient == pytest.approx(float(frame == output + tap - 1), abs=1e-12)


def test_six_products_replace_the_ten_of_the_definition():
    # Each of four outputs has three taps, two of which read padding.
    pairs = [(o, t) for o in range(4) for t in range(3) if 0 <= o + t - 1 < 4]
    assert len(pairs) == 10
    assert len(FRAMES_AT) == len(TAPS_AT) == len(OUTPUTS_FROM[0]) == 6


def test_a_kernel_at_the_points_is_its_polynomial_in_time():
    kernel = draw(3, 1, 1, 2, 2)
    packed = winograd.at_points(jnp.asarray(kernel, jnp.float32))
    for point, values in zip((*winograd.FINITE_POINTS, None), packed.values, strict=True):
        powers = [0, 0, 1] if point is None else [1, point, point**2]
        assert np.asarray(values) == pytest.approx(np.tensordot(powers, kernel, axes=1), abs=1e-5)


def test_the_points_differ_and_are_symmetric():
    points = [Fraction(point).limit_denominator(10**6) for point in winograd.FINITE_POINTS]
    assert len(set(points)) == 5
    assert sorted(points) == sorted(-point for point in points)


@pytest.mark.parametrize(
    ("frames", "taps", "dtype"),
    [(3, 3, "float32"), (5, 3, "float32"), (4, 1, "float32"), (4, 5, "float32"),
     (4, 3, "bfloat16"), (4, 3, "float16")],
)  # fmt: skip
def test_only_four_frames_three_taps_and_float32_are_packed(frames, taps, dtype):
    # 16 bits would lose several of them in the sums and differences.
    kernel = jnp.ones((taps, 3, 3, 16, 4), dtype)
    assert pk.pack_kernel(kernel, frames) is kernel


@needs_a_cpu
def test_few_channels_are_not_packed():
    # The stem takes the way through space to depth.
    few, many = (jnp.ones((3, 7, 7, channels, 4)) for channels in (3, 16))
    assert pk.pack_kernel(few, 4) is few
    assert isinstance(pk.pack_kernel(many, 4), TapsAtPoints)


@pytest.mark.parametrize("name", ["reference", "mosaic_gpu"])
def test_kernels_for_other_implementations_are_left_as_they_are(name):
    kernel = jnp.ones((3, 3, 3, 16, 4))
    assert pk.pack_kernel(kernel, 4, implementation=name) is kernel


@needs_a_cpu
def test_nothing_is_packed_for_a_gpu():
    kernel = jnp.ones((3, 3, 3, 16, 4))
    with pk.assume_hopper():
        assert pk.pack_kernel(kernel, 4) is kernel


@needs_a_cpu
def test_a_packed_kernel_looks_like_the_kernel_that_it_was():
    kernel = jnp.asarray(draw(3, 4, 4, 16, 5), jnp.float32)
    packed = pk.pack_kernel(kernel, 4)
    assert (packed.shape, packed.ndim, packed.dtype) == (kernel.shape, 5, kernel.dtype)
    assert packed[:, 1::2, ::2].shape == kernel[:, 1::2, ::2].shape


@needs_a_cpu
def test_a_packed_kernel_passes_through_jit_and_vmap_as_a_tree():
    kernel = jnp.asarray(draw(3, 3, 3, 16, 4), jnp.float32)
    x = jnp.asarray(draw(2, 1, 4, 3, 3, 16), jnp.float32)

    def run(kernel, x):
        return pk.conv3d(x, kernel).values

    packed = pk.pack_kernel(kernel, 4)
    assert len(jax.tree.leaves(packed)) == 6
    together = jax.jit(jax.vmap(run, in_axes=(None, 0)))(packed, x)
    expected = oracle_conv3d(np.asarray(x[:, 0], np.float64), np.asarray(kernel, np.float64))
    assert np.abs(np.asarray(together[:, 0]) - expected).max() < 2e-6 * np.abs(expected).max()


@needs_a_cpu
def test_a_kernel_packed_for_padded_time_refuses_unpadded_time():
    packed = pk.pack_kernel(jnp.ones((3, 3, 3, 16, 4)), 4)
    with pytest.raises(ValueError, match="packed for `pad_time`; use that, or pass it unpacked"):
        pk.conv3d(jnp.ones((1, 4, 4, 4, 16)), packed, pad_time=False)


@needs_a_cpu
@pytest.mark.parametrize("frames", [1, 3, 8])
def test_another_number_of_frames_is_refused_with_a_remedy(frames):
    packed = pk.pack_kernel(jnp.ones((3, 3, 3, 16, 4)), 4)
    message = f"packed for 4 frames, but the inputs have {frames}; pack it for that number"
    with pytest.raises(ValueError, match=message):
        pk.conv3d(jnp.ones((1, frames, 4, 4, 16)), packed)
