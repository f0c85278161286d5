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
from jax import lax

import pallas_kernels as pk
from pallas_kernels.conv2d import mosaic_gpu as conv2d_mosaic
from pallas_kernels.core import device
from pallas_kernels.core.epilogue import finish
from pallas_kernels.hopper import gradients, launch
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.weight_gradient.gradient import weight_gradient
from tests.pallas_kernels.oracles import draw, needs_interpreter


def half(*shape, seed=0, by=1.0):
    return jnp.asarray(draw(*shape, seed=seed) / by, jnp.float16)


def defined(inputs, weights, geometry, size):
    """What a geometry means: taps from ``low`` before the picture on, zeros around it."""
    x = jnp.concatenate(inputs, axis=-1)
    kernel, low, phases = geometry.kernel, geometry.low, (1, geometry.phases, geometry.phases)
    strides = (1, geometry.stride, geometry.stride)
    # Between the pixels of a transposed convolution are zeros; its phases read every second tap.
    before = [phase * first for phase, first in zip(phases, low)]
    wide = [(have - 1) * phase + 1 for have, phase in zip(x.shape[1:4], phases)]
    out = [count * phase for count, phase in zip(size, phases)]
    padding = [
        (first, (count - 1) * stride + taps - first - have)
        for first, count, stride, taps, have in zip(before, out, strides, kernel, wide)
    ]
    return lax.conv_general_dilated(
        x,
        weights,
        strides,
        padding,
        lhs_dilation=phases,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        preferred_element_type=jnp.float32,
    )


def gemm(inputs, weights, geometry, size, *, scale=None, offset=None, residual=None, **options):
    """:func:`implicit_gemm` without a kernel."""
    sums = defined(inputs, weights, geometry, size)
    if offset is not None:
        sums = sums if scale is None else sums * scale[:, None, None, None]
        sums, scale = sums + offset[:, None, None, None], None
    added = None if residual is None else residual.astype(jnp.float32)
    sums = finish(sums, scale=scale, residual=added, activation=options.get("activation"))
    totals = sums.sum(axis=(2, 3))[:, :, None] if options.get("totals") else None
    return sums.astype(options.get("out_dtype") or inputs[0].dtype), totals


@pytest.fixture
def without_kernels(monkeypatch):
    for module in (gradients, launch, conv2d_mosaic):
        monkeypatch.setattr(module, "implicit_gemm", gemm)
    with pk.assume_hopper():
        yield


def assert_gradients_agree(operation, arguments):
    """Of a product with noise, so that no pixel's gradient is that of another one."""

    def objective(arguments, implementation):
        y = operation(*arguments, implementation=implementation)
        y = y.values if isinstance(y, pk.FeatureMap) else y
        return (y.astype(jnp.float32) * draw(*y.shape, seed=9)).sum()

    ours = jax.grad(objective)(arguments, "mosaic_gpu")
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), arguments)
    expected = jax.tree.leaves(jax.grad(objective)(wide, "reference"))
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
PRODUCTS = {  # of the kernel of weight gradients: geometry, channels of inputs and of the output
    "neighbours as one pixel": (SAME, (32,), 32),
    "two inputs": (SAME, (64, 128), 64),
    "joined inputs": (SAME, (32, 32), 32),
    "a stride": (HALVED, (32,), 64),
    "a transposed convolution": (DOUBLED, (32, 32), 32),
}


def assert_weights_agree(case, batch, time, pixels):
    geometry, depths, channels = PRODUCTS[case]
    inputs = tuple(half(batch, time, *pixels, depth, seed=depth) for depth in depths)
    size = [n // geometry.stride * geometry.phases for n in pixels]
    gradient = half(batch, time, *size, channels, seed=1)
    actual = weight_gradient(inputs, gradient, geometry)
    wide = tuple(x.astype(jnp.float32) for x in inputs)
    kernel = jnp.zeros((*geometry.kernel, sum(depths), channels))
    one_phase = (time, *(n // geometry.phases for n in size))
    _, pull_back = jax.vjp(lambda kernel: defined(wide, kernel, geometry, one_phase), kernel)
    (exact,) = pull_back(gradient.astype(jnp.float32))
    assert np.abs(actual - exact).max() < 1e-5 * np.abs(exact).max()  # sums in float32


@needs_interpreter
@pytest.mark.parametrize(
    ("case", "time"),
    [("neighbours as one pixel", 3), ("a stride", 2), ("a transposed convolution", 1)],
)
def test_a_kernel_makes_weight_gradients(case, time):
    with pk.interpret():
        assert_weights_agree(case, 2, time, (10, 12))


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
    _, pull_back = jax.vjp(lambda kernel: defined((x,), kernel, geometry, size), kernel)
    gradient = draw(2, time, *(geometry.phases * n for n in size[1:]), channels[1], seed=1)
    gradient = jnp.asarray(gradient, jnp.float32)
    halves = tuple(jnp.split(x, 2, axis=-1))
    actual = weight_gradient(halves, gradient, geometry)
    np.testing.assert_allclose(actual, pull_back(gradient)[0], rtol=1e-4, atol=1e-3)
