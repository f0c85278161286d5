# SPDX-License-Identifier: Apache-2.0
"""Gradients of the Mosaic GPU operations, against the gradient of the definitions in float32.

Most cases run the convolutions as ``lax`` ones with a geometry's meaning, which is fast; some run
the kernels step by step. What the kernels do on a real GPU is checked in test_on_hopper_kernels.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.core import device
from pallas_kernels.core.jax_versions import CAN_TRANSPOSE
from pallas_kernels.hopper import gradients
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.gradients import input_gradient
from pallas_kernels.hopper.weight_gradient.gradient import weight_gradient
from tests.pallas_kernels.oracles import draw, needs_interpreter, oracle_geometry


def half(*shape, seed=0, by=1.0):
    return jnp.asarray(draw(*shape, seed=seed) / by, jnp.float16)


def assert_gradients_agree(operation, arguments):
    """Of a product with noise, so that no pixel's gradient is that of another one."""

    def objective(arguments, implementation):
        y = operation(*arguments, implementation=implementation)
        y = y.values if isinstance(y, pk.FeatureMap) else y
        return (y.astype(jnp.float32) * draw(*y.shape, seed=9)).sum()

    gradient = jax.jit(jax.grad(objective), static_argnums=1)
    ours = gradient(arguments, "mosaic_gpu")
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), arguments)
    expected = jax.tree.leaves(gradient(wide, "reference"))
    for actual, exact in zip(jax.tree.leaves(ours), expected, strict=True):
        error = np.linalg.norm(np.ravel(np.float64(actual) - np.float64(exact)))
        assert error < 1e-3 * np.linalg.norm(np.ravel(exact))


X, Y, BIAS = half(2, 4, 4, 6, 16), half(2, 4, 4, 6, 16, seed=1), half(16, seed=3)
GATE, SCALE = half(16, 16, seed=4), half(2, 16, seed=5)
KERNEL, UP = half(3, 3, 3, 32, 16, seed=2, by=8), half(3, 4, 4, 32, 16, seed=2, by=8)


def two_inputs(x, y, kernel, *rest, op, **options):
    return op((x, y), kernel, *rest, **options)


def strided(x, kernel, bias=None, residual=None, **options):
    return pk.conv3d(x, kernel, bias, stride=(1, 2, 2), residual=residual, **options)


def scaled(x, kernel, scale, residual, **options):
    return pk.conv3d(x, kernel, scale=scale, residual=residual, activation="relu", **options)


def gated(x, y, kernel, bias, gate, shift, residual=None, **options):
    return pk.gated_conv3d((x, y), kernel, bias, gate, shift, residual=residual, **options)


CASES = {
    "joined inputs": (
        functools.partial(two_inputs, op=pk.conv3d, activation="relu", with_totals=True),
        (X, Y, KERNEL, BIAS),
    ),
    "a stride and a residual": (
        functools.partial(strided, activation="leaky_relu"),
        (X, KERNEL[..., :16, :], BIAS, half(2, 4, 2, 3, 16, seed=6)),
    ),
    "a stride and odd sizes": (strided, (X[:, :, :3, :5], KERNEL[..., :16, :], BIAS)),
    "a stride without taps": (strided, (X, KERNEL[:1, :1, :1, :16])),
    "a stride and five taps": (strided, (X, half(1, 5, 5, 16, 16, by=8))),
    "a stride and seven taps": (strided, (X, half(1, 7, 7, 16, 16, by=8))),
    "the stem": (strided, (X[..., :3], half(3, 7, 7, 3, 16, by=8), BIAS)),
    "a scale": (scaled, (X, KERNEL[..., :16, :], SCALE, Y)),
    "frames fused": (
        functools.partial(pk.conv3d, pad_time=False, activation="leaky_relu"),
        (X, half(4, 1, 1, 16, 16, by=4)),
    ),
    "a gate": (functools.partial(gated, activation="relu"), (X, Y, KERNEL, BIAS, GATE, BIAS, X)),
    "a gate that passes totals on": (
        functools.partial(gated, activation="leaky_relu", with_totals=True),
        (X, Y, KERNEL, BIAS, GATE, BIAS),
    ),
    "a gate alone": (pk.gated_conv3d, (X, KERNEL[..., :16, :], None, GATE, BIAS)),
    "a transposed convolution": (
        functools.partial(two_inputs, op=pk.gated_conv3d_transpose, activation="leaky_relu"),
        (X, Y, UP, BIAS, GATE, BIAS),
    ),
    "mirrored borders": (
        functools.partial(pk.conv2d, padding="reflect", out_dtype=jnp.float32),
        (X[:, 0], half(3, 5, 16, 5, by=4), BIAS[:5]),
    ),
    "an image": (
        functools.partial(pk.conv2d, activation="relu"),
        (X[:, 0], half(3, 3, 16, 16, by=4), BIAS),
    ),
    "images that share a residual": (
        lambda x, kernel, bias, residual, **options: pk.conv2d(
            x, kernel, bias, residual=residual, activation="leaky_relu", **options
        ),
        (X[:, 0], half(3, 3, 16, 16, by=4), BIAS, half(1, *X.shape[2:4], 16)),
    ),
    "an image of one and a half chunks": (pk.conv2d, (half(2, 4, 5, 48), half(3, 3, 48, 32, by=4))),
}


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_definition(case):
    assert_gradients_agree(*CASES[case])


@needs_interpreter
@pytest.mark.parametrize("case", ["a stride and a residual", "a transposed convolution"])
def test_the_kernels_make_the_gradients(case):
    operation, arguments = CASES[case]
    first = [a[:1, :2] if a.ndim == 5 and len(a) == 2 else a for a in arguments]
    with pk.interpret():
        assert_gradients_agree(operation, tuple(first))


@pytest.mark.gpu
@pytest.mark.skipif(device.why_not() is not None, reason="needs a Hopper GPU")
@pytest.mark.parametrize("case", CASES)
def test_the_gpu_makes_the_gradients(case):
    assert_gradients_agree(*CASES[case])


SAME, HALVED = Geometry((3, 3, 3), (1, 1, 1)), Geometry((3, 3, 3), (1, 1, 1), stride=2)
DOUBLED = Geometry((3, 4, 4), (1, 1, 1), phases=2)
FUSED, UNPADDED = Geometry((4, 1, 1), (0, 0, 0)), Geometry((3, 3, 3), (0, 1, 1))
SEVEN, PADDED = Geometry((1, 7, 7), (0, 0, 0)), Geometry((1, 5, 5), (0, 2, 2))
PRODUCTS = {  # of the kernel of weight gradients: geometry, channels of inputs and of the output
    "neighbours as one pixel": (SAME, (32,), 32),
    "two inputs": (SAME, (64, 128), 64),
    "joined inputs": (SAME, (32, 32), 32),
    "a stride": (HALVED, (32,), 64),
    "a transposed convolution": (DOUBLED, (32, 32), 32),
    "frames fused": (FUSED, (64,), 64),
    "neighbours of frames fused": (FUSED, (32,), 32),
    "fewer frames than inputs": (UNPADDED, (64,), 64),
    "seven taps": (SEVEN, (64,), 64),
    "neighbours of seven taps": (SEVEN, (64,), 32),
    "neighbours of five taps": (PADDED, (32,), 32),
}


def assert_weights_agree(case, batch, time, pixels):
    geometry, depths, channels = PRODUCTS[case]
    missing = geometry.kernel[0] - 1 - 2 * geometry.low[0]  # frames that the gradient has fewer
    time = max(time, 1 + missing)
    inputs = tuple(half(batch, time, *pixels, depth, seed=depth) for depth in depths)
    size = [n // geometry.stride * geometry.phases for n in pixels]
    if geometry == SEVEN:  # its images are padded before
        size = [n - 6 for n in pixels]
    gradient = half(batch, time - missing, *size, channels, seed=1)
    actual = weight_gradient(inputs, gradient, geometry)
    wide = tuple(x.astype(jnp.float32) for x in inputs)
    kernel = jnp.zeros((*geometry.kernel, sum(depths), channels))
    one_phase = (time - missing, *(n // geometry.phases for n in size))
    _, pull_back = jax.vjp(
        lambda kernel: oracle_geometry(wide, kernel, geometry, one_phase), kernel
    )
    (exact,) = pull_back(gradient.astype(jnp.float32))
    assert np.abs(actual - exact).max() < 1e-5 * np.abs(exact).max()  # sums in float32


@needs_interpreter
@pytest.mark.parametrize(
    ("case", "time"),
    [
        ("neighbours as one pixel", 3),
        ("a stride", 2),
        ("a transposed convolution", 1),
        ("frames fused", 4),
        ("neighbours of frames fused", 4),
        ("fewer frames than inputs", 4),
        ("seven taps", 1),
        ("neighbours of seven taps", 2),
        ("neighbours of five taps", 1),
    ],
)
def test_a_kernel_makes_weight_gradients(case, time):
    with pk.interpret():
        assert_weights_agree(case, 2, time, (10, 12))


@pytest.mark.skipif(not CAN_TRANSPOSE, reason="needs jax ≥ 0.11: before, XLA computes them")
def test_inputs_that_the_kernel_takes_one_by_one_are_not_joined():
    def sums(x, y, gradient):
        return weight_gradient((x, y), gradient, SAME)

    with pk.assume_hopper():
        for depths, joins in (((32, 32), 0), ((64, 128), 0), ((16, 16), 1)):
            inputs = (jax.ShapeDtypeStruct((2, 4, 8, 8, depth), jnp.float16) for depth in depths)
            gradient = jax.ShapeDtypeStruct((2, 4, 8, 8, 32), jnp.float16)
            program = str(jax.make_jaxpr(sums)(*inputs, gradient))
            assert program.count(f"{sum(depths)}] = concatenate[dimension=4]") == joins


@pytest.mark.skipif(not CAN_TRANSPOSE, reason="needs jax ≥ 0.11: before, XLA computes them")
@pytest.mark.parametrize(
    ("kernel", "by_kernel"),
    [((3, 3, 3), True), ((1, 7, 7), True), ((3, 7, 7), False), ((3, 4, 4), False)],
)
def test_the_kernel_takes_taps_whose_sums_fit_into_registers(kernel, by_kernel):
    shape = jax.ShapeDtypeStruct((2, 4, 16, 16, 64), jnp.float16)
    sums = functools.partial(weight_gradient, geometry=Geometry(kernel, (0, 0, 0)))
    with pk.assume_hopper():
        program = str(jax.make_jaxpr(lambda x, y: sums((x,), y))(shape, shape))
    assert ("mpmd_map" in program or "core_map" in program) == by_kernel


@pytest.mark.gpu
@pytest.mark.skipif(device.why_not() is not None, reason="needs a Hopper GPU")
@pytest.mark.parametrize("case", PRODUCTS)
@pytest.mark.parametrize(("batch", "time", "pixels"), [(2, 4, (34, 70)), (3, 1, (8, 16))])
def test_the_gpu_makes_weight_gradients(case, batch, time, pixels):
    with jax.default_matmul_precision("highest"):
        assert_weights_agree(case, batch, time, pixels)


@pytest.mark.parametrize(
    ("time", "channels"),
    [(1, (8, 8)), (3, (8, 8)), (3, (64, 64)), (6, (8, 8))],  # either formulation, and both ends
)
@pytest.mark.parametrize(
    ("geometry", "stretch"),
    [
        (Geometry((3, 3, 3), (1, 1, 1)), 1.0),
        (Geometry((3, 3, 3), (1, 1, 1), stride=2), 0.5),
        (Geometry((3, 1, 1), (1, 0, 0)), 1.0),
        (Geometry((1, 1, 1), (0, 0, 0), stride=2), 0.5),
        (Geometry((1, 5, 3), (0, 0, 2)), 1.0),
        (Geometry((3, 4, 4), (1, 1, 1), phases=2), 1.0),
    ],
    ids=str,
)
def test_weight_gradients_are_those_of_the_geometry(geometry, stretch, time, channels):
    x = jnp.asarray(draw(2, time, 4, 6, channels[0]), jnp.float32)
    size = (time, int(4 * stretch), int(6 * stretch))
    kernel = jnp.zeros((*geometry.kernel, *channels))
    _, pull_back = jax.vjp(lambda kernel: oracle_geometry((x,), kernel, geometry, size), kernel)
    gradient = draw(2, time, *(geometry.phases * n for n in size[1:]), channels[1], seed=1)
    gradient = jnp.asarray(gradient, jnp.float32)
    halves = tuple(jnp.split(x, 2, axis=-1))
    actual = weight_gradient(halves, gradient, geometry)
    np.testing.assert_allclose(actual, pull_back(gradient)[0], rtol=1e-4, atol=1e-3)


RESIDENT = {  # input gradients of the kernel with resident weights: geometry, channels, pixels
    "mirrored borders": (SEVEN, (32, 32), (20, 52)),
    "five taps": (Geometry((1, 5, 5), (0, 2, 2)), (48, 16), (9, 60)),
}


def assert_resident_input_gradient_agrees(case, batch):
    geometry, (depth, channels), pixels = RESIDENT[case]
    weights = half(*geometry.kernel, depth, channels, by=8)
    size = tuple(
        n + 2 * low - count + 1
        for n, low, count in zip(pixels, geometry.low[1:], geometry.kernel[1:])
    )
    gradient = half(batch, 1, *size, channels, seed=1)
    shape = (batch, 1, *pixels, depth)
    _, pull_back = jax.vjp(
        lambda x: oracle_geometry((x,), weights.astype(jnp.float32), geometry, (1, *size)),
        jnp.zeros(shape),
    )
    (exact,) = pull_back(gradient.astype(jnp.float32))
    actual = input_gradient(gradient, weights, geometry, (1, *pixels))
    assert actual.shape == shape
    np.testing.assert_allclose(actual, exact, rtol=2e-3, atol=2e-3 * np.abs(exact).max())


@needs_interpreter
@pytest.mark.parametrize("case", RESIDENT)
def test_resident_weights_make_input_gradients_of_images(case, monkeypatch):
    # The other kernel must not stand in.
    monkeypatch.setattr(gradients, "implicit_gemm", None)
    with pk.interpret():
        assert_resident_input_gradient_agrees(case, 1)


@pytest.mark.gpu
@pytest.mark.skipif(device.why_not() is not None, reason="needs a Hopper GPU")
@pytest.mark.parametrize("case", RESIDENT)
def test_the_gpu_makes_input_gradients_with_resident_weights(case, monkeypatch):
    monkeypatch.setattr(gradients, "implicit_gemm", None)
    with jax.default_matmul_precision("highest"):
        assert_resident_input_gradient_agrees(case, 3)


INPUT_GRADIENTS = [
    (Geometry((3, 3, 3), (1, 1, 1)), (3, 5, 6)),
    (Geometry((1, 5, 7), (0, 2, 3)), (2, 4, 9)),
    (Geometry((3, 1, 1), (1, 0, 0)), (1, 3, 2)),
    (Geometry((4, 1, 1), (0, 0, 0)), (4, 3, 3)),
    (Geometry((1, 3, 3), (0, 0, 0)), (1, 6, 7)),  # mirrored borders: the picture is padded before
    (Geometry((1, 1, 1), (0, 0, 0), stride=2), (2, 6, 4)),
    (Geometry((3, 3, 3), (1, 1, 1), stride=2), (3, 6, 8)),
    (Geometry((3, 5, 3), (1, 2, 1), stride=2), (2, 6, 2)),
    (Geometry((3, 7, 7), (1, 3, 3), stride=2), (2, 8, 10)),
    (Geometry((1, 4, 4), (0, 1, 1), stride=2), (1, 4, 6)),  # the stem, as blocks of pixels
    (Geometry((3, 4, 4), (1, 1, 1), phases=2), (3, 3, 4)),
]


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize(("geometry", "pixels"), INPUT_GRADIENTS, ids=str)
def test_input_gradients_are_those_of_the_geometry(geometry, pixels):
    x = jnp.asarray(draw(2, *pixels, 3), jnp.float32)
    weights = jnp.asarray(draw(*geometry.kernel, 3, 2, seed=1), jnp.float32)
    # The number of outputs for which every tap has its pixel or its zero.
    kt, *taps = geometry.kernel
    before, *low = geometry.low
    size = (
        pixels[0] + 2 * before - kt + 1,
        *(
            n if geometry.phases == 2 else (n + 2 * first - count) // geometry.stride + 1
            for n, first, count in zip(pixels[1:], low, taps)
        ),
    )
    y, pull_back = jax.vjp(lambda x: oracle_geometry((x,), weights, geometry, size), x)
    gradient = jnp.asarray(draw(*y.shape, seed=2), jnp.float32)
    (expected,) = pull_back(gradient)
    actual = input_gradient(gradient, weights, geometry, pixels)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()
