# SPDX-License-Identifier: Apache-2.0
"""Clips of classes of motion: what moves how, and that appearance does not depend on the class."""

import functools

import jax
import numpy as np
import pytest

from flavr_jax.data.synthetic import actions
from flavr_jax.data.synthetic.actions import CLASSES, ActionConfig

TINY = ActionConfig(size=16, texture_size=32, noise=0.0)


@pytest.fixture(scope="module")
def courses():
    """Courses of 16 keys by class: 16 × time."""
    make = jax.jit(jax.vmap(functools.partial(actions.courses, frames=8)))
    found = jax.tree.map(np.asarray, make(jax.random.split(jax.random.key(0), 16)))
    return {
        name: jax.tree.map(lambda leaf, n=number: leaf[:, n], found)
        for number, name in enumerate(CLASSES)
    }


@pytest.mark.parametrize(
    ("name", "direction"),
    [("up", (0, -1)), ("down", (0, 1)), ("left", (-1, 0)), ("right", (1, 0))],
)
def test_steady_motion_has_its_direction_and_one_speed(courses, name, direction):
    steps = np.diff(courses[name].shift, axis=1)
    speeds = steps @ np.array(direction)
    assert speeds.min() > 1.4
    np.testing.assert_allclose(steps, speeds[..., None] * np.array(direction), atol=1e-4)
    np.testing.assert_allclose(speeds, speeds[:, :1] * np.ones(7), rtol=1e-3)


def test_turns_and_zooms_have_their_sense(courses):
    assert (np.diff(courses["clockwise"].angle, axis=1) > 0).all()
    assert (np.diff(courses["anticlockwise"].angle, axis=1) < 0).all()
    assert (np.diff(courses["grow"].log_scale, axis=1) > 0).all()
    assert (np.diff(courses["shrink"].log_scale, axis=1) < 0).all()


def test_circles_turn_in_their_sense(courses):
    for name, sense in (("circle clockwise", 1), ("circle anticlockwise", -1)):
        steps = np.diff(courses[name].shift, axis=1)
        cross = steps[:, :-1, 0] * steps[:, 1:, 1] - steps[:, :-1, 1] * steps[:, 1:, 0]
        assert (sense * cross > 0).all()  # y points down, so that this is clockwise
        lengths = np.linalg.norm(steps, axis=-1)
        np.testing.assert_allclose(lengths, lengths[:, :1] * np.ones(7), rtol=1e-3)


def test_speeding_up_and_slowing_down_are_straight_and_each_other_reversed(courses):
    for name, sense in (("speed up", 1), ("slow down", -1)):
        steps = np.diff(courses[name].shift, axis=1)
        lengths = np.linalg.norm(steps, axis=-1)
        assert (sense * np.diff(lengths, axis=1) > 0).all()
        units = steps / lengths[..., None]
        np.testing.assert_allclose(units, units[:, :1] * np.ones((1, 7, 1)), atol=1e-3)


def test_the_pose_is_passed_at_a_random_moment_of_the_clip(courses):
    moments = []
    for name in ("right", "speed up", "slow down"):
        along = np.abs(courses[name].shift).sum(axis=-1)
        moments.append(along.argmin(axis=1))
        # Between two frames: no farther from the pose than one step.
        steps = np.abs(np.diff(courses[name].shift, axis=1)).sum(axis=-1).max(axis=1)
        assert (along.min(axis=1) <= steps).all()
    assert len(np.unique(moments)) > 4


def test_every_class_moves_in_its_own_way(courses):
    stacked = {
        name: np.concatenate([np.ravel(leaf) for leaf in of]) for name, of in courses.items()
    }
    for one in CLASSES:
        assert np.abs(stacked[one]).max() > 0.1
        for other in CLASSES:
            assert one == other or not np.allclose(stacked[one], stacked[other], atol=1e-3)


def test_the_background_does_not_depend_on_the_class():
    draw = jax.jit(lambda label: actions.draw(jax.random.key(3), label, TINY))
    one, other = (np.asarray(draw(CLASSES.index(name))) for name in ("sway", "clockwise"))
    same = np.isclose(one, other, atol=1e-6).all(axis=-1)
    assert same.mean() > 0.3
    assert not same.all()


def test_smaller_frames_show_the_same_clip_smaller():
    def clip(size):
        config = ActionConfig(size=size, texture_size=32, n_others=0, noise=0.0)
        return np.asarray(jax.jit(actions.draw, static_argnums=2)(jax.random.key(5), 3, config))

    large, small = clip(64), clip(32)
    halved = large.reshape(8, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(halved - small).mean() < 0.3 * np.abs(halved[7] - halved[0]).mean()


def test_a_set_has_classes_in_turn_and_8_bits():
    make = jax.jit(lambda key: actions.draw_set(key, 20, TINY))
    found = make(jax.random.key(0))
    assert found.clips.shape == (20, 8, 16, 16, 3)
    assert found.clips.dtype == np.uint8
    np.testing.assert_array_equal(found.labels, np.arange(20))
    assert np.asarray(found.clips).std() > 10
