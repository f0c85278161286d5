# SPDX-License-Identifier: Apache-2.0
"""Stripes: the frames of the whole network, from less memory."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.config import LookConfig, ModelConfig
from flavr_jax.inference import tiles
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.inference.tiles import Tiling
from flavr_jax.models import flavr, quantized

pytestmark = pytest.mark.usefixtures("definition", "shallow")

LOOKS = (LookConfig(8, 4, layers=1), LookConfig(1, 4, layers=2))
WARP = ModelConfig(width=4, n_outputs=3, base="warp", trunk_scale=2, looks=LOOKS, keep_still=True)
VARIANTS = {
    "paper": ModelConfig(width=4),
    "warp": WARP,
    "trilinear with BatchNorm": ModelConfig(
        width=4, base="blend", upsampling="trilinear", batch_norm=True, join="add"
    ),
}


def parameters(config: ModelConfig) -> flavr.Parameters:
    params = flavr.init(config, jax.random.key(0))
    # Large outputs: every pixel depends on its surroundings, and displacements are tens of pixels.
    params["out"]["kernel"] = params["out"]["kernel"] * 100
    for look in params.get("head", {}).get("looks", {}).values():
        look["correct"]["kernel"] = look["correct"]["kernel"] * 30
    return params


def windows(count=1, height=208, width=16):
    return jax.random.uniform(jax.random.key(1), (count, 4, height, width, 3))


@functools.partial(jax.jit, static_argnums=(0, 3))
def predict(config, params, windows, tiling):
    return tiles.predict(config, params, windows, lambda made: made, tiling=tiling)


@pytest.mark.parametrize("name", VARIANTS)
def test_stripes_give_the_frames_of_the_whole_network(name):
    config = VARIANTS[name]
    # A dark sample and a bright one: each has gates of its own.
    params, given = (
        parameters(config),
        windows(2) * jnp.array([0.1, 1.0])[:, None, None, None, None],
    )
    whole, _ = predict(config, params, given, tiles.WHOLE)
    assert float(whole.std()) > 0.05
    striped, finite = predict(config, params, given, Tiling(5))
    assert finite.all()
    assert np.abs(np.asarray(whole - striped)).max() < 1e-4


def test_with_fewer_rows_to_read_stripes_would_show_seams(monkeypatch):
    # The test above is as strict as it looks: the rows that a stripe reads are just enough.
    reach = tiles._reach_of_fine
    monkeypatch.setattr(tiles, "_reach_of_fine", lambda config: reach(config) - 8)
    params, given = parameters(WARP), windows(2)
    whole, _ = predict(WARP, params, given, tiles.WHOLE)
    # A function of its own, because `predict` may be compiled already, with all rows.
    cut = jax.jit(lambda p, w: tiles.predict(WARP, p, w, lambda made: made, tiling=Tiling(5)))
    striped, _ = cut(params, given)
    assert np.abs(np.asarray(whole - striped)).max() > 1e-3


def test_a_nan_in_one_stripe_is_reported():
    given = windows(2).at[0, 1, 3, 5, 0].set(jnp.nan)
    _, finite = predict(WARP, parameters(WARP), given, Tiling(5))
    assert finite.tolist() == [False, True]


def test_the_whole_network_in_stripes_gives_the_same_frames_after_enough_passes():
    config = ModelConfig(width=4, base="warp", looks=(LookConfig(1, 4, layers=1),))
    params = parameters(config)
    # Taller than twice the rows that a stripe reads, or every stripe would read them all.
    smooth = jnp.cumsum(windows(height=512, width=8), axis=2) / 256 - 0.5
    whole, _ = predict(config, params, smooth, tiles.WHOLE)
    striped, finite = predict(config, params, smooth, Tiling(4, "all"))
    assert finite.all()
    assert np.abs(np.asarray(whole - striped)).max() < 1e-4


@pytest.mark.parametrize("tiling", [Tiling(2), Tiling(2, "all")])
def test_stripes_work_in_16_bits(tiling):
    shapes = flavr.parameter_shapes(WARP, jnp.bfloat16), jax.eval_shape(windows)
    made, _ = jax.eval_shape(lambda *arrays: predict(WARP, *arrays, tiling), *shapes)
    assert made.shape == (1, 3, 208, 16, 3)
    assert made.dtype == jnp.float32


@pytest.mark.parametrize("tiling", [Tiling(2), Tiling(2, "all")])
def test_stripes_work_in_8_bits(tiling):
    scales = dict.fromkeys(quantized.feature_maps(WARP), 1.0)
    pack = functools.partial(quantized.pack, WARP, scales=scales)
    packed = jax.eval_shape(pack, flavr.parameter_shapes(WARP, jnp.bfloat16))
    made, _ = jax.eval_shape(
        lambda *arrays: predict(WARP, *arrays, tiling), packed, jax.eval_shape(windows)
    )
    assert made.shape == (1, 3, 208, 16, 3)
    assert made.dtype == jnp.float32


def test_an_interpolator_in_stripes_makes_the_same_pixels():
    # Colours and alpha go through the network one after the other.
    frames = np.random.default_rng(0).integers(0, 256, (5, 75, 41, 4), dtype=np.uint8)
    # Not in int8, whose scales are those of a stripe.
    network = Interpolator(WARP, flavr.init(WARP, jax.random.key(0)), precision="fp32")
    whole = np.asarray(network.between(frames, 4)).astype(int)
    network.tiling = Tiling(3)
    striped = np.asarray(network.between(frames, 4)).astype(int)
    assert striped.shape == (2, 3, 75, 41, 4)
    assert np.abs(whole - striped).max() <= 1  # rounding to integers


def test_stripes_take_less_memory():
    def memory(tiling):
        shapes = flavr.parameter_shapes(WARP), jax.ShapeDtypeStruct((1, 4, 512, 64, 3), jnp.float32)
        return predict.lower(WARP, *shapes, tiling).compile().memory_analysis().temp_size_in_bytes

    assert memory(Tiling(8)) < 0.5 * memory(tiles.WHOLE)
