# SPDX-License-Identifier: Apache-2.0
"""Where things are at a time, against what one would work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flavr_jax.render import Ball, Camera, Scene, showcase


def test_a_rolling_ball_does_not_slip():
    ball = Ball((1.0, 2.0, 0.5), 0.5, orbit=2.0, turn=0.3, phase=0.7).rolling()
    time, step = 1.3, 1e-5
    # The point of the ball that touches the ground at `time`, in the ball's own axes.
    touching = ball.rotation(time).T @ [0.0, 0.0, -0.5]

    def place(at):
        return ball.position(at) + ball.rotation(at) @ touching

    speed = np.linalg.norm(place(time + step) - place(time - step)) / (2 * step)
    np.testing.assert_allclose(speed, 0.0, atol=1e-6)


def test_a_jump_is_a_parabola_that_lands_every_period():
    ball = Ball((0.0, 0.0, 0.5), 0.5, bounce=2.0, period=8.0)
    heights = [ball.position(time)[2] for time in (0.0, 2.0, 4.0, 6.0, 8.0, 12.0)]
    np.testing.assert_allclose(heights, [0.5, 2.0, 2.5, 2.0, 0.5, 2.5])


def test_a_moving_circle_is_followed():
    ball = Ball((1.0, 0.0, 0.0), 0.1, velocity=(0.0, 1.0, 0.0), orbit=2.0, turn=math.pi / 2)
    np.testing.assert_allclose(ball.position(0.0), [3.0, 0.0, 0.0])
    np.testing.assert_allclose(ball.position(1.0), [1.0, 3.0, 0.0])


def test_rotations_keep_lengths_and_handedness():
    rotation = Ball((0.0, 0.0, 0.0), 1.0, turn=0.4, phase=1.0, roll=0.9).rotation(2.2)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((0.0, 0.0, 0.0), (24.0, 32.0)),  # the target is in the middle
        ((0.0, 1.0, 0.0), (24.0, 32.0 + 7.2)),  # 1.5 × 48 pixels / distance 10 to the right
        ((0.0, 0.0, 1.0), (24.0 - 7.2, 32.0)),  # up in the scene is up in the picture
        ((5.0, 1.0, 0.0), (24.0, 32.0 + 14.4)),  # at half the distance, twice as far out
    ],
)
def test_points_are_seen_where_perspective_puts_them(point, expected):
    camera = Camera(elevation=(0.0, 0.0), distance=(10.0, 0.0), focal=1.5)
    seen = camera.project(np.array(point), 0.0, height=48, width=64)
    np.testing.assert_allclose(seen, expected, atol=1e-9)


def test_the_camera_circles_its_target():
    camera = Camera(target=(1.0, 2.0, 3.0), azimuth=(0.0, math.pi / 2), elevation=(0.0, 0.0))
    np.testing.assert_allclose(camera.position(0.0), [11.0, 2.0, 3.0])
    np.testing.assert_allclose(camera.position(1.0), [1.0, 12.0, 3.0])


def test_a_scene_needs_a_ball():
    with pytest.raises(ValueError, match="`balls` is empty"):
        Scene(())


def test_nothing_in_the_bundled_scene_moves_too_far_to_be_interpolated():
    scene = showcase()

    def seen(ball, time):
        return scene.camera.project(ball.position(time), time, height=256, width=448)

    steps = [
        math.dist(seen(ball, time), seen(ball, time + 1))
        for ball in scene.balls
        for time in map(float, range(23))
    ]
    assert max(steps) < 18
    assert 4 < np.mean(steps) < 8


def test_balls_of_the_bundled_scene_never_touch():
    scene = showcase()
    for time in np.arange(0.0, 23.0, 0.25).tolist():
        places = [ball.position(time) for ball in scene.balls]
        for i, one in enumerate(scene.balls):
            assert places[i][2] >= one.radius - 1e-9
            for j, other in enumerate(scene.balls[:i]):
                assert math.dist(places[i], places[j]) > one.radius + other.radius
