# SPDX-License-Identifier: Apache-2.0
"""Identities that hold for convolutions and gates of any size, checked on each implementation."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from tests.pallas_kernels.oracles import draw

IMPLEMENTATIONS = ("xla", "reference")
# float32 sums of some hundred products; the two sides of an identity add them in another order.
CLOSE = 2e-6

WIDE_OPEN = jnp.zeros((4, 4)), jnp.full(4, 40.0)  # a gate whose scale rounds to 1
IN, OUT = 9, 4


def array(*shape, seed=0):
    return jnp.asarray(draw(*shape, seed=seed), jnp.float32)


def transposed(x, kernel, bias=None, gate=WIDE_OPEN, **options):
    return pk.gated_conv3d_transpose(x, kernel, bias, *gate, **options).values


def gated(x, kernel, bias=None, gate=WIDE_OPEN, **options):
    return pk.gated_conv3d(x, kernel, bias, *gate, **options).values


def conv3d(x, kernel, bias=None, **options):
    return pk.conv3d(x, kernel, bias, **options).values


# Operations without their gate, which are linear in the input and in the kernel.
LINEAR = {
    "3x3x3": (conv3d, (3, 3, 3)),
    "3x3x3, stride 2": (functools.partial(conv3d, stride=(1, 2, 2)), (3, 3, 3)),
    "1x7x5": (conv3d, (1, 7, 5)),
    "all frames at once": (functools.partial(conv3d, pad_time=False), (4, 1, 1)),
    "open gate": (gated, (3, 3, 3)),
    "transposed": (transposed, (3, 4, 4)),
}
X = array(2, 4, 6, 7, IN)


@pytest.fixture(params=LINEAR)
def linear(request):
    operation, size = LINEAR[request.param]
    # Not `hash`, which differs from run to run.
    return operation, array(*size, IN, OUT, seed=zlib.crc32(request.param.encode()))


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    return request.param


def assert_same(actual, expected, relative=CLOSE):
    assert actual.shape == expected.shape
    error = np.abs(np.asarray(actual) - np.asarray(expected)).max()
    assert error <= relative * np.abs(np.asarray(expected)).max()


def test_a_convolution_is_linear_in_its_input(linear, implementation):
    operation, kernel = linear
    run = functools.partial(operation, implementation=implementation)
    other = array(*X.shape, seed=1)
    assert_same(
        run(2 * X - 3 * other, kernel), 2 * run(X, kernel) - 3 * run(other, kernel), 4 * CLOSE
    )


def test_a_convolution_is_linear_in_its_kernel(linear, implementation):
    operation, kernel = linear
    run = functools.partial(operation, implementation=implementation)
    other = array(*kernel.shape, seed=1)
    assert_same(run(X, kernel + 2 * other), run(X, kernel) + 2 * run(X, other), 4 * CLOSE)


def test_a_bias_shifts_every_pixel_of_its_channel(linear, implementation):
    operation, kernel = linear
    run = functools.partial(operation, implementation=implementation)
    bias = array(OUT, seed=1)
    assert_same(run(X, kernel, bias), run(X, kernel) + bias)


def test_samples_do_not_see_each_other(linear, implementation):
    operation, kernel = linear
    run = functools.partial(operation, implementation=implementation)
    alone = [run(X[n : n + 1], kernel) for n in range(2)]
    assert_same(run(X, kernel), jnp.concatenate(alone))


def test_input_channels_may_be_split_among_any_number_of_inputs(linear, implementation):
    operation, kernel = linear
    run = functools.partial(operation, implementation=implementation)
    parts = (X[..., :2], X[..., 2:3], X[..., 3:])
    assert_same(run(parts, kernel), run(X, kernel))


def test_the_order_of_input_channels_is_that_of_the_kernel(linear, implementation):
    operation, kernel = linear
    run = functools.partial(operation, implementation=implementation)
    order = np.random.default_rng(0).permutation(IN)
    assert_same(run(X[..., order], kernel[..., order, :]), run(X, kernel))


def test_output_channels_are_independent(linear, implementation):
    operation, kernel = linear
    run = functools.partial(operation, implementation=implementation)
    order = np.asarray([2, 0, 3, 1])
    assert_same(run(X, kernel[..., order]), run(X, kernel)[..., order])


@pytest.mark.parametrize("name", ["3x3x3", "1x7x5", "open gate", "transposed"])
def test_zero_pixels_around_a_frame_are_its_padding(name, implementation):
    # Padding is zeros, so a frame with a border of zeros gives the same values inside.
    operation, size = LINEAR[name]
    run = functools.partial(operation, implementation=implementation)
    kernel = array(*size, IN, OUT, seed=1)
    framed = jnp.pad(X, ((0, 0), (1, 1), (3, 3), (3, 3), (0, 0)))
    grown = 3 * run(X, kernel).shape[2] // X.shape[2]  # 6 rows if the output is twice as large
    assert_same(run(framed, kernel)[:, 1:-1, grown:-grown, grown:-grown], run(X, kernel))


@pytest.mark.parametrize("name", ["3x3x3", "1x7x5", "transposed"])
@pytest.mark.parametrize(("axis", "tap_axis"), [(1, 0), (2, 1), (3, 2)])
def test_a_mirrored_input_and_kernel_give_the_mirrored_output(name, axis, tap_axis, implementation):
    operation, size = LINEAR[name]
    run = functools.partial(operation, implementation=implementation)
    kernel = array(*size, IN, OUT, seed=1)
    mirrored = run(jnp.flip(X, axis), jnp.flip(kernel, tap_axis))
    assert_same(jnp.flip(mirrored, axis), run(X, kernel))


def test_exchanging_rows_and_columns_commutes_with_a_convolution(implementation):
    kernel = array(3, 5, 3, IN, OUT)
    run = functools.partial(conv3d, implementation=implementation)
    turned = run(jnp.swapaxes(X, 2, 3), jnp.swapaxes(kernel, 1, 2))
    assert_same(jnp.swapaxes(turned, 2, 3), run(X, kernel))


@pytest.mark.parametrize("size", [(3, 3, 3), (1, 1, 1), (3, 7, 7), (1, 5, 3)])
@pytest.mark.parametrize("channels", [3, 9])  # 3: the stem's way through space to depth
def test_a_stride_keeps_every_second_row_and_column(size, channels, implementation):
    x, kernel = X[..., :channels], array(*size, channels, OUT, seed=1)
    run = functools.partial(conv3d, implementation=implementation)
    assert_same(run(x, kernel, stride=(1, 2, 2)), run(x, kernel)[:, :, ::2, ::2])


@pytest.mark.parametrize("pixels", [(3, 4), (1, 1), (2, 5)])
def test_the_transposed_convolution_is_the_adjoint_of_a_strided_one(pixels, implementation):
    # <up(x), y> = <x, down(y)>, where `down` is the 3×4×4 convolution of stride 2 and padding 1
    # with reversed taps and exchanged channels. NumPy's sum over windows is independent of lax.
    x, kernel = array(1, 2, *pixels, 3), array(3, 4, 4, 3, OUT, seed=1)
    y = draw(1, 2, 2 * pixels[0], 2 * pixels[1], OUT, seed=2)
    padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    down = np.zeros(x.shape)
    for t, i, j in np.ndindex(3, 4, 4):
        window = padded[:, t : t + 2, i : i + 2 * pixels[0] : 2, j : j + 2 * pixels[1] : 2]
        down += window @ np.asarray(kernel[2 - t, 3 - i, 3 - j], np.float64).T
    up = np.asarray(transposed(x, kernel, implementation=implementation), np.float64)
    assert (up * y).sum() == pytest.approx((np.asarray(x, np.float64) * down).sum(), rel=1e-5)


def test_a_kernel_with_one_centre_tap_mixes_channels_and_moves_nothing(implementation):
    mixing = array(IN, OUT, seed=1)
    kernel = jnp.zeros((3, 5, 3, IN, OUT)).at[1, 2, 1].set(mixing)
    expected = np.asarray(X, np.float64) @ np.asarray(mixing, np.float64)
    assert_same(conv3d(X, kernel, implementation=implementation), expected)


@pytest.mark.parametrize("tap", [(0, 1, 1), (1, 0, 1), (1, 2, 2), (2, 1, 0)])
def test_a_kernel_with_one_tap_moves_frames_and_pixels_by_that_tap(tap, implementation):
    # Correlation, not flipped: tap 0 reads the frame before, the row above, the column before.
    kernel = jnp.zeros((3, 3, 3, IN, IN)).at[tap].set(jnp.eye(IN))
    padded = jnp.pad(X, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    t, i, j = tap
    expected = padded[:, t : t + 4, i : i + 6, j : j + 7]
    assert_same(conv3d(X, kernel, implementation=implementation), expected)


@pytest.mark.parametrize("operation", [gated, transposed])
def test_a_gate_depends_on_the_mean_and_not_on_where_pixels_are(operation, implementation):
    size = (3, 3, 3) if operation is gated else (3, 4, 4)
    kernel = jnp.zeros((*size, IN, OUT)).at[1, 1:3, 1:3].set(array(IN, OUT, seed=1))
    gate = array(OUT, OUT, seed=2), array(OUT, seed=3)
    # A border of zeros, so that no tap leaves the frame and the mean is that of the moved clip.
    clip = jnp.pad(X, ((0, 0), (1, 1), (2, 2), (2, 2), (0, 0)))
    run = functools.partial(operation, kernel=kernel, gate=gate, implementation=implementation)
    step = run(clip).shape[3] // clip.shape[3]
    assert_same(run(jnp.roll(clip, 1, axis=3)), jnp.roll(run(clip), step, axis=3))


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
def test_a_gated_convolution_is_a_convolution_and_a_gate(activation, implementation):
    kernel, bias = array(3, 3, 3, IN, OUT), array(OUT, seed=1)
    gate, residual = (array(OUT, OUT, seed=2), array(OUT, seed=3)), array(2, 4, 6, 7, OUT, seed=4)
    last = {"residual": residual, "activation": activation, "implementation": implementation}
    steps = pk.gate(conv3d(X, kernel, bias, implementation=implementation), *gate, **last)
    assert_same(gated(X, kernel, bias, gate, **last), steps)


@pytest.mark.parametrize("bias", [-200.0, 200.0])
def test_a_saturated_gate_closes_or_opens_without_overflow(bias, implementation):
    zeros, bias = jnp.zeros((IN, IN)), jnp.full(IN, bias)
    out = np.asarray(pk.gate(X, zeros, bias, implementation=implementation))
    assert np.isfinite(out).all()
    assert (out == (np.asarray(X) if bias[0] > 0 else 0)).all()


@pytest.mark.parametrize("name", ["3x3x3", "transposed"])
def test_vmap_over_clips_is_a_loop_over_clips(name, implementation):
    operation, size = LINEAR[name]
    clips, kernel = array(3, 1, 2, 4, 5, IN), array(*size, IN, OUT, seed=1)
    run = functools.partial(operation, kernel=kernel, implementation=implementation)
    together = jax.vmap(run)(clips)
    assert_same(together, jnp.stack([run(clip) for clip in clips]))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_an_image_is_convolved_as_a_clip_of_one_frame(padding, implementation):
    image, kernel = X[:, 0], array(3, 5, IN, OUT, seed=1)
    actual = pk.conv2d(image, kernel, padding=padding, implementation=implementation)
    mode = "reflect" if padding == "reflect" else "constant"
    padded = jnp.pad(image, ((0, 0), (1, 1), (2, 2), (0, 0)), mode=mode)
    clip = conv3d(padded[:, None], kernel[None], implementation=implementation)
    assert_same(actual, clip[:, 0, 1:-1, 2:-2])


def test_a_mirrored_border_keeps_a_flat_image_flat(implementation):
    # With zeros around it, a blur would darken the border.
    flat = jnp.full((1, 8, 9, 1), 0.75)
    blur = jnp.full((7, 7, 1, 1), 1 / 49)
    run = functools.partial(pk.conv2d, flat, blur, implementation=implementation)
    assert_same(run(padding="reflect"), flat)
    dark = np.asarray(run(padding="zeros"))
    assert dark[0, 0, 0, 0] == pytest.approx(0.75 * 16 / 49, rel=1e-5)
    assert dark[0, 4, 4, 0] == pytest.approx(0.75, rel=1e-5)
