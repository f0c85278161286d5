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


def test_a_bounce_without_a_period_is_refused():
    with pytest.raises(ValueError, match=r"`period` is 0\.0; a bounce takes more than 0 seconds"):
        Bounce(height=1.0, period=0.0)


def test_a_shift_moves_a_bounce_in_time():
    early, late = (Pose(bounce=Bounce(2.0, period=1.5, shift=s)) for s in (0.25, 0.0))
    for time in (0.0, 0.4, 1.2):
        assert early.at(time)[0][2] == pytest.approx(late.at(time + 0.25 * 1.5)[0][2])


def test_an_orbit_goes_round_its_position_and_turns_with_it():
    pose = Pose(position=(1.0, 2.0, 3.0), orbit=Orbit(radius=2.0, turn=30.0, phase=90.0))
    position, rotation = pose.at(0.0)
    np.testing.assert_allclose(position, [1.0, 4.0, 3.0], atol=1e-12)
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(pose.at(12.0)[0], position, atol=1e-9)  # once round
    for time in np.linspace(0, 12, 7):
        assert np.linalg.norm(pose.at(time)[0] - [1.0, 2.0, 3.0]) == pytest.approx(2.0)


def test_one_key_holds_at_all_times():
    pose = Pose(keys=(Key(1.0, (1.0, 2.0, 3.0)),))
    for time in (-5.0, 1.0, 8.0):
        np.testing.assert_array_equal(pose.at(time)[0], [1.0, 2.0, 3.0])


def test_rotations_are_proper_and_compose_about_one_axis():
    random = np.random.default_rng(0)
    for angles in random.uniform(-400, 400, (20, 3)):
        matrix = rotation_matrix(angles)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1.0)
    for axis in np.eye(3):
        twice = rotation_matrix(20 * axis) @ rotation_matrix(35 * axis)
        np.testing.assert_allclose(twice, rotation_matrix(55 * axis), atol=1e-12)
