# SPDX-License-Identifier: Apache-2.0
"""The convolution with weights in shared memory: values, choice of tiles, what it leaves alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.core.device import SMEM_BYTES
from pallas_kernels.hopper.resident.problem import COLUMNS, ResidentProblem, plan
from tests.pallas_kernels.oracles import (
    assert_close,
    draw,
    leaky_relu,
    needs_interpreter,
    oracle_conv3d,
    rounded,
)

LOOK = ResidentProblem(
    images=7, height=360, width=640, in_channels=64, channels=32, taps=(3, 3), low=(1, 1),
    dtype=jnp.dtype("bfloat16"), out_dtype=jnp.dtype("bfloat16"), activation="leaky_relu",
    sharing=0, interpret=False,
)  # fmt: skip


def changed(**values):
    return dataclasses.replace(LOOK, **values)


@needs_interpreter
@pytest.mark.parametrize(
    ("shape", "channels", "taps", "samples", "dtype", "out_dtype"),
    [
        ((2, 7, 61, 32), 32, (3, 3), 1, "bfloat16", "bfloat16"),  # partial tiles, a shared residual
        ((1, 5, 100, 48), 16, (3, 3), 0, "float16", "float32"),  # three chunks, two tiles across
        ((2, 4, 64, 16), 64, (1, 5), 2, "bfloat16", "float16"),
        ((1, 5, 62, 32), 14, (3, 3), 1, "bfloat16", "float32"),  # 2 of 16 channels are cut off
        ((2, 2, 50, 16), 8, (3, 3), 1, "bfloat16", "float32"),  # 8 of 16 channels are cut off
        ((5, 3, 50, 64), 48, (3, 3), 5, "float16", "float16"),  # more tiles than blocks
    ],
)
def test_it_is_a_convolution(shape, channels, taps, samples, dtype, out_dtype):
    x, x64 = rounded(draw(*shape), dtype)
    kernel, kernel64 = rounded(draw(*taps, shape[-1], channels, seed=1) / 16, dtype)
    bias, bias64 = rounded(draw(channels, seed=2), dtype)
    sums = oracle_conv3d(x64[:, None], kernel64[None])[:, 0] + bias64
    residual = None
    if samples:
        residual, residual64 = rounded(draw(samples, *sums.shape[1:], seed=3), dtype)
        sums = sums + np.repeat(residual64, shape[0] // samples, axis=0)
    with pk.interpret():
        actual = jax.jit(
            lambda *given: pk.conv2d(
                *given, residual=residual, activation="leaky_relu", out_dtype=out_dtype,
                implementation="mosaic_gpu",
            )
        )(x, kernel, bias)  # fmt: skip
    assert actual.dtype == out_dtype
    assert_close(actual, leaky_relu(sums))


@needs_interpreter
def test_a_mirrored_image_has_no_zeros_around_it():
    x, x64 = rounded(draw(1, 6, 62, 16), "float16")
    kernel, kernel64 = rounded(draw(3, 3, 16, 32, seed=1) / 16, "float16")
    with pk.interpret():
        actual = pk.conv2d(x, kernel, padding="reflect", implementation="mosaic_gpu")
    padded = np.pad(x64, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    assert_close(actual, oracle_conv3d(padded[:, None], kernel64[None])[:, 0, 1:-1, 1:-1])


def test_the_bundled_networks_looks_take_it():
    def name(images, height, width, depth, channels, samples):
        def look(images, kernel, residual):
            return pk.conv2d(images, kernel, residual=residual, implementation="mosaic_gpu")

        shapes = (images, height, width, depth), (3, 3, depth, channels)
        arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
        added = jax.ShapeDtypeStruct((samples, height, width, channels), jnp.bfloat16)
        with pk.assume_hopper():
            traced = jax.jit(look).trace(*arrays, added if samples else None)
            return traced.lower(lowering_platforms=("cuda",)).as_text()

    assert "resident_64_to_32" in name(7, 360, 640, 64, 32, samples=1)
    assert "resident_96_to_96" in name(7, 90, 160, 96, 96, samples=0)
    # Half of each tile would lie outside.
    assert "stride1_64_to_32" in name(7, 36, 32, 64, 32, samples=1)


@pytest.mark.parametrize(
    ("depth", "channels", "taps", "out_dtype"),
    [
        (16, 8, 3, "float32"),
        (48, 48, 5, "bfloat16"),
        (96, 16, 3, "float16"),
        (32, 16, 7, "float32"),
    ],
)
def test_every_number_of_channels_lowers_for_a_gpu(depth, channels, taps, out_dtype):
    arrays = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16)
        for shape in ((2, 40, 125, depth), (taps, taps, depth, channels), (channels,))
    ]
    run = functools.partial(pk.conv2d, out_dtype=out_dtype, implementation="mosaic_gpu")
    with pk.assume_hopper():
        text = jax.jit(run).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert "resident" in text


def test_tiles_fit_and_fill_registers_and_shared_memory():
    for in_channels, channels in ((16, 16), (32, 32), (64, 32), (32, 64), (64, 64), (32, 96)):
        for out_dtype in ("bfloat16", "float32"):
            for sharing in (0, 7):
                found = plan(
                    changed(
                        in_channels=in_channels, channels=channels, sharing=sharing,
                        out_dtype=jnp.dtype(out_dtype),
                    ),
                    132,
                )  # fmt: skip
                assert found is not None
                assert found.smem_bytes <= SMEM_BYTES
                # 128 sums per thread of 128, besides which the epilogue needs registers.
                assert found.rows * COLUMNS * channels <= 128 * 128
                assert found.rows % 2 == 0


def test_it_leaves_alone_what_does_not_fit():
    assert plan(LOOK, 132) is not None
    assert plan(changed(in_channels=128, channels=128), 132) is None  # weights of 288 KB
    assert plan(changed(taps=(7, 7), in_channels=32, channels=64), 132) is None
    assert plan(changed(taps=(3, 1)), 132) is None  # one horizontal tap: nothing to gain
    assert plan(changed(in_channels=40), 132) is None
    assert plan(changed(width=80), 132) is None
    assert plan(changed(width=90), 132) is not None


def test_larger_tiles_are_taken_where_there_are_enough_of_them():
    many, few = plan(LOOK, 132), plan(changed(images=1, height=64, width=64), 132)
    assert many is not None
    assert few is not None
    assert many.rows > few.rows == 2
