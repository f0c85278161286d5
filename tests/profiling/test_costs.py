# SPDX-License-Identifier: Apache-2.0
"""Costs against the official network's published count and against hand computations."""

import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.models.presets import PRESETS
from flavr_jax.profiling.costs import layer_costs


def costs_of(config, **options):
    return {cost.scope: cost for cost in layer_costs(config, 2, 32, 48, **options)}


def test_the_official_network_takes_266_billion_products_for_256_pixels_squared():
    costs = layer_costs(PRESETS["flavr_2x"], 1, 256, 256)
    products = sum(cost.dense_flops for cost in costs) / 2
    assert products == pytest.approx(266.1e9, rel=1e-3)


def test_layers_are_named_and_counted_apart():
    costs = costs_of(ModelConfig(width=16))
    assert len(costs) == 27
    conv = costs["encoder/layer1/block0/conv1"]
    pixels = 2 * 4 * 16 * 24
    assert conv.dense_flops == 2 * pixels * 16 * 16 * 27
    assert conv.useful_flops == conv.dense_flops * 10 // 12  # 2 of 12 (frame, tap) pairs are zeros
    assert conv.bytes == 2 * (pixels * 16 * 2 + 27 * 16 * 16)  # in, out and weights in bfloat16
    up = costs["decoder/stage4"]
    assert up.dense_flops == 2 * (4 * pixels) * 32 * 16 * 12  # 3·2·2 taps meet an output pixel


# Sizes in half the frame's height and width, where the stem and the first stage are.
PIXELS = 2 * 4 * 16 * 24


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        # The stem reads pixels in 16 bits with 3 channels, and writes a map that layer1 reads.
        ("encoder/stem", 2 * (4 * PIXELS * 3 + 3 * 49 * 3 * 16) + PIXELS * 16),
        ("encoder/layer1/block0/conv1", PIXELS * 16 + 27 * 16 * 16 + PIXELS * 16),
        # The last stage reads 8 bits; the fusion of frames, which reads it, has none in 8 bits.
        ("decoder/stage4", PIXELS * 32 + 48 * 32 * 16 + 2 * (4 * PIXELS * 16)),
        ("fuse", 2 * (4 * PIXELS * 16 + 4 * 16 * 16 + PIXELS * 16)),
        # The padded input of the output layer, its weights, and frames in float32.
        ("out", 2 * (2 * 38 * 54 * 16 + 49 * 16 * 3) + 4 * (PIXELS * 3)),
    ],
)
def test_in_8_bits_a_layer_moves_bytes_by_what_the_graph_says_of_its_maps(scope, expected):
    cost = costs_of(ModelConfig(width=16), in_8_bits=True)[scope]
    assert cost.bytes == expected


def test_a_map_that_an_addition_reads_stays_in_16_bits():
    # With join = "add" skips are added outside of a convolution, so the first decoder stage's
    # output is read by no convolution alone; with "concat" it is.
    sizes = {}
    for join in ("concat", "add"):
        narrow, wide = (
            costs_of(ModelConfig(width=16, join=join), in_8_bits=in_8_bits)["decoder/stage0"]
            for in_8_bits in (True, False)
        )
        sizes[join] = wide.bytes - narrow.bytes
    pixels = 2 * 4 * 4 * 6  # an eighth of height and width
    read = pixels * 128 + 27 * 128 * 64
    assert sizes == {"concat": read + pixels * 64, "add": read}


def test_both_halves_of_a_factorised_convolution_are_in_8_bits():
    config = ModelConfig(width=16, encoder="r2plus1d")

    def halves(in_8_bits):
        return [
            cost.bytes
            for cost in layer_costs(config, 2, 32, 48, in_8_bits=in_8_bits)
            if cost.scope == "encoder/layer1/block0/conv1"
        ]

    assert [2 * size for size in halves(True)] == halves(False)
