# SPDX-License-Identifier: Apache-2.0
"""Costs against the official network's published count and against hand computations."""

import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.models.presets import PRESETS
from flavr_jax.profiling.costs import layer_costs


def test_the_official_network_takes_266_billion_products_for_256_pixels_squared():
    costs = layer_costs(PRESETS["flavr_2x"], 1, 256, 256)
    products = sum(cost.dense_flops for cost in costs) / 2
    assert products == pytest.approx(266.1e9, rel=1e-3)


def test_layers_are_named_and_counted_apart():
    costs = {cost.scope: cost for cost in layer_costs(ModelConfig(width=16), 2, 32, 48)}
    assert len(costs) == 27
    conv = costs["encoder/layer1/block0/conv1"]
    pixels = 2 * 4 * 16 * 24
    assert conv.dense_flops == 2 * pixels * 16 * 16 * 27
    assert conv.useful_flops == conv.dense_flops * 10 // 12  # 2 of 12 (frame, tap) pairs are zeros
    assert conv.bytes == 2 * (pixels * 16 * 2 + 27 * 16 * 16)  # in, out and weights in bfloat16
    up = costs["decoder/stage4"]
    assert up.dense_flops == 2 * (4 * pixels) * 32 * 16 * 12  # 3·2·2 taps meet an output pixel
