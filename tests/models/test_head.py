# SPDX-License-Identifier: Apache-2.0
"""The warping head: what its raw outputs mean, and what it promises the rest of the project."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.models import flavr, head, quantized

CONFIG = ModelConfig(width=8, n_outputs=3, base="warp", trunk_scale=2, refine=8, refine_layers=1)


def random_windows(height=32, width=48, seed=0):
    return jax.random.uniform(jax.random.key(seed), (1, 4, height, width, 3))


def without_output(config):
    """Parameters whose raw outputs are all zero."""
    params = flavr.init(config, jax.random.key(0))
    params["out"] = jax.tree.map(jnp.zeros_like, params["out"])
    if config.refine:
        params["head"]["correct"] = jax.tree.map(jnp.zeros_like, params["head"]["correct"])
    return params


@pytest.mark.parametrize("refine", [0, 8])
@pytest.mark.parametrize("trunk_scale", [1, 2])
def test_without_output_frames_are_the_blend_of_the_middle_ones(refine, trunk_scale):
    config = ModelConfig(
        width=8, n_outputs=3, base="warp", trunk_scale=trunk_scale, refine=refine, refine_layers=1
    )
    windows = random_windows()
    outputs = jax.jit(partial(flavr.apply, config))(without_output(config), windows)
    for k in (1, 2, 3):
        expected = windows[:, 1] * (1 - k / 4) + windows[:, 2] * (k / 4)
        assert np.abs(outputs[:, k - 1] - expected).max() < 1e-5


def test_raw_displacements_are_tens_of_pixels_and_follow_time():
    # The bias of the output convolution is the raw output everywhere: 0.8 is 8 pixels of motion an
    # interval. The frame before is looked up 8 t to the right, the frame after 8 (1 - t) above.
    config = ModelConfig(width=8, n_outputs=3, base="warp")
    params = without_output(config)
    bias = np.zeros((3, head.CHANNELS), np.float32)
    bias[:, 3], bias[:, 6] = 0.8, -0.8
    bias[:, 7] = [100.0, 0.0, -100.0]  # the frame before alone, both halves, the frame after alone
    bias[:, :3] = 0.25
    params["out"]["bias"] = jnp.asarray(bias.reshape(-1))
    windows = random_windows()
    outputs = np.asarray(jax.jit(partial(flavr.apply, config))(params, windows))[0]
    before, after = np.asarray(windows[0, 1]), np.asarray(windows[0, 2])
    assert np.abs(outputs[0, :, :-2] - 0.25 - before[:, 2:]).max() < 1e-5
    assert np.abs(outputs[2, 2:] - 0.25 - after[:-2]).max() < 1e-5
    both = (before[4:, 4:] + after[:-4, :-4]) / 2
    assert np.abs(outputs[1, 4:, :-4] - 0.25 - both).max() < 1e-5


def test_some_outputs_are_those_of_all():
    params = flavr.init(CONFIG, jax.random.key(1))
    windows = random_windows()
    every = jax.jit(partial(flavr.apply, CONFIG))(params, windows)
    middle = jax.jit(partial(flavr.apply, CONFIG, outputs=(1,)))(params, windows)
    assert middle.shape == (1, 1, 32, 48, 3)
    assert np.abs(middle[:, 0] - every[:, 1]).max() < 1e-5


def test_any_size_is_padded_to_what_the_trunk_takes():
    assert CONFIG.multiple == 16
    params = flavr.init(CONFIG, jax.random.key(0))
    with pytest.raises(ValueError, match=r"40×32 pixels.*multiples of 16"):
        flavr.apply(CONFIG, params, jnp.zeros((1, 4, 32, 40, 3)))
    made = Interpolator(CONFIG, params).predict(np.asarray(random_windows(33, 41)))
    assert made.shape == (1, 3, 33, 41, 3)


@pytest.mark.parametrize("trunk_scale", [2, 3])
def test_convolutions_are_found_at_every_scale(trunk_scale):
    # The graph of 8-bit maps is that of the trunk, whose size does not depend on the scale.
    config = ModelConfig(width=8, n_outputs=3, base="warp", trunk_scale=trunk_scale)
    plain = ModelConfig(width=8, n_outputs=3)
    assert quantized.convolutions(config) == quantized.convolutions(plain)


def test_the_head_runs_on_a_trunk_in_8_bits():
    params = flavr.init(CONFIG, jax.random.key(0))
    windows = random_windows()
    magnitudes = jax.jit(partial(quantized.ranges, CONFIG))(params, windows)
    scales = quantized.scales_for({name: float(value) for name, value in magnitudes.items()})
    packed = quantized.pack(CONFIG, params, scales)
    exact, ours = (flavr.apply(CONFIG, each, windows) for each in (params, packed))
    blended = flavr.blend(windows, np.array([0.25, 0.5, 0.75]))
    error = jnp.linalg.norm(ours - exact) / jnp.linalg.norm(exact - blended)
    assert 0 < float(error) < 0.3


def test_gradients_reach_every_parameter():
    params = flavr.init(CONFIG, jax.random.key(0))
    windows = random_windows()
    gradients = jax.jit(
        jax.grad(lambda params: jnp.square(flavr.apply(CONFIG, params, windows) - 0.3).mean())
    )(params)
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if not float(jnp.abs(leaf).max()) > 0
    ]
    assert not still


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"refine": 8}, r"`refine` is 8, but only `base = 'warp'`"),
        ({"base": "warp", "refine": -1}, r"`refine` is -1"),
        ({"base": "warp", "n_inputs": 3}, r"`n_inputs` is 3, but `base = 'warp'`"),
    ],
)
def test_settings_that_make_no_network_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**values)
