# SPDX-License-Identifier: Apache-2.0
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data.synthetic import scenes
from flavr_jax.data.synthetic.motion import MotionConfig

SIZE = (32, 40)
CONFIG = scenes.SyntheticConfig(
    texture_size=48,
    n_objects=2,
    motion=MotionConfig(min_speed=2.0, max_speed=6.0),
    sharpness=0.0,
    cut_share=0.0,
)
TIMES = np.array([0.0, 1.0, 1.02, 1.5, 2.0, 3.0], np.float32)


# One program of eight clips and six times serves most tests: compiling is what takes time here.
@functools.partial(jax.jit, static_argnames="config")
def draw_clips(keys, times, textures=None, config=CONFIG):
    return jax.vmap(lambda key: scenes.draw(key, times, SIZE, config, textures))(keys)


@functools.partial(jax.jit, static_argnames="config")
def draw_batch(keys, config):
    return scenes.draw_many(keys, jnp.asarray(TIMES), SIZE, config)


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), 8)


@pytest.fixture(scope="module")
def clips(keys):
    return np.asarray(draw_clips(keys, TIMES))


@pytest.fixture(scope="module")
def batch(keys):
    """Two clips with motion blur and six without; all are sharpened and have a cut."""
    config = dataclasses.replace(
        CONFIG, blur_share=0.25, blur_samples=3, max_exposure=0.5, sharpness=2.0, cut_share=1.0
    )
    return np.asarray(draw_batch(keys, config))


def test_a_frame_depends_on_its_time_alone(keys, clips):
    others = draw_clips(keys, np.array([1.5, 2.5, 1.0, 0.3, 0.6, 0.9], np.float32))
    # Another order of operations may move a position across the border of one texel.
    np.testing.assert_allclose(others[:, 0], clips[:, 3], atol=1e-3)
    np.testing.assert_allclose(others[:, 2], clips[:, 1], atol=1e-3)


def test_clips_are_determined_by_their_keys(keys, clips):
    np.testing.assert_array_equal(draw_clips(keys, TIMES), clips)
    np.testing.assert_array_equal(draw_clips(keys[::-1], TIMES)[::-1], clips)
    assert np.abs(clips[1:] - clips[:-1]).mean(axis=(1, 2, 3, 4)).min() > 0.01


def test_frames_are_colours_and_have_content(clips):
    assert clips.shape == (8, 6, *SIZE, 3)
    assert clips.min() >= 0.0
    assert clips.max() <= 1.0
    assert (clips.std(axis=(2, 3, 4)) > 0.005).all()


def test_motion_is_continuous_in_time(clips):
    little = np.abs(clips[:, 2] - clips[:, 1]).mean()
    much = np.abs(clips[:, 4] - clips[:, 1]).mean()
    assert much > 0.01
    assert little < 0.15 * much


def test_real_textures_replace_painted_ones(keys):
    config = dataclasses.replace(CONFIG, real_share=1.0)
    textures = jnp.broadcast_to(jnp.array([40, 90, 140], jnp.uint8), (2, 48, 64, 3))
    clips = np.asarray(draw_clips(keys, TIMES, textures, config))
    clips = clips[..., :2, :]
    # All layers have one colour, so only its brightness can differ.
    np.testing.assert_allclose(clips[..., 0] / clips[..., 1], 40 / 90, rtol=1e-4)


def lens_of(key):
    """Return whether the camera moves, the exposure time and the sharpness."""
    return jax.random.uniform(jax.random.split(key, 5)[1], (3,))


def sharpened(frame, amount):
    """Sharpen by the definition, in NumPy: add what a separable 1-2-1 blur removes."""
    rows = np.pad(frame, ((1, 1), (0, 0), (0, 0)), mode="edge")
    rows = (rows[:-2] + 2 * rows[1:-1] + rows[2:]) / 4
    both = np.pad(rows, ((0, 0), (1, 1), (0, 0)), mode="edge")
    both = (both[:, :-2] + 2 * both[:, 1:-1] + both[:, 2:]) / 4
    return np.clip(frame + amount * (frame - both), 0.0, 1.0)


def test_the_first_clips_of_a_batch_are_blurred_over_the_time_the_shutter_is_open(keys, batch):
    for clip, key in zip(batch[:2], keys):
        values = lens_of(key)
        exposure = 0.5 * float(values[1])  # a clip's own, up to the longest
        moments = np.tile(1.5 + np.array([-1, 0, 1]) / 3 * exposure, 2)
        same = jnp.stack([key] * 8)
        sharp = np.asarray(draw_clips(same, moments.astype(np.float32))[0, :3], np.float64)
        light = (sharp**2.2).mean(axis=0)  # light adds up, not the values it is coded by
        expected = sharpened(light ** (1 / 2.2), 2.0 * float(values[2]))
        np.testing.assert_allclose(clip[3], expected, atol=2e-3)


def test_a_cut_changes_one_outer_input_and_nothing_between_the_middle_ones(keys, clips, batch):
    expected = np.array(
        [
            [sharpened(frame, 2.0 * float(lens_of(key)[2])) for frame in clip]
            for clip, key in zip(clips[2:], keys[2:])
        ]
    )
    np.testing.assert_allclose(batch[2:, 1:5], expected[:, 1:5], atol=1e-3)
    changed = np.abs(batch[2:] - expected).mean(axis=(2, 3, 4))[:, [0, 5]] > 0.02
    np.testing.assert_array_equal(changed.sum(axis=1), 1)
    assert 0 < changed[:, 0].sum() < 6
