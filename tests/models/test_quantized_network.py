# SPDX-License-Identifier: Apache-2.0
"""The network with feature maps of 8 bits: which there are, who reads them, and what comes out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr, quantized
from flavr_jax.profiling.costs import layer_costs
from pallas_kernels import QuantizedKernel

CONFIG = ModelConfig(width=8, n_outputs=2)


@pytest.fixture(scope="module")
def network():
    params = flavr.init(CONFIG, jax.random.key(0))
    windows = jax.random.uniform(jax.random.key(1), (1, 4, 32, 40, 3))
    largest = jax.jit(partial(quantized.ranges, CONFIG))(params, windows)
    return params, windows, {name: float(value) for name, value in largest.items()}


def test_a_convolution_names_what_it_reads_and_adds():
    every = {each.name: each for each in quantized.convolutions(CONFIG)}
    assert len(every) == 25
    assert every["encoder/stem"].reads == (None,)
    first, second = (every[f"encoder/layer1/{n}/conv2"] for n in (0, 1))
    assert first.reads == ("encoder/layer1/0/conv1",)
    assert (first.residual, second.residual) == ("encoder/stem", "encoder/layer1/0/conv2")
    assert every["encoder/layer2/0/conv2"].residual == "encoder/layer2/0/shortcut"
    skip = every["decoder/stages/2/conv"]
    assert skip.reads == ("decoder/stages/1/conv", "encoder/layer2/1/conv2")
    assert skip.residual is None


def test_products_are_those_of_the_definition():
    costs = [cost for cost in layer_costs(CONFIG, 1, 64, 64) if cost.scope not in ("fuse", "out")]
    for each, cost in zip(quantized.convolutions(CONFIG), costs, strict=True):
        assert 2 * each.products == cost.dense_flops


def test_what_only_the_fusion_reads_keeps_16_bits():
    maps = quantized.feature_maps(CONFIG)
    assert len(maps) == 24
    assert "decoder/stages/4/conv" not in maps


@pytest.mark.parametrize(
    ("variant", "count"),
    [({"batch_norm": True}, 0), ({"join": "add"}, 20), ({"join": "none"}, 24), ({"depth": 34}, 40)],
    ids=str,
)
def test_maps_that_something_else_reads_keep_16_bits(variant, count):
    assert len(quantized.feature_maps(ModelConfig(width=8, **variant))) == count


def test_a_range_is_the_largest_magnitude(network):
    params, windows, magnitudes = network
    assert set(magnitudes) == set(quantized.feature_maps(CONFIG))
    kernel = np.asarray(params["encoder"]["stem"]["kernel"], np.float64)
    x = np.asarray(windows[0] - windows.mean(axis=(0, 1, 2, 3)), np.float64)
    padded = np.pad(x, ((1, 1), (3, 3), (3, 3), (0, 0)))
    largest = 0.0
    for t in range(4):
        for y in range(0, 32, 2):
            for column in range(0, 40, 2):
                box = padded[t : t + 3, y : y + 7, column : column + 7]
                largest = max(largest, np.tensordot(box, kernel, 4).max())
    assert magnitudes["encoder/stem"] == pytest.approx(largest, rel=1e-5)


def test_8_bits_are_a_few_percent_off_and_packed_as_asked(network):
    params, windows, magnitudes = network
    packed = quantized.pack(CONFIG, params, quantized.scales_for(magnitudes))
    last = packed["decoder"]["stages"]["4"]["conv"]["kernel"]
    assert isinstance(last, QuantizedKernel)
    assert last.values.dtype == jnp.float8_e4m3fn
    assert last.out_scale is None
    assert packed["encoder"]["stem"]["kernel"].values.dtype == jnp.float32
    exact = flavr.apply(CONFIG, params, windows)
    ours = flavr.apply(CONFIG, packed, windows)
    error = jnp.linalg.norm(ours - exact) / jnp.linalg.norm(exact - windows.mean())
    assert 1e-3 < error < 0.2


def test_a_map_of_16_bits_takes_its_readers_back_to_16_bits(network):
    params, windows, magnitudes = network
    scales = quantized.scales_for(magnitudes)
    del scales["encoder/layer1/0/conv2"]  # read by the next block, and added in it
    packed = quantized.pack(CONFIG, params, scales)
    block = packed["encoder"]["layer1"]["1"]
    assert block["conv1"]["kernel"].scales is None
    assert block["conv2"]["kernel"].scales is None
    assert packed["encoder"]["layer1"]["0"]["conv2"]["kernel"].out_scale is None
    assert bool(jnp.isfinite(flavr.apply(CONFIG, packed, windows)).all())


def test_black_flat_and_flashing_windows_stay_numbers(network):
    params, _, magnitudes = network
    packed = quantized.pack(CONFIG, params, quantized.scales_for(magnitudes))
    flash = jnp.zeros((1, 4, 32, 40, 3)).at[:, ::2].set(1.0)
    board = (
        jnp.indices((32, 40)).sum(axis=0)[None, None, :, :, None] % 2 * jnp.ones((1, 4, 1, 1, 3))
    )
    for windows in (jnp.zeros_like(flash), jnp.full_like(flash, 0.5), flash, board):
        made = flavr.apply(CONFIG, packed, windows)
        exact = flavr.apply(CONFIG, params, windows)
        assert float(jnp.abs(made - exact).max()) < 0.1 * (float(jnp.ptp(exact)) + 1e-3)


def test_skips_in_8_bits_can_be_added_to_the_decoder():
    config = ModelConfig(width=8, join="add")
    params = flavr.init(config, jax.random.key(0))
    windows = jax.random.uniform(jax.random.key(1), (1, 4, 16, 16, 3))
    scales = quantized.scales_for(
        {name: float(value) for name, value in quantized.ranges(config, params, windows).items()}
    )
    exact = flavr.apply(config, params, windows)
    ours = flavr.apply(config, quantized.pack(config, params, scales), windows)
    error = jnp.linalg.norm(ours - exact) / jnp.linalg.norm(exact - windows.mean())
    assert 1e-4 < error < 0.2


def test_scales_of_another_network_are_refused():
    with pytest.raises(ValueError, match="'encoder/layer9'"):
        quantized.pack(CONFIG, flavr.init(CONFIG, jax.random.key(0)), {"encoder/layer9": 1.0})
