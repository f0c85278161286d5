# SPDX-License-Identifier: Apache-2.0
"""What surrounds the Hopper kernels: refusals, scales folded into the epilogue, images in groups.

Convolutions of lax replace the kernel here (see conftest.py), so that many cases run in little
time; test_conv.py runs the kernel itself.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.core.fp8 import E4M3, quantize
from pallas_kernels.hopper import launch
from pallas_kernels.hopper.conv.config import record_convs
from tests.pallas_kernels.oracles import draw, leaky_relu, oracle_conv3d


def zeros(*size, dtype="bfloat16"):
    return jnp.zeros(size, dtype)


def map_of(*channels, dtype="bfloat16"):
    return tuple(FeatureMap(zeros(1, 2, 8, 8, count, dtype=dtype)) for count in channels)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("channels", [(16,), (48, 80), (16, 16, 16)])
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 3, 3), (9, 7, 7)])
def test_16_bits_and_multiples_of_16_channels_can_run(dtype, channels, size):
    kernel = zeros(*size, sum(channels), 32, dtype=dtype)
    with pk.assume_hopper():
        assert launch.why_not(map_of(*channels, dtype=dtype), kernel) is None


@pytest.mark.parametrize(
    ("inputs", "kernel", "reason"),
    [
        (map_of(16, dtype="float32"), zeros(3, 3, 3, 16, 16, dtype="float32"), "got float32"),
        (map_of(16), zeros(3, 3, 3, 16, 16, dtype="float32"), "bfloat16 and float32"),
        (
            (*map_of(16), *map_of(16, dtype="float16")),
            zeros(3, 3, 3, 32, 16),
            "bfloat16 and float16",
        ),
        (map_of(16), zeros(3, 9, 3, 16, 16), "up to 7 taps in height and width"),
        (map_of(16), zeros(3, 3, 9, 16, 16), "up to 7 taps in height and width"),
        (map_of(8), zeros(3, 3, 3, 8, 16), r"multiples of 16, and got \[8, 16\]"),
        (map_of(16, 24), zeros(3, 3, 3, 40, 16), r"multiples of 16, and got \[16, 24, 16\]"),
        (map_of(16), zeros(3, 3, 3, 16, 20), r"multiples of 16, and got \[16, 20\]"),
    ],
)
def test_arguments_that_cannot_run_give_their_reason(inputs, kernel, reason):
    with pk.assume_hopper():
        why_not = launch.why_not(inputs, kernel)
    assert why_not is not None
    assert why_not.startswith("it ")  # a clause after "mosaic_gpu: "
    assert re.search(reason, why_not)


def test_8_bits_need_multiples_of_32_channels():
    # The narrowest swizzle is 32 bytes.
    x = map_of(48, dtype=E4M3)
    kernel = pk.quantize_kernel(jnp.ones((3, 3, 3, 48, 32)), jnp.ones(48), None)
    with pk.assume_hopper():
        assert "multiples of 32, and got [48, 32]" in str(launch.why_not(x, kernel))
        x, kernel = map_of(48), zeros(3, 3, 3, 48, 32)
        assert launch.why_not(x, kernel) is None


def test_on_a_cpu_the_device_is_the_reason_whatever_the_arguments():
    if jax.default_backend() != "cpu":
        pytest.skip("needs a CPU as the default device")
    x, kernel = map_of(3, dtype="float32"), zeros(3, 9, 9, 3, 5)
    assert "default device is a CPU" in str(launch.why_not(x, kernel))


@pytest.mark.parametrize("size", [(1, 5, 3), (5, 3, 3), (3, 3, 7)])
def test_a_gated_convolution_of_large_kernels_is_left_to_xla(size):
    # The kernels that compute a gate ahead have border sums for 1 and 3 taps only.
    arrays = zeros(1, 2, 8, 8, 16), zeros(*size, 16, 16), zeros(16, 16), zeros(16)
    with pk.assume_hopper():
        (choice,) = pk.explain(lambda x, k, g, b: pk.gated_conv3d(x, k, None, g, b), *arrays)
    assert choice.implementation == "xla"
    assert f"1 or 3 taps an axis, and got {size}" in choice.refused["mosaic_gpu"]


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("out_scale", [None, 0.5])
@pytest.mark.parametrize("residual_scale", [None, 0.75])
def test_scales_of_inputs_output_and_residual_go_into_one_factor(
    activation, out_scale, residual_scale
):
    # The stored numbers of all maps and of the kernel, in float64, are what the epilogue must give.
    x = quantize(jnp.asarray(draw(1, 2, 4, 5, 32), jnp.float32), 0.02)
    kernel = pk.quantize_kernel(
        jnp.asarray(draw(3, 3, 3, 32, 64, seed=1), jnp.float32), jnp.full(32, 0.02), out_scale
    )
    stored = np.swapaxes(np.asarray(kernel.values, np.float64), -1, -2)
    bias = draw(64, seed=2)
    sums = oracle_conv3d(np.asarray(x, np.float64), stored * np.asarray(kernel.scales, np.float64))
    expected, residual = sums + bias, None
    if residual_scale is not None:
        added = quantize(jnp.asarray(draw(*sums.shape, seed=3) * 9, jnp.float32), residual_scale)
        residual = FeatureMap(added, None, jnp.float32(residual_scale))
        expected = expected + np.asarray(added, np.float64) * residual_scale
    function = {None: lambda v: v, "relu": lambda v: np.maximum(v, 0), "leaky_relu": leaky_relu}
    expected = function[activation](expected)
    actual = pk.conv3d(
        FeatureMap(x, None, jnp.float32(0.02)), kernel, jnp.asarray(bias, jnp.float32),
        residual=residual, activation=activation, implementation="mosaic_gpu",
    )  # fmt: skip
    assert actual.values.dtype == (jnp.bfloat16 if out_scale is None else E4M3)
    found = np.asarray(actual.values, np.float64)
    found = found if actual.scale is None else found * float(actual.scale)
    # Half a unit in the last place of the stored type, and the subnormals of e4m3.
    unit = 2.0**-8 if out_scale is None else 2.0**-4
    allowed = 1.01 * unit * np.abs(expected) + 2.0**-10 * (out_scale or 0) + 1e-4
    assert (np.abs(found - expected) <= allowed).all()


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("with_totals", [False, True])
def test_totals_are_sums_of_the_frames_only_if_asked_for(with_totals):
    x, kernel = (jnp.asarray(draw(*s), jnp.bfloat16) for s in ((2, 3, 4, 5, 16), (1, 1, 1, 16, 16)))
    out = pk.conv3d(x, kernel, with_totals=with_totals, implementation="mosaic_gpu")
    if not with_totals:
        assert out.totals is None
        return
    assert out.totals is not None
    sums = np.asarray(out.totals, np.float64).sum(axis=2)
    expected = np.asarray(out.values, np.float64).sum(axis=(2, 3))
    assert np.abs(sums - expected).max() < 2**-6 * np.abs(expected).max()


def mirrored_or_padded(x, kernel, padding):
    """conv2d in float64, by NumPy's own mirror."""
    kh, kw = kernel.shape[:2]
    around = ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0))
    padded = np.pad(x, around, mode="reflect" if padding == "reflect" else "constant")
    sums = oracle_conv3d(padded[:, None], kernel[None])[:, 0]
    return sums[:, kh // 2 : kh // 2 + x.shape[1], kw // 2 : kw // 2 + x.shape[2]]


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("size", [(1, 3), (7, 7), (3, 1)])
@pytest.mark.parametrize("channels", [3, 21, 33])
def test_grouped_taps_of_few_channels_give_every_pixel_of_the_image(size, channels, padding):
    # Below 32 output channels, horizontal taps are computed in groups and added up with shifts, and
    # borders come from strips. 33 channels take the plain way.
    x = np.round(draw(2, 9, 11, 16) * 4)
    kernel = np.round(draw(*size, 16, channels, seed=1) * 4)
    # Small whole numbers are exact in bfloat16, and their sums in float32.
    actual = pk.conv2d(
        jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16), padding=padding,
        out_dtype=jnp.float32, implementation="mosaic_gpu",
    )  # fmt: skip
    assert (np.asarray(actual, np.float64) == mirrored_or_padded(x, kernel, padding)).all()


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("pixels", [(4, 20), (20, 4), (7, 8)])
def test_images_no_larger_than_the_kernel_have_all_their_pixels(pixels, padding):
    x = np.round(draw(1, *pixels, 16) * 4)
    kernel = np.round(draw(7, 7, 16, 21, seed=1) * 4)
    actual = pk.conv2d(
        jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16), padding=padding,
        out_dtype=jnp.float32, implementation="mosaic_gpu",
    )  # fmt: skip
    assert (np.asarray(actual, np.float64) == mirrored_or_padded(x, kernel, padding)).all()


def test_32_output_channels_are_one_convolution_and_training_fills_chunks_of_channels():
    def run(x, kernel):
        return pk.conv2d(x, kernel, implementation="mosaic_gpu")

    def loss(x, kernel):
        return run(x, kernel).astype(jnp.float32).sum()

    arguments = jnp.zeros((1, 16, 16, 80), jnp.bfloat16), jnp.zeros((3, 3, 80, 32), jnp.bfloat16)
    with pk.assume_hopper():
        forward = record_convs(run, *arguments)
        both = record_convs(jax.grad(loss, (0, 1)), *arguments)
    # In groups of taps, sums of 64 channels would pass through memory.
    assert [(conv.depth, conv.channels) for conv in forward] == [(80, 32)]
    assert [(conv.depth, conv.channels) for conv in both] == [(96, 32), (32, 96)]


@pytest.mark.usefixtures("without_kernels")
def test_an_image_from_two_inputs_is_that_of_their_concatenation():
    x, kernel = draw(1, 9, 11, 48), jnp.asarray(draw(7, 7, 48, 3, seed=1), jnp.bfloat16)
    x = jnp.asarray(x, jnp.bfloat16)
    run = functools.partial(pk.conv2d, padding="reflect", implementation="mosaic_gpu")
    together, apart = run(x, kernel), run((x[..., :16], x[..., 16:]), kernel)
    assert (np.asarray(together, np.float32) == np.asarray(apart, np.float32)).all()
