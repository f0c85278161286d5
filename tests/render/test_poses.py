# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from flavr_jax.render.motion import Bounce, Key, Orbit, Pose, rotation_matrix, spline


def test_a_spline_passes_its_keys_and_holds_the_ends():
    times, values = [0.0, 1.0, 3.0], [[0.0, 1.0], [2.0, -1.0], [5.0, 0.0]]
    for time, value in zip(times, values):
        np.testing.assert_allclose(spline(times, values, time), value)
    np.testing.assert_array_equal(spline(times, values, -1.0), values[0])
    np.testing.assert_array_equal(spline(times, values, 9.0), values[2])


def test_a_spline_through_a_straight_even_path_is_straight_and_even():
    times = [0.0, 0.5, 2.0, 3.0]
    values = [[2 * t, 1 - t] for t in times]
    for time in (0.2, 1.3, 2.9):
        np.testing.assert_allclose(spline(times, values, time), [2 * time, 1 - time])


def test_a_spline_is_smooth_at_its_keys():
    times, values = [0.0, 1.0, 2.0, 4.0], [[0.0], [1.0], [-1.0], [2.0]]
    for key in (1.0, 2.0):
        before, at, after = (spline(times, values, key + step)[0] for step in (-1e-4, 0, 1e-4))
        assert (after - at) / 1e-4 == pytest.approx((at - before) / 1e-4, abs=5e-3)


def test_keys_out_of_order_are_refused():
    with pytest.raises(ValueError, match="sort them"):
        spline([0.0, 0.0], [[0.0], [1.0]], 0.5)


def test_angles_turn_about_x_then_y_then_z():
    # x maps z to −y … by hand: a quarter turn about x takes y to z, one about z takes x to y.
    np.testing.assert_allclose(rotation_matrix((90.0, 0.0, 0.0)) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(
        rotation_matrix((90.0, 0.0, 90.0)) @ [0, 1, 0], [0, 0, 1], atol=1e-12
    )
    np.testing.assert_allclose(
        rotation_matrix((0.0, 90.0, 90.0)) @ [0, 0, 1], [0, 1, 0], atol=1e-12
    )


def test_a_ball_that_rolls_does_not_slip():
    pose = Pose(position=(0.0, 0.0, 0.5), orbit=Orbit(radius=2.0, turn=70.0, roll=0.5))
    step = 1e-5
    for time in (0.0, 0.7):
        position, rotation = pose.at(time)
        contact = rotation.T @ (np.array([0.0, 0.0, 0.0]) - [0.0, 0.0, 0.5])
        moved = [sum((a @ contact, b)) for b, a in (pose.at(time), pose.at(time + step))]
        slip = (moved[1] - moved[0]) / step
        # The turn of the path itself rotates the contact point about the vertical, not away.
        np.testing.assert_allclose(slip[:2], 0.0, atol=1e-3)
        assert position[2] == 0.5


def test_bounces_are_parabolas():
    pose = Pose(bounce=Bounce(height=2.0, period=1.5))
    assert pose.at(0.75)[0][2] == pytest.approx(2.0)
    assert pose.at(1.5)[0][2] == pytest.approx(0.0, abs=1e-9)
    assert pose.at(0.375)[0][2] == pytest.approx(1.5)


def test_keys_replace_position_and_rotation():
    pose = Pose(keys=(Key(0.0, (1.0, 2.0, 3.0)), Key(2.0, (3.0, 2.0, 1.0), (0.0, 0.0, 720.0))))
    position, rotation = pose.at(1.0)
    np.testing.assert_allclose(position, [2.0, 2.0, 2.0])
    np.testing.assert_allclose(rotation, np.eye(3), atol=1e-9)
