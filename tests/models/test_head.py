# SPDX-License-Identifier: Apache-2.0
"""The warping head: what its raw outputs mean, and what it promises the rest of the project."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flavr_jax.config import LookConfig, ModelConfig
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.models import flavr, head, layers, quantized
from flavr_jax.models.look import Given, Look
from flavr_jax.models.still import standing

pytestmark = pytest.mark.usefixtures("definition", "shallow")

LOOKS = tuple(LookConfig(scale, 4, layers=1) for scale in (8, 2, 1))
CONFIG = ModelConfig(width=8, n_outputs=3, base="warp", trunk_scale=2, looks=LOOKS)
# Shared, so that tests of one configuration compile it once.
apply = jax.jit(flavr.apply, static_argnums=0)


def random_windows(height=32, width=48, seed=0):
    return jax.random.uniform(jax.random.key(seed), (1, 4, height, width, 3))


def without_output(config):
    """Parameters whose raw outputs are all zero."""
    params = flavr.init(config, jax.random.key(0))
    params["out"] = jax.tree.map(jnp.zeros_like, params["out"])
    for look in params.get("head", {}).get("looks", {}).values():
        look["correct"] = jax.tree.map(jnp.zeros_like, look["correct"])
    return params


@pytest.mark.parametrize(("looks", "trunk_scale"), [((), 1), ((), 2), (LOOKS, 2)])
def test_without_output_frames_are_the_blend_of_the_middle_ones(looks, trunk_scale):
    config = dataclasses.replace(CONFIG, trunk_scale=trunk_scale, looks=looks)
    windows = random_windows()
    outputs = apply(config, without_output(config), windows)
    for k in (1, 2, 3):
        expected = windows[:, 1] * (1 - k / 4) + windows[:, 2] * (k / 4)
        assert np.abs(outputs[:, k - 1] - expected).max() < 1e-5


@pytest.mark.parametrize("number", range(len(LOOKS)))
def test_the_correction_of_each_look_reaches_the_frames_whatever_its_scale(number):
    params = without_output(CONFIG)
    windows = random_windows()
    correct = params["head"]["looks"][str(number)]["correct"]
    # A correction of the red of every pixel; a folded look writes it 4 times into each position.
    correct["bias"] = correct["bias"].at[:: head.CHANNELS].set(1.0)
    outputs = apply(CONFIG, params, windows)
    expected = windows[:, 1] * 0.5 + windows[:, 2] * 0.5 + jnp.asarray([1.0, 0.0, 0.0])
    assert np.abs(outputs[:, 1] - expected).max() < 1e-5


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_looks_see_the_frames_warped_to_the_same_place_at_every_scale(scale):
    # Frames that vary slowly along y, and 8 pixels of motion at half time along y.
    rows = 2.5 + np.sin(np.arange(64) / 20)[:, None, None].astype(np.float32)
    pair = jnp.broadcast_to(jnp.asarray(rows), (1, 2, 64, 64, 3))
    config = dataclasses.replace(CONFIG, looks=(LookConfig(scale, 8, layers=0),))
    look = Look(config, config.looks[0], layers.LayerOptions(nnx.Rngs(0), False, "xla"))
    pixels = 4 if scale == 1 else 1  # folded into one position
    # Pass the red of the warped frame before through.
    read, correct = np.zeros(look.read.kernel.shape), np.zeros(look.correct.kernel.shape)
    for pixel in range(pixels):
        read[1, 1, pixel * (12 + head.CHANNELS), pixel] = 1
        correct[1, 1, pixel, pixel * head.CHANNELS] = 1
    look.read.kernel[...], look.correct.kernel[...] = jnp.asarray(read), jnp.asarray(correct)
    look.context.kernel[...] = jnp.zeros_like(look.context.kernel[...])
    raw = jnp.zeros((1, 1, 64 // scale, 64 // scale, head.CHANNELS)).at[..., 4].set(1.6)
    context = jnp.zeros((1, 32, 32, 8))

    def corrections(*arrays):
        return look.folded(Given(*arrays, times=np.asarray([0.5]), start=0))

    found = jax.jit(corrections)(raw, context, pair)
    made = layers.unfolded(found)
    expected = rows[8:, 0, 0].reshape(-1, scale).mean(axis=1) - 0.5
    assert np.abs(np.asarray(made)[0, 0, : 56 // scale, 3, 0] - expected).max() < 0.01


def moving_ground(height=96, width=128):
    """A window of a random ground that moves by 5 pixels a frame, without a display."""
    ground = np.random.default_rng(0).random((height, width + 20, 3)).astype(np.float32)
    return np.stack([ground[:, 5 * time : 5 * time + width] for time in range(4)])


def test_cubic_look_ups_blur_less_than_bilinear_ones():
    frames = np.random.default_rng(0).random((4, 64, 64, 3)).astype(np.float32)
    frames[1] = frames[2] = np.sin(np.arange(64))[:, None] * 0.5 + 0.5  # varies along x alone
    config = dataclasses.replace(CONFIG, looks=())
    params = without_output(config)
    raw = np.zeros((3, head.CHANNELS), np.float32)
    raw[:, 3], raw[:, 5] = 0.1, 0.1  # half a pixel to the right in both frames at half time
    params["out"]["bias"] = jnp.asarray(raw.reshape(-1))
    expected = np.sin(np.arange(64) + 0.5)[2:-2] * 0.5 + 0.5
    error = {}
    for kind in ("bilinear", "cubic"):
        each = dataclasses.replace(config, look_up=kind)
        made = apply(each, params, jnp.asarray(frames)[None])[0, 1, :, 2:-2, 0]
        error[kind] = np.abs(made - expected).max()
    assert error["cubic"] < 0.25 * error["bilinear"]


def test_a_display_over_a_moving_ground_is_kept_whatever_the_flow():
    frames = moving_ground()
    frames[:, 40:56, 30:80] = 0.25  # a panel
    frames[:, 20, 30:80] = 1.0  # a line of one pixel
    windows = jnp.asarray(frames)[None]
    config = dataclasses.replace(CONFIG, looks=(), keep_still=True)
    params = without_output(config)
    raw = np.zeros((3, head.CHANNELS), np.float32)
    raw[:, 0], raw[:, 3] = 0.5, 2.0  # another red, and 20 pixels of motion an interval
    params["out"]["bias"] = jnp.asarray(raw.reshape(-1))
    kept = apply(config, params, windows)[0]
    plain = dataclasses.replace(config, keep_still=False)
    warped = apply(plain, params, windows)[0]
    assert np.abs(kept[:, 20, 30:80] - 1.0).max() < 1e-5
    assert np.abs(kept[:, 40:56, 30:80] - 0.25).max() < 1e-5
    assert np.abs(warped[:, 20, 30:80] - 1.0).max() > 0.3
    moves = np.abs(frames.max(axis=0) - frames.min(axis=0)).max(axis=-1) > 0.2
    assert np.abs(kept - warped)[:, moves].max() < 0.01


def test_a_picture_that_stands_still_is_kept_and_a_ball_may_pass_before_it():
    still = np.broadcast_to(moving_ground()[:1], (4, 96, 128, 3)).copy()
    assert (np.asarray(standing(jnp.asarray(still)[None])) == 1.0).all()
    for time in range(4):  # a ball of 12 pixels that jumps by 24 a frame
        still[time, 42:54, 16 + 24 * time : 28 + 24 * time] = 1.0
    share = np.asarray(standing(jnp.asarray(still)[None]))[0, 0, ..., 0]
    assert share[42:54, 52:64].max() == 0.0  # the ball is here half-way between two frames
    assert share[:4, :4].min() == 1.0  # far away nothing moves


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
    outputs = np.asarray(apply(config, params, windows))[0]
    before, after = np.asarray(windows[0, 1]), np.asarray(windows[0, 2])
    assert np.abs(outputs[0, :, :-2] - 0.25 - before[:, 2:]).max() < 1e-5
    assert np.abs(outputs[2, 2:] - 0.25 - after[:-2]).max() < 1e-5
    both = (before[4:, 4:] + after[:-4, :-4]) / 2
    assert np.abs(outputs[1, 4:, :-4] - 0.25 - both).max() < 1e-5


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_maps_are_enlarged_linearly_between_pixel_centres(scale):
    maps = np.random.default_rng(0).normal(size=(2, 3, 5, 7, 2))
    expected = maps
    for axis in (2, 3):
        old = np.arange(maps.shape[axis]) + 0.5
        new = (np.arange(maps.shape[axis] * scale) + 0.5) / scale
        line = partial(np.interp, new, old)
        expected = np.apply_along_axis(line, axis, expected)
    made = head.enlarge(jnp.asarray(maps, jnp.float32), scale)
    assert made.shape == (2, 3, 5 * scale, 7 * scale, 2)
    assert np.abs(made - expected).max() < 1e-5


@pytest.mark.parametrize(("scale", "smaller"), [(4, 2), (8, 2), (8, 4), (16, 2)])
def test_maps_enlarged_and_then_reduced_are_maps_enlarged_less(scale, smaller):
    maps = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)), jnp.float32)
    made = head.reduce(head.enlarge(maps, scale), smaller)
    assert np.abs(made - head.enlarge(maps, scale // smaller)).max() < 1e-5


def test_enlarging_multiplies_by_no_matrix():
    # XLA searches for kernels of such products, which takes most of the compilation on a GPU.
    traced = jax.make_jaxpr(partial(head.enlarge, scale=2))(jnp.zeros((1, 1, 4, 4, 8)))
    assert "dot_general" not in str(traced)


def test_further_flows_look_elsewhere_and_a_softmax_mixes_them():
    config = dataclasses.replace(CONFIG, looks=(LookConfig(1, 4, layers=0),), flow_pairs=2)
    params, windows = without_output(config), random_windows()
    bias = params["head"]["looks"]["0"]["correct"]["bias"].reshape(4, -1)
    # The first pair looks 8 pixels down, the second 4 pixels to the right of that, at half time.
    bias = bias.at[:, jnp.asarray([4, 6])].set(1.6).at[:, jnp.asarray([8, 10])].set(0.8)
    bias = bias.at[:, 12:].set(jnp.log(jnp.asarray([3.0, 1.0])))  # the second before counts thrice
    params["head"]["looks"]["0"]["correct"]["bias"] = bias.reshape(-1)
    made = jax.jit(partial(flavr.apply, config))(params, windows)[0, 1, :-8, :-4]
    before, after = windows[0, 1, 8:], windows[0, 2, 8:]
    expected = (before[:, :-4] + after[:, :-4] + 3 * before[:, 4:] + after[:, 4:]) / 6
    assert np.abs(made - expected).max() < 1e-5


def test_some_outputs_are_those_of_all():
    params = flavr.init(CONFIG, jax.random.key(1))
    windows = random_windows()
    every = apply(CONFIG, params, windows)
    middle = jax.jit(partial(flavr.apply, CONFIG, outputs=(1,)))(params, windows)
    assert middle.shape == (1, 1, 32, 48, 3)
    assert np.abs(middle[:, 0] - every[:, 1]).max() < 1e-5


@pytest.mark.parametrize("keep_still", [False, True])
def test_each_sample_may_have_outputs_of_its_own(keep_still):
    config = dataclasses.replace(CONFIG, keep_still=keep_still)
    params = flavr.init(config, jax.random.key(1))
    windows = jnp.concatenate([random_windows(seed=seed) for seed in range(2)])
    chosen = jnp.asarray([[2], [0]])
    every = apply(config, params, windows)
    own = apply(config, params, windows, outputs=chosen)
    assert own.shape == (2, 1, 32, 48, 3)
    for sample, (output,) in enumerate(chosen):
        assert np.abs(own[sample, 0] - every[sample, output]).max() < 1e-5


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
    config = dataclasses.replace(CONFIG, trunk_scale=trunk_scale, looks=())
    plain = ModelConfig(width=8, n_outputs=3)
    assert quantized.convolutions(config) == quantized.convolutions(plain)


def test_the_head_runs_on_a_trunk_in_8_bits():
    params = flavr.init(CONFIG, jax.random.key(0))
    windows = random_windows()
    magnitudes = jax.jit(partial(quantized.ranges, CONFIG))(params, windows)
    scales = quantized.scales_for({name: float(value) for name, value in magnitudes.items()})
    packed = quantized.pack(CONFIG, params, scales)
    exact, ours = (apply(CONFIG, each, windows) for each in (params, packed))
    blended = head.blend(windows, np.array([0.25, 0.5, 0.75]))
    error = jnp.linalg.norm(ours - exact) / jnp.linalg.norm(exact - blended)
    assert 0 < float(error) < 0.3


def test_gradients_reach_every_parameter():
    config = dataclasses.replace(CONFIG, flow_pairs=2)
    params = flavr.init(config, jax.random.key(0))
    windows = random_windows()
    gradients = jax.jit(
        jax.grad(lambda params: jnp.square(flavr.apply(config, params, windows) - 0.3).mean())
    )(params)
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if not float(np.abs(leaf).max()) > 0
    ]
    assert not still


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"looks": LOOKS}, r"`looks` has the scales \[8, 2, 1\], but only `base = 'warp'`"),
        ({"base": "warp", "looks": (LookConfig(3, 8),)}, r"scales \[3\]; .* one of \[1, 2, 4, 8\]"),
        (
            {"base": "warp", "trunk_scale": 3, "looks": (LookConfig(2, 8),)},
            r"one of \[1, 3, 6, 12, 24\]",
        ),
        ({"base": "warp", "flow_pairs": 2}, "`flow_pairs` is 2.*only with `looks`"),
        ({"keep_still": True}, "`keep_still` is true, but `base` is 'mean'"),
        ({"look_up": "cubic"}, "`look_up` is 'cubic', but `base` is 'mean'"),
        ({"base": "warp", "n_inputs": 3}, r"`n_inputs` is 3, but `base = 'warp'`"),
    ],
)
def test_settings_that_make_no_network_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**values)


def test_a_look_without_a_network_is_refused():
    with pytest.raises(ValueError, match=r"scale 1, 0 channels and 3 layers"):
        LookConfig(1, 0)
