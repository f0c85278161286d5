# SPDX-License-Identifier: Apache-2.0
import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data.synthetic import kinds, scenes
from flavr_jax.data.synthetic.motion import MotionConfig

SIZE = (32, 40)
SHARES = [field.name for field in dataclasses.fields(kinds.Shares)]
CONFIG = scenes.SyntheticConfig(
    texture_size=48,
    n_objects=2,
    motion=MotionConfig(min_speed=2.0, max_speed=6.0),
    shares=kinds.Shares(**dict.fromkeys(SHARES, 0.0)),
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
    return scenes.draw_many(keys, jnp.tile(jnp.asarray(TIMES), (len(keys), 1)), SIZE, config)


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


PLAIN = kinds.Kind(
    **dict.fromkeys(SHARES, jnp.asarray(False)),
    pace=jnp.float32(1.0),
    pattern=jnp.int32(1),
    grain=jnp.float32(0.0),
    light=jnp.float32(1.0),
    hold=jnp.int32(1),
    outline=jnp.float32(0.0),
)
KINDS = {
    "plain": {},
    "cartoon": {"cartoon": True, "outline": 2.0},
    "held": {"cartoon": True, "outline": 2.0, "hold": 3},
    "overlay": {"overlay": True, "light": 0.1},
    "slow": {"slow": True, "pace": 0.5},
    "repeated": {"repeated": True, "grain": 0.02},
    "noise": {"grain": 0.02},
    "dark": {"light": 0.1},
    "occluder": {"occluder": True},
}


@pytest.fixture(scope="module")
def clips_of(keys):
    """The same eight clips as every kind of footage: one program draws them all."""

    @jax.jit
    def draw_as(kind):
        def one(key):
            with mock.patch.object(kinds, "random_kind", return_value=kind):
                return scenes.draw(key, jnp.asarray(TIMES), SIZE, CONFIG)

        return jax.vmap(one)(keys)

    return {
        name: np.asarray(
            draw_as(
                PLAIN._replace(
                    **{
                        field: jnp.asarray(value, getattr(PLAIN, field).dtype)
                        for field, value in change.items()
                    }
                )
            )
        )
        for name, change in KINDS.items()
    }


def test_frames_of_a_slow_clip_differ_little_but_differ(clips_of):
    moved, slowly = (
        np.abs(clips_of[name][:, 4] - clips_of[name][:, 1]).mean(axis=(1, 2, 3))
        for name in ("plain", "slow")
    )
    moves = moved > 0
    assert moves.sum() >= 6
    assert (slowly[moves] < 0.5 * moved[moves]).all()
    assert np.median(slowly) < 0.15 * np.median(moved)
    assert (slowly[moves] > 1e-4).all()


def test_a_repeated_input_and_all_between_are_equal_in_their_noise_too(clips_of):
    clips = clips_of["repeated"]
    np.testing.assert_array_equal(
        clips[:, 1:5], np.broadcast_to(clips[:, 1:2], clips[:, 1:5].shape)
    )
    assert (np.abs(clips[:, 1] - clips[:, 0]).mean(axis=(1, 2, 3)) > 0.01).all()
    np.testing.assert_allclose(clips[:, 0], clips_of["noise"][:, 0], atol=1e-3)


def test_each_frame_has_noise_of_its_own_at_the_strength_asked_for(clips_of):
    noise = clips_of["noise"] - clips_of["plain"]
    inside = (clips_of["plain"] > 0.1) & (clips_of["plain"] < 0.9)  # where nothing is clipped
    assert noise[inside].std() == pytest.approx(0.02, rel=0.05)
    assert abs(noise[inside].mean()) < 5e-4
    between = np.corrcoef(noise[:, 1][inside[:, 1]], noise[:, 2][inside[:, 1]])[0, 1]
    assert abs(between) < 0.05


def test_a_dark_scene_is_the_scene_with_less_light_and_its_overlays_are_bright(clips_of):
    dark, plain = clips_of["dark"], clips_of["plain"]
    unclipped = (plain > 0.05) & (plain < 0.99)
    assert np.median(dark[unclipped] / plain[unclipped]) == pytest.approx(0.1, abs=1e-3)
    assert (clips_of["overlay"].max(axis=(1, 2, 3, 4)) > 0.25).sum() >= 6


def test_overlays_stay_where_they_are(clips_of):
    """Two frames further apart in time differ, but not where an opaque overlay is."""
    clips = clips_of["overlay"]
    still = (np.ptp(clips, axis=1) < 1e-3).all(axis=-1)
    brighter = clips.max(axis=(1, 4)) > 0.2
    assert (still & brighter).any(axis=(1, 2)).sum() >= 2
    assert not (brighter & still).all()


def test_a_large_object_hides_much_of_what_the_plain_clip_shows(clips_of):
    changed = np.abs(clips_of["occluder"] - clips_of["plain"]).max(axis=-1) > 0.02
    assert changed.any(axis=1).mean() > 0.3


def test_held_drawings_move_otherwise_than_the_ground_behind_them(clips_of):
    changed = np.abs(clips_of["held"] - clips_of["cartoon"]).max(axis=-1) > 0.02
    assert 0.02 < changed[:, 0].mean() < 0.7
    assert not np.array_equal(changed[:, 1], changed[:, 0])
