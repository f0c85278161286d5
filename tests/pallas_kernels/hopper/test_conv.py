# SPDX-License-Identifier: Apache-2.0
"""The Mosaic GPU kernels without a GPU: interpreted step by step, and lowered for one.

Expected values are float64 sums over taps of the same 16-bit inputs. What the kernels do on a real
GPU is checked in test_on_hopper_kernels.py, which needs one.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.core import device
from pallas_kernels.hopper import launch
from pallas_kernels.hopper.conv import config as configs
from pallas_kernels.hopper.conv.kernel import implicit_gemm
from pallas_kernels.hopper.conv.problem import Problem
from pallas_kernels.hopper.conv.tiles import tile_at
from pallas_kernels.hopper.geometry import ConvShape, Geometry
from tests.pallas_kernels.oracles import (
    assert_close,
    draw,
    leaky_relu,
    needs_interpreter,
    oracle_conv3d,
    oracle_conv3d_transpose,
    oracle_gate,
    rounded,
)


def assert_totals(feature_map):
    sums = np.asarray(feature_map.values, np.float64).sum(axis=(2, 3))
    # The totals are of the values before they were rounded for storage.
    tolerance = 1e-3 * np.abs(np.asarray(feature_map.values, np.float64)).sum(axis=(2, 3)).max()
    assert np.abs(np.asarray(feature_map.totals).sum(axis=2) - sums).max() < tolerance


@needs_interpreter
@pytest.mark.parametrize(
    ("dtype", "time", "size", "pixels", "stride"),
    [
        ("bfloat16", 3, (3, 3, 3), (9, 7), (1, 1, 1)),  # the whole clip in a tile
        ("float16", 5, (3, 1, 1), (3, 9), (1, 1, 1)),  # a frame in a tile
        ("float16", 1, (1, 3, 3), (5, 10), (1, 2, 2)),  # an odd height
        ("bfloat16", 4, (3, 3, 3), (10, 17), (1, 2, 2)),
    ],
)
def test_conv3d_scales_adds_and_activates_in_one_go(dtype, time, size, pixels, stride):
    x, x64 = rounded(draw(1, time, *pixels, 16), dtype)
    y, y64 = rounded(draw(1, time, *pixels, 32, seed=1), dtype)
    kernel, kernel64 = rounded(draw(*size, 48, 16, seed=2) / 8, dtype)
    bias, bias64 = rounded(draw(16, seed=3), dtype)
    scale = np.abs(draw(1, 16, seed=4)).astype(np.float32)
    sums = oracle_conv3d(np.concatenate([x64, y64], axis=-1), kernel64, stride) + bias64
    residual, residual64 = rounded(draw(*sums.shape, seed=5), dtype)
    with pk.interpret():
        actual = pk.conv3d(
            (x, y),
            kernel,
            bias,
            stride=stride,
            scale=jnp.asarray(scale),
            residual=residual,
            activation="leaky_relu",
            with_totals=True,
            implementation="mosaic_gpu",
        )
    assert_close(actual.values, leaky_relu(sums * scale[:, None, None, None] + residual64))
    assert_totals(actual)


@needs_interpreter
@pytest.mark.parametrize(
    ("time", "pixels", "config"),
    [
        (4, (17, 9), configs.Config(16, 8, 64, 4, swap_ab=True)),  # a clip's halves
        (3, (5, 9), configs.Config(8, 16, 64, 1, store_stages=1, swap_ab=True)),
        (4, (5, 9), configs.Config(8, 16, 64, 1)),
    ],
)
def test_either_operand_can_be_the_weights(time, pixels, config):
    x, x64 = rounded(draw(1, time, *pixels, 64), "bfloat16")
    kernel, kernel64 = rounded(draw(3, 3, 3, 64, 64, seed=1) / 32, "bfloat16")
    residual, residual64 = rounded(draw(1, time, *pixels, 64, seed=2), "bfloat16")
    scale = np.abs(draw(1, 64, seed=3)).astype(np.float32)
    offset = draw(1, 64, seed=4).astype(np.float32)
    with pk.interpret():
        values, totals = implicit_gemm(
            (x,),
            kernel,
            Geometry((3, 3, 3), (1, 1, 1)),
            (time, *pixels),
            scale=jnp.asarray(scale),
            offset=jnp.asarray(offset),
            residual=residual,
            activation="relu",
            totals=True,
            config=config,
        )
    expected = oracle_conv3d(x64, kernel64) * scale[0] + offset[0] + residual64
    assert_close(values, np.maximum(expected, 0))
    assert_totals(pk.FeatureMap(values, totals))


def test_every_tile_has_a_number_and_the_long_ones_come_first():
    conv = ConvShape(
        geometry=Geometry((3, 3, 3), (1, 1, 1)),
        batch=2,
        in_time=4,
        time=4,
        height=20,
        width=30,
        in_channels=(16,),
        channels=32,
    )
    problem = Problem(
        conv=conv,
        config=configs.Config(8, 16, 16, 1),
        dtype=jnp.dtype("bfloat16"),
        out_dtype=jnp.dtype("bfloat16"),
        activation=None,
        residual=False,
        totals=True,
        interpret=False,
    )
    tiles = [tile_at(problem, number) for number in range(2 * 3 * 2 * 4 * 2)]
    places = [tuple(int(n) for n in (t.sample, t.row, t.column, t.frame, t.channel)) for t in tiles]
    assert set(places) == {
        (sample, row, column, frame, channel)
        for sample in (0, 1)
        for row in (0, 8, 16)
        for column in (0, 16)
        for frame in range(4)
        for channel in (0, 16)
    }
    assert len(set(places)) == len(places)
    frames = [frame for _, _, _, frame, _ in places]
    assert set(frames[: len(frames) // 2]) == {1, 2}  # they meet three frames, the others two


@needs_interpreter
def test_the_stem_reads_three_channels():
    x, x64 = rounded(draw(1, 2, 6, 9, 3), "bfloat16")
    kernel, kernel64 = rounded(draw(3, 7, 7, 3, 16, seed=1) / 8, "bfloat16")
    with pk.interpret():
        actual = pk.conv3d(x, kernel, stride=(1, 2, 2), implementation="mosaic_gpu")
    assert_close(actual.values, oracle_conv3d(x64, kernel64, (1, 2, 2)))


@needs_interpreter
def test_a_gate_is_known_before_the_convolution_runs():
    x, x64 = rounded(draw(2, 2, 5, 6, 16), "float16")
    kernel, kernel64 = rounded(draw(3, 3, 3, 16, 16, seed=1) / 8, "float16")
    gate, gate64 = rounded(draw(16, 16, seed=2), "float16")
    bias, bias64 = rounded(draw(16, seed=3), "float16")
    residual, residual64 = rounded(draw(2, 2, 5, 6, 16, seed=4), "float16")
    with pk.interpret():
        actual = pk.gated_conv3d(
            x,
            kernel,
            bias,
            gate,
            bias,
            residual=residual,
            activation="relu",
            with_totals=True,
            implementation="mosaic_gpu",
        )
    gated = oracle_gate(oracle_conv3d(x64, kernel64) + bias64, gate64, bias64)
    assert_close(actual.values, np.maximum(gated + residual64, 0))
    assert_totals(actual)


@needs_interpreter
def test_the_transposed_convolution_is_four_phases():
    x, x64 = rounded(draw(1, 2, 3, 9, 16), "bfloat16")
    kernel, kernel64 = rounded(draw(3, 4, 4, 16, 16, seed=1) / 8, "bfloat16")
    gate, gate64 = rounded(draw(16, 16, seed=2), "bfloat16")
    bias, bias64 = rounded(draw(16, seed=3), "bfloat16")
    with pk.interpret():
        actual = pk.gated_conv3d_transpose(
            x, kernel, bias, gate, bias, with_totals=True, implementation="mosaic_gpu"
        )
    sums = oracle_conv3d_transpose(x64, kernel64) + bias64
    assert_close(actual.values, oracle_gate(sums, gate64, bias64))
    assert_totals(actual)


@needs_interpreter
@pytest.mark.parametrize(
    ("channels", "padding", "width"),
    [(3, "reflect", 9), (21, "reflect", 9), (21, "zeros", 9), (21, "reflect", 6)],
)
def test_conv2d_of_few_channels_pads_and_returns_float32(channels, padding, width):
    # 21 channels make groups of three taps, whose sums at the borders come from strips.
    x, x64 = rounded(draw(1, 5, width, 16), "bfloat16")
    kernel, kernel64 = rounded(draw(3, 7, 16, channels, seed=1) / 8, "bfloat16")
    bias, bias64 = rounded(draw(channels, seed=2), "bfloat16")
    with pk.interpret():
        actual = pk.conv2d(
            x,
            kernel,
            bias,
            padding=padding,
            out_dtype=jnp.float32,
            implementation="mosaic_gpu",
        )
    if padding == "zeros":
        expected = oracle_conv3d(x64[:, None], kernel64[None])[:, 0] + bias64
    else:
        padded = np.pad(x64, ((0, 0), (1, 1), (3, 3), (0, 0)), mode="reflect")
        expected = oracle_conv3d(padded[:, None], kernel64[None])[:, 0, 1:-1, 3:-3] + bias64
    assert_close(actual, expected)


@needs_interpreter
@pytest.mark.parametrize(
    ("depth", "channels", "out_dtype"), [(32, 48, "bfloat16"), (64, 64, "float32")]
)
def test_images_that_share_a_residual_read_it_in_place(depth, channels, out_dtype):
    x, x64 = rounded(draw(4, 5, 9, depth), "bfloat16")
    kernel, kernel64 = rounded(draw(3, 3, depth, channels, seed=1) / 8, "bfloat16")
    residual, residual64 = rounded(draw(2, 5, 9, channels, seed=2), "bfloat16")
    with pk.interpret():
        actual = pk.conv2d(
            x, kernel, residual=residual, activation="leaky_relu", out_dtype=out_dtype,
            implementation="mosaic_gpu",
        )  # fmt: skip
    sums = oracle_conv3d(x64[:, None], kernel64[None])[:, 0]
    assert_close(actual, leaky_relu(sums + residual64.repeat(2, axis=0)))


@needs_interpreter
def test_without_padding_in_time_frames_are_fused():
    x, x64 = rounded(draw(1, 4, 3, 9, 16), "bfloat16")
    kernel, kernel64 = rounded(draw(4, 1, 1, 16, 16, seed=1) / 8, "bfloat16")
    with pk.interpret():
        actual = pk.conv3d(x, kernel, pad_time=False, implementation="mosaic_gpu").values
    assert_close(actual, np.einsum("bthwc,tcd->bhwd", x64, kernel64[:, 0, 0])[:, None])


@needs_interpreter
def test_the_gradient_is_that_of_the_definition():
    x, _ = rounded(draw(1, 2, 3, 4, 16), "float16")
    kernel, _ = rounded(draw(1, 3, 3, 16, 16, seed=1) / 8, "float16")
    gate, _ = rounded(draw(16, 16, seed=2), "float16")
    bias, _ = rounded(draw(16, seed=3), "float16")

    def objective(arguments, implementation):
        y = pk.gated_conv3d(*arguments, bias, with_totals=True, implementation=implementation)
        y = pk.conv3d(y, arguments[1], activation="relu", implementation=implementation)
        return (y.values.astype(jnp.float32) ** 2).sum()

    arguments = (x, kernel, bias, gate)
    with pk.interpret():
        ours = jax.grad(objective)(arguments, "mosaic_gpu")
    in_float32 = jax.tree.map(lambda a: a.astype(jnp.float32), arguments)
    defined = jax.grad(objective)(in_float32, "reference")
    for actual, expected in zip(ours, defined):
        error = np.linalg.norm((actual - expected).ravel()) / np.linalg.norm(expected.ravel())
        assert error < 5e-3


SHAPES = [
    jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((1, 2, 8, 8, 16), (3, 3, 3, 16, 16))
]


def test_named_kernels_do_not_fall_back_where_they_cannot_run():
    x, kernel = (jnp.zeros(shape.shape, shape.dtype) for shape in SHAPES)
    with pytest.raises(NotImplementedError, match="Hopper GPU, and the default device is a CPU"):
        pk.conv3d(x, kernel, implementation="mosaic_gpu")


@pytest.mark.parametrize(
    ("x", "kernel", "reason"),
    [
        ((1, 2, 8, 8, 16, "float32"), (3, 3, 3, 16, 16, "float32"), "got float32"),
        ((1, 2, 8, 8, 24, "bfloat16"), (3, 3, 3, 24, 16, "bfloat16"), r"\[24, 16\]"),
        ((1, 2, 8, 8, 16, "bfloat16"), (1, 9, 9, 16, 16, "bfloat16"), "up to 7 taps"),
    ],
)
def test_a_refusal_names_its_reason_and_none_takes_another(x, kernel, reason):
    *x, x_dtype = x
    *kernel, kernel_dtype = kernel
    arrays = (
        jax.ShapeDtypeStruct(tuple(x), x_dtype),
        jax.ShapeDtypeStruct(tuple(kernel), kernel_dtype),
    )
    with pk.assume_hopper():
        with pytest.raises(NotImplementedError, match=reason):
            jax.eval_shape(partial(pk.conv3d, implementation="mosaic_gpu"), *arrays)
        (choice,) = pk.explain(pk.conv3d, *arrays)
    assert choice.implementation == "xla"
    assert "mosaic_gpu" in choice.refused


def test_mixed_types_are_refused():
    x, kernel = SHAPES[0], jax.ShapeDtypeStruct((3, 3, 3, 16, 16), jnp.float16)
    with pk.assume_hopper(), pytest.raises(NotImplementedError, match="bfloat16 and float16"):
        jax.eval_shape(partial(pk.conv3d, implementation="mosaic_gpu"), x, kernel)


def test_explain_tells_choices_apart_by_device():
    (here,) = pk.explain(pk.conv3d, *SHAPES)
    assert here.implementation == "xla"
    assert str(here).startswith(
        "conv3d bfloat16[1,2,8,8,16] bfloat16[3,3,3,16,16]: xla; not mosaic"
    )
    with pk.assume_hopper():
        (there,) = pk.explain(pk.conv3d, *SHAPES)
    assert (there.implementation, there.refused) == ("mosaic_gpu", {})


def network_convs():
    """Every size class of the network: from tiny maps to 4K, one to eight samples."""
    for batch, height, width in ((1, 2, 2), (1, 32, 56), (8, 128, 224), (1, 1080, 1920)):
        for depth, channels in ((16, 16), (64, 64), (48, 96), (512, 512), (128, 32)):
            for geometry in (
                Geometry((3, 3, 3), (1, 1, 1)),
                Geometry((3, 3, 3), (1, 1, 1), stride=2),
                Geometry((1, 1, 1), (0, 0, 0), stride=2),
                Geometry((3, 4, 4), (1, 1, 1), phases=2),
            ):
                yield ConvShape(
                    geometry=geometry,
                    batch=batch,
                    in_time=4,
                    time=4,
                    height=height,
                    width=width,
                    in_channels=(depth,),
                    channels=channels,
                )


@pytest.mark.parametrize("conv", list(network_convs()), ids=lambda conv: conv.key)
def test_chosen_tiles_fit_the_device(conv):
    config = configs.choose(conv, 132)
    pixels = config.tile_h * config.tile_w
    assert pixels % 128 == 0  # two warpgroups of 64 rows
    assert config.tile_w % 8 == 0
    assert conv.channels % config.tile_n == 0
    assert pixels // 2 * config.tile_n * config.tile_t <= 128 * 128  # registers for the sums
    chunk = min(size & -size for size in (*conv.in_channels, config.tile_n, 64))
    geometry = conv.geometry
    vertical = 1 if geometry.stride == 2 else geometry.kernel[1] // geometry.phases
    box = config.tile_t * (config.tile_h + vertical - 1) * config.tile_w * chunk * 2
    piece = (geometry.kernel[0] if config.tile_t > 1 else 1) * chunk * config.tile_n * 2
    store = min(config.tile_n & -config.tile_n, 64)
    staged = pixels * store * 2 * config.store_stages
    rings = config.input_stages * box + config.weight_stages * piece
    affine = 2 * 2 * 4 * config.tile_n
    assert rings + staged + affine + 2 * 1024 + 256 <= device.SMEM_BYTES
    assert (config.tile_t * config.tile_n // store) % config.store_stages == 0


def test_channels_that_cannot_be_tiled_are_refused():
    conv = ConvShape(
        geometry=Geometry((1, 1, 1), (0, 0, 0)),
        batch=1,
        in_time=1,
        time=1,
        height=8,
        width=8,
        in_channels=(16,),
        channels=24,
    )
    with pytest.raises(ValueError, match="multiples of 16"):
        configs.choose(conv, 132)


def test_scale_and_offset_are_the_biased_scaling():
    sums, bias, scale = (jnp.asarray(draw(2, 4, seed=n), jnp.float32) for n in range(3))
    factor, offset = launch.scale_and_offset(scale, bias[0])
    np.testing.assert_allclose(
        sums * factor + offset, (sums + bias[0]) * scale, rtol=1e-5, atol=1e-6
    )
