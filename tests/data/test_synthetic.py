# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data import synthetic

SIZE = (32, 40)
CONFIG = synthetic.SyntheticConfig(texture_size=48, n_objects=2, min_speed=2.0, max_speed=6.0)


@functools.partial(jax.jit, static_argnames="config")
def draw_clips(keys, times, textures=None, config=CONFIG):
    return jax.vmap(lambda key: synthetic.draw(key, times, SIZE, config, textures))(keys)


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), 8)


def test_a_frame_depends_on_its_time_alone(keys):
    window = draw_clips(keys, jnp.array([0.0, 1.0, 1.5, 2.0]))
    alone = draw_clips(keys, jnp.array([1.5, 1.0]))
    # One texel's rounding in a position is the most that another program order may change.
    np.testing.assert_allclose(window[:, 2], alone[:, 0], atol=1e-3)
    np.testing.assert_allclose(window[:, 1], alone[:, 1], atol=1e-3)


def test_clips_are_determined_by_their_keys(keys):
    times = jnp.array([0.0, 1.0])
    np.testing.assert_array_equal(draw_clips(keys, times), draw_clips(keys, times))
    assert np.abs(draw_clips(keys[:1], times) - draw_clips(keys[1:2], times)).mean() > 0.01


def test_frames_are_colours_and_have_content(keys):
    clips = np.asarray(draw_clips(keys, jnp.array([0.0, 1.0])))
    assert clips.shape == (8, 2, *SIZE, 3)
    assert clips.min() >= 0.0
    assert clips.max() <= 1.0
    assert (clips.std(axis=(1, 2, 3)) > 0.005).all()


def test_motion_is_continuous_in_time(keys):
    clips = np.asarray(draw_clips(keys, jnp.array([1.0, 1.02, 2.0])))
    little = np.abs(clips[:, 1] - clips[:, 0]).mean()
    much = np.abs(clips[:, 2] - clips[:, 0]).mean()
    assert much > 0.01
    assert little < 0.15 * much


def test_real_textures_replace_painted_ones(keys):
    config = synthetic.SyntheticConfig(texture_size=48, n_objects=2, real_share=1.0)
    textures = jnp.broadcast_to(jnp.array([40, 90, 200], jnp.uint8), (2, 48, 64, 3))
    clips = np.asarray(draw_clips(keys, jnp.array([1.5]), textures, config))
    # At t = 1.5 the light is neutral, so whatever lies over whatever, the one colour remains.
    np.testing.assert_allclose(clips, np.broadcast_to([40, 90, 200], clips.shape) / 255, atol=1e-5)
