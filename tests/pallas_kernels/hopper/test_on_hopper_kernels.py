# SPDX-License-Identifier: Apache-2.0
"""The kernels on a real Hopper GPU: values, repeatability, sizes. Skipped without one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.core import device
from tests.pallas_kernels.oracles import (
    assert_close,
    draw,
    leaky_relu,
    oracle_conv3d,
    oracle_conv3d_transpose,
    oracle_gate,
    oracle_sample,
    rounded,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(device.why_not() is not None, reason="needs a Hopper GPU"),
]
mosaic = {"implementation": "mosaic_gpu"}


@pytest.mark.parametrize(
    ("dtype", "time", "pixels"),
    [
        ("bfloat16", 4, (33, 17)),
        ("float16", 4, (7, 70)),
        ("bfloat16", 1, (1, 1)),
        ("float16", 5, (16, 64)),
        ("bfloat16", 2, (9, 8)),
    ],
)
@pytest.mark.parametrize("channels", [(16, 16), (32, 48), (64, 64), (128, 320)])
@pytest.mark.parametrize(
    ("size", "stride"),
    [((3, 3, 3), 1), ((3, 3, 3), 2), ((1, 1, 1), 2), ((1, 3, 3), 1), ((3, 1, 1), 1)],
)
def test_conv3d(size, stride, channels, dtype, time, pixels):
    x, x64 = rounded(draw(2, time, *pixels, channels[0]), dtype)
    kernel, kernel64 = rounded(draw(*size, *channels, seed=1) / 16, dtype)
    bias, bias64 = rounded(draw(channels[1], seed=2), dtype)
    scale = np.abs(draw(2, channels[1], seed=3)).astype(np.float32)
    sums = oracle_conv3d(x64, kernel64, (1, stride, stride)) + bias64
    residual, residual64 = rounded(draw(*sums.shape, seed=4), dtype)
    actual = pk.conv3d(
        x,
        kernel,
        bias,
        stride=(1, stride, stride),
        scale=jnp.asarray(scale),
        residual=residual,
        activation="relu",
        with_totals=True,
        **mosaic,
    )
    expected = np.maximum(sums * scale[:, None, None, None] + residual64, 0)
    assert_close(actual.values, expected)
    # Totals are those of the sums in registers or, added up by the tensor cores, of stored values.
    totals = np.asarray(actual.totals).sum(axis=2)
    exact, stored = (
        values.sum(axis=(2, 3)) for values in (expected, np.asarray(actual.values, np.float64))
    )
    error = min(np.abs(totals - sums).max() for sums in (exact, stored))
    assert error <= 2e-3 * np.abs(exact).max() + 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("pixels", [(1, 1), (9, 21), (32, 56)])
@pytest.mark.parametrize("joined", [(64,), (32, 32), (64, 64), (64, 32), (32, 128)])
def test_gated_convolutions(joined, pixels, dtype):
    arrays = [rounded(draw(2, 4, *pixels, n, seed=n + i), dtype) for i, n in enumerate(joined)]
    x64 = np.concatenate([array64 for _, array64 in arrays], axis=-1)
    gate, gate64 = rounded(draw(64, 64, seed=2) / 8, dtype)
    bias, bias64 = rounded(draw(64, seed=3), dtype)
    inputs = tuple(array for array, _ in arrays)
    for operation, oracle, size in (
        (pk.gated_conv3d, oracle_conv3d, (3, 3, 3)),
        (pk.gated_conv3d_transpose, oracle_conv3d_transpose, (3, 4, 4)),
    ):
        kernel, kernel64 = rounded(draw(*size, sum(joined), 64, seed=1) / 16, dtype)
        actual = operation(inputs, kernel, bias, gate, bias, activation="leaky_relu", **mosaic)
        sums = oracle(x64, kernel64) + bias64
        assert_close(actual.values, leaky_relu(oracle_gate(sums, gate64, bias64)))


@pytest.mark.parametrize("channels", [3, 21])
def test_the_mirrored_output_convolution(channels):
    x, x64 = rounded(draw(2, 37, 70, 64), "bfloat16")
    kernel, kernel64 = rounded(draw(7, 7, 64, channels, seed=1) / 16, "bfloat16")
    actual = pk.conv2d(x, kernel, padding="reflect", out_dtype=jnp.float32, **mosaic)
    padded = np.pad(x64, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")
    expected = oracle_conv3d(padded[:, None], kernel64[None])[:, 0, 3:-3, 3:-3]
    assert_close(actual, expected, float32=1e-5)


def look_up(batch=1, outputs=3, sources=2, height=24, width=31, channels=3, reach=6.0):
    random = np.random.default_rng(0)
    shape = (batch, outputs, sources, height, width)
    arrays = (
        random.random((batch, sources, height, width, channels)),
        random.uniform(-reach, reach, (*shape, 2)),
        random.uniform(-1, 1, shape),
        random.random((batch, outputs, height, width, channels)),
    )
    return arrays, tuple(jnp.asarray(each, jnp.float32) for each in arrays)


@pytest.mark.parametrize(
    "size",
    [
        {},
        {"height": 1, "width": 300},
        {"height": 300, "width": 1, "reach": 500.0},
        {"height": 5, "width": 7, "batch": 2},
        {"channels": 1, "sources": 3},
        {"channels": 4, "outputs": 1},
    ],
    ids=str,
)
def test_the_look_up_and_its_gradients(size):
    exact, arrays = look_up(**size)

    def mixed(images, displacements, weights, residual, implementation="mosaic_gpu"):
        return pk.sample(
            images, displacements, weights, residual=residual, implementation=implementation
        )

    expected = oracle_sample(*exact[:3]) + exact[3]
    assert np.abs(np.asarray(jax.jit(mixed)(*arrays)) - expected).max() < 1e-4

    def loss(*arrays, implementation):
        return (mixed(*arrays, implementation=implementation) ** 2).sum()

    ours, theirs = (
        jax.jit(jax.grad(functools.partial(loss, implementation=name), (0, 1, 2, 3)))(*arrays)
        for name in ("mosaic_gpu", "reference")
    )
    for mine, other in zip(ours, theirs):
        assert np.abs(mine - other).max() <= 1e-4 * max(1, np.abs(other).max())


@pytest.mark.parametrize(("enlarged", "fold"), [(1, 1), (2, 2), (4, 2), (2, 4)])
@pytest.mark.parametrize("size", [(8, 16), (48, 80), (216, 384)], ids=str)
def test_warps_are_their_definition(size, enlarged, fold):
    random, (height, width), times = np.random.default_rng(0), size, np.array([0.25, 0.5])
    arrays = (
        random.random((2, 2, height, width, 3)),
        random.normal(size=(2, 2, height // enlarged, width // enlarged, 8)),
        random.normal(size=(2, 2, height // fold, width // fold, fold * fold, 8)) / 8,
        random.random((2, 1, height, width, 1)),
    )

    @functools.partial(jax.jit, static_argnames="implementation")
    def both(images, fields, correction, keep, *, implementation):
        given = {"unit": 4.0, "enlarged": enlarged, "implementation": implementation}
        half = implementation == "mosaic_gpu"
        dtype = jnp.float16 if half else jnp.float32
        warped = pk.warp(images, fields, times, fold=fold, middle=0.5, dtype=dtype, **given)
        mixed = pk.warp_and_mix(images, fields, times, correction=correction, keep=keep, **given)
        return warped[..., :14].astype(jnp.float32), mixed

    given = tuple(jnp.asarray(each, jnp.float32) for each in arrays)
    ours, theirs = (both(*given, implementation=name) for name in ("mosaic_gpu", "reference"))
    assert np.abs(ours[0] - theirs[0]).max() < 4e-3  # float16, of values of up to 4
    assert np.abs(ours[1] - theirs[1]).max() < 1e-4
    for _ in range(50):
        again = both(*given, implementation="mosaic_gpu")
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again, ours))


@pytest.mark.parametrize("pairs", [1, 2])
@pytest.mark.parametrize(
    ("size", "reach"), [((9, 15), 4.0), ((47, 81), 4.0), ((1, 300), 40.0), ((216, 384), 4.0)]
)
def test_cubic_look_ups_are_their_definition(size, reach, pairs):
    random, times = np.random.default_rng(0), np.array([0.25, 0.5])
    arrays = (
        random.random((2, 2, *size, 3)),
        random.normal(size=(2, 2, *size, 8)),
        random.normal(size=(2, 2, *size, 1, 2 + 6 * pairs)) / 8,
        random.random((2, 1, *size, 1)),
    )

    @functools.partial(jax.jit, static_argnames="implementation")
    def mix(images, fields, correction, keep, *, implementation):
        return pk.warp_and_mix(
            images, fields, times, correction=correction, keep=keep, pairs=pairs, cubic=True,
            unit=reach, implementation=implementation,
        )  # fmt: skip

    given = tuple(jnp.asarray(each, jnp.float32) for each in arrays)
    ours, theirs = (mix(*given, implementation=name) for name in ("mosaic_gpu", "reference"))
    assert np.abs(ours - theirs).max() < 1e-4
    for _ in range(50):
        assert bool((mix(*given, implementation="mosaic_gpu") == ours).all())


@pytest.mark.parametrize(
    ("out_dtype", "samples"), [("bfloat16", 1), ("float16", 0), ("float32", 7)]
)
@pytest.mark.parametrize(
    ("pixels", "depth", "channels", "taps"),
    [
        ((37, 640), 64, 32, (3, 3)),
        ((90, 160), 32, 64, (3, 3)),
        ((45, 125), 64, 64, (3, 3)),
        ((23, 160), 96, 96, (3, 3)),
        ((8, 64), 16, 16, (1, 3)),
        ((31, 190), 48, 48, (5, 5)),
        ((40, 100), 32, 24, (7, 7)),
        ((30, 64), 64, 8, (3, 3)),
    ],
)
def test_convolutions_with_resident_weights(pixels, depth, channels, taps, samples, out_dtype):
    # Every tap of every tile is compared: the taps begin anywhere in a swizzle's pattern.
    x, x64 = rounded(draw(7, *pixels, depth))
    kernel, kernel64 = rounded(draw(*taps, depth, channels, seed=1) / 16)
    bias, bias64 = rounded(draw(channels, seed=2))
    sums = oracle_conv3d(x64[:, None], kernel64[None])[:, 0] + bias64
    residual = None
    if samples:
        residual, residual64 = rounded(draw(samples, *sums.shape[1:], seed=3))
        sums = sums + np.repeat(residual64, 7 // samples, axis=0)
    run = jax.jit(
        functools.partial(
            pk.conv2d, residual=residual, activation="leaky_relu", out_dtype=out_dtype, **mosaic
        )
    )
    actual = run(x, kernel, bias)
    assert_close(actual, leaky_relu(sums), float32=1e-5)
    for _ in range(20):
        assert bool((run(x, kernel, bias) == actual).all())


def test_two_hundred_look_ups_and_gradients_are_the_same_to_the_bit():
    _, arrays = look_up(outputs=7, height=96, width=160)

    @jax.jit
    def run(images, displacements, weights, residual):
        def loss(*others):
            mixed = pk.sample(images, *others[:2], residual=others[2], **mosaic)
            return (mixed**2).sum(), mixed

        return jax.grad(loss, (0, 1, 2), has_aux=True)(displacements, weights, residual)

    first = run(*arrays)
    for _ in range(199):
        again = run(*arrays)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again, first))


def test_two_hundred_runs_are_the_same_to_the_bit():
    x = jnp.asarray(draw(1, 4, 96, 160, 64), jnp.bfloat16)
    kernel = jnp.asarray(draw(3, 3, 3, 64, 64, seed=1) / 16, jnp.bfloat16)
    gate, bias = jnp.asarray(draw(64, 64, seed=2) / 8, jnp.bfloat16), jnp.zeros(64, jnp.bfloat16)

    @jax.jit
    def run(x):
        y = pk.gated_conv3d(x, kernel, bias, gate, bias, residual=x, with_totals=True, **mosaic)
        return pk.gated_conv3d_transpose(
            y, jnp.pad(kernel, ((0, 0), (0, 1), (0, 1), (0, 0), (0, 0))), bias, gate, bias, **mosaic
        ).values

    first = run(x)
    assert all(bool((run(x) == first).all()) for _ in range(199))


@pytest.mark.parametrize(
    "pixels", [(16, 16), (24, 1000), (1000, 24), (271, 481), (720, 1280), (2160, 3840)]
)
def test_no_size_hangs(pixels):
    x = jnp.ones((1, 4, *pixels, 64), jnp.bfloat16)
    kernel = jnp.full((3, 3, 3, 64, 64), 2**-10, jnp.bfloat16)
    y = jax.jit(functools.partial(pk.conv3d, **mosaic))(x, kernel).values
    inner = y[0, 1, 1:-1, 1:-1] if min(pixels) > 2 else y[0, 1]
    assert bool((inner == 27 * 64 / 1024).all())  # exact in bfloat16: 1.6875
    assert float(y[0, 0, 0, 0, 0]) == 2 * 2 * 2 * 64 / 1024  # a corner of the first frame
