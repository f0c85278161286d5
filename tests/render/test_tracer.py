# SPDX-License-Identifier: Apache-2.0
"""Pictures whose light is known exactly, and what holds for all pictures."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flavr_jax.render import Ball, Camera, Ground, Scene, Sky, Sun, radiance, render

BLACK = Sky((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
WHITE = Sky()
DAWN = Sky((0.2, 0.4, 0.8), (0.8, 0.4, 0.2))
LEVEL = Camera(elevation=(0.0, 0.0), distance=(10.0, 0.0), focal=1.5)


def light_of(scene, time=0.0, *, height=24, width=32, samples=8, bounces=3, seed=0):
    size = {"height": height, "width": width}
    key = jax.random.key(seed)
    light = radiance(scene, time, **size, samples=samples, bounces=bounces, key=key)
    return np.asarray(light, np.float64)


@pytest.mark.parametrize("albedo", [0.0, 0.18, 0.6, 1.0])
def test_a_dull_ball_in_a_white_sky_reflects_its_albedo(albedo):
    ball = Ball((0.0, 0.0, 0.0), 2.0, ((albedo,) * 3,) * 2)
    light = light_of(Scene((ball,), LEVEL, ground=None, sky=WHITE))
    np.testing.assert_allclose(light[10:14, 14:18], albedo, atol=1e-5)
    np.testing.assert_allclose(light[0, 0], 1.0, rtol=1e-6)


@pytest.mark.parametrize(("reflectance", "roughness"), [(0.05, 0.0), (0.5, 0.2), (1.0, 0.0)])
def test_a_white_ball_disappears_in_a_white_sky(reflectance, roughness):
    white = ((1.0, 1.0, 1.0),) * 2
    ball = Ball((0.0, 0.0, 0.0), 2.0, white, reflectance=reflectance, roughness=roughness)
    light = light_of(Scene((ball,), LEVEL, ground=None, sky=WHITE))
    np.testing.assert_allclose(light, 1.0, rtol=1e-4)


def test_the_sun_lights_by_the_cosine_and_balls_cast_shadows():
    grey = ((0.5, 0.5, 0.5),) * 2
    camera = Camera(elevation=(1.3, 0.0), distance=(12.0, 0.0), focal=1.5)
    ball = Ball((0.0, 0.0, 1.0), 0.5, grey)
    sun = Sun((1.0, 0.0, 1.0), (2.0, 2.0, 2.0), 0.01)
    scene = Scene((ball,), camera, Ground(grey), BLACK, sun)
    light = light_of(scene, height=48, width=64, bounces=1)  # none by way of ball and ground

    def at(x, y):
        row, column = camera.project(np.array([x, y, 0.0]), 0.0, height=48, width=64)
        return light[int(row), int(column)]

    np.testing.assert_allclose(at(0.0, 3.0), 0.5 * 2.0 * np.cos(np.pi / 4), rtol=5e-3)
    np.testing.assert_allclose(at(-1.0, 0.0), 0.0, atol=5e-3)  # 45° behind the ball


def test_a_mirror_shows_the_horizon_that_is_behind_the_camera():
    ball = Ball((0.0, 0.0, 0.0), 2.0, reflectance=1.0)
    light = light_of(Scene((ball,), LEVEL, ground=None, sky=DAWN))
    np.testing.assert_allclose(light[12, 15:17].mean(axis=0), [0.8, 0.4, 0.2], atol=0.06)
    assert light[7, 16, 2] > light[12, 16, 2]  # higher up, the blue of the zenith


@pytest.mark.parametrize("time", [0.0, 0.5, 1.0, 1.125])
def test_a_moving_ball_is_where_it_should_be_at_any_time(time):
    ball = Ball(
        (0.0, 0.0, 0.0),
        0.8,
        ((0.0, 0.0, 0.0),) * 2,
        emission=(1.0, 1.0, 1.0),
        velocity=(0.0, 1.0, 0.5),
    )
    light = light_of(
        Scene((ball,), LEVEL, ground=None, sky=BLACK), time, height=48, width=64, samples=32
    )[..., 0]
    rows, columns = np.mgrid[:48, :64] + 0.5
    centre = (rows * light).sum() / light.sum(), (columns * light).sum() / light.sum()
    # 7.2 pixels a unit of length: 1.5 × 48 pixels / distance 10
    np.testing.assert_allclose(centre, [24 - 3.6 * time, 32 + 7.2 * time], atol=0.12)
    np.testing.assert_allclose(light.sum(), np.pi * (0.8 * 7.2) ** 2, rtol=0.02)


def test_a_small_step_in_time_is_a_small_change_of_the_picture():
    ball = Ball((0.0, 0.0, 0.0), 1.5, pattern="wedges", velocity=(0.0, 0.5, 0.0), roll=0.3)
    scene = Scene((ball,), LEVEL, ground=None, sky=DAWN)
    start, soon, later = (light_of(scene, time) for time in (1.0, 1.01, 2.0))
    assert 0 < np.abs(soon - start).mean() < np.abs(later - start).mean() / 10


def test_a_picture_is_decided_by_its_key():
    ball = Ball((0.0, 0.0, 0.0), 2.0, pattern="dots", reflectance=0.1)
    scene = Scene((ball,), LEVEL, ground=None, sky=DAWN)
    first, again, other = (light_of(scene, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_pictures_are_in_range_however_bright_the_light():
    ball = Ball((0.0, 0.0, 0.0), 2.0, emission=(50.0, 0.0, 0.0))
    scene = Scene((ball,), LEVEL, ground=None, sky=DAWN)
    picture = render(scene, 0.0, height=24, width=32, samples=8, key=jax.random.key(0))
    assert picture.shape == (24, 32, 3)
    assert float(picture.min()) >= 0.0
    assert 0.95 < float(picture.max()) <= 1.0


def test_a_picture_needs_a_sample():
    scene = Scene((Ball((0.0, 0.0, 1.0), 1.0),))
    with pytest.raises(ValueError, match="`samples` is 0"):
        render(scene, 0.0, height=8, width=8, samples=0, key=jax.random.key(0))
