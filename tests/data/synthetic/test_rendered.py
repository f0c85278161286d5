# SPDX-License-Identifier: Apache-2.0
"""Rendered clips, against worlds built by hand whose pictures are known."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data.synthetic import mipmaps, rendered, worlds
from flavr_jax.data.synthetic.motion import MotionConfig

SIZE = (48, 64)
SMALL = worlds.WorldConfig(n_objects=1, motion=MotionConfig(max_speed=6.0), n_textures=1)
CONFIG = rendered.RenderedConfig(
    world=SMALL, texture_size=32, samples=2, blur_share=0.0, sharpness=0.0
)


def world(camera=(0.0, 0.0, 0.0), ball=(0.0, 0.0, 0.0), sun=(0.0, 0.0, -1.0)):
    """A black ball of radius 0.5, 4 units away, before a white wall at 8 units.

    ``camera`` and ``ball`` are velocities; the focal length is one image height, 48 pixels.
    """
    base = jax.tree.map(
        lambda each: jnp.zeros(each.shape, each.dtype),
        jax.eval_shape(lambda: worlds.random_world(jax.random.key(0), SIZE, SMALL)),
    )
    path = jnp.zeros((4, 3))
    walls = jnp.asarray(worlds._SHAPES[0])
    solids = base.solids._replace(
        normals=jnp.broadcast_to(walls, (3, 8, 3)),
        heights=jnp.stack([jnp.full(8, -1e6)] * 2 + [jnp.full(8, 8.0)]),
        across=jnp.broadcast_to(worlds._tangents(walls), (3, 8, 3)),
    )
    surfaces = len(base.finish.density)
    return base._replace(
        camera=base.camera._replace(position=path.at[1].set(jnp.array(camera))),
        focal=jnp.float32(1.0),
        objects=base.objects._replace(
            position=path.at[0].set(jnp.array([0.0, 0.0, 4.0])).at[1].set(jnp.array(ball))[None]
        ),
        balls=base.balls._replace(matrix=2.0 * jnp.eye(3)[None], radius=jnp.ones(1)),
        solids=solids,
        finish=base.finish._replace(
            density=jnp.ones(surfaces),
            tint=jnp.ones((surfaces, 3)).at[0].set(0.0),  # the ball is black
            shininess=jnp.ones(surfaces),
        ),
        light=base.light._replace(direction=jnp.array(sun), sun=jnp.full(3, 0.5)),
    )


PLACES = np.tile(rendered._places(6), (2, 1))


# One program serves all tests of pictures: compiling is what takes time here.
@jax.jit
def trace(scene, time, places):
    config = rendered.RenderedConfig(world=SMALL, texture_size=32)
    words = mipmaps.build(jnp.ones((32, 32, 3)))[None]
    expose = functools.partial(rendered._expose, scene, words, SIZE, config)
    return jax.vmap(expose, (None, 0, None))(time, places, jnp.float32(0.5)).mean(axis=0)[..., 0]


def picture(scene, time, places=PLACES):
    return trace(scene, time, places)


def disc(light, level):
    """Centre (x, y) and area of what is dark."""
    dark = np.clip(1.0 - np.asarray(light, np.float64) / level, 0.0, 1.0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    area = dark.sum()
    return np.array([(dark * columns).sum(), (dark * rows).sum()]) / area, area


@pytest.mark.parametrize("time", [0.0, 1.0, 1.125, 1.5, 3.0])
def test_a_ball_is_where_perspective_puts_it_at_any_time(time):
    # Against the camera, the ball moves by 0.5 units an interval, at 48 / 4 pixels a unit.
    moving = disc(
        picture(world(ball=(0.3, 0.1, 0.0), camera=(-0.2, 0.0, 0.0)), jnp.float32(time)), 0.5
    )
    expected = np.array([32 + 6.0 * (time - 1.5), 24 + 1.2 * (time - 1.5)])
    # Off the axis, a sphere's image is an ellipse, whose centre is a little farther out.
    np.testing.assert_allclose(moving[0], expected, atol=0.25)


def test_a_ball_has_the_area_of_its_silhouette():
    _, area = disc(picture(world(), jnp.float32(1.5)), 0.5)
    # The silhouette is a cone of half angle asin(r / d): its radius on the image is f tan asin.
    radius = 48 * np.tan(np.arcsin(0.5 / 4))
    assert area == pytest.approx(np.pi * radius**2, rel=0.02)


def test_edges_are_smooth_and_move_by_fractions_of_a_pixel():
    steps = jnp.array([1.5, 1.55, 1.6])
    centres = [disc(picture(world(ball=(1.0, 0.0, 0.0)), time), 0.5)[0][0] for time in steps]
    np.testing.assert_allclose(np.diff(centres), 12 * 0.05, atol=0.12)
    few = np.asarray(picture(world(), jnp.float32(1.5)))
    parts = rendered._places(72).reshape(6, 12, 2)
    many = np.mean([picture(world(), jnp.float32(1.5), part) for part in parts], axis=0)
    assert len(np.unique(few)) >= 5  # intermediate levels along the edge
    assert np.sqrt(((few - many) ** 2).mean()) < 0.02


def test_a_shadow_falls_opposite_to_the_sun():
    sun = np.array([0.5, 0.0, -1.0]) / np.sqrt(1.25)
    light = np.asarray(picture(world(sun=tuple(sun)), jnp.float32(1.5)))
    # The ball is black too. Its shadow on the wall, 4 units behind it, is shifted by 2 units, at
    # 48 / 8 pixels a unit, and as wide as the ball is high seen from the sun.
    dark = light[:, :26] < 0.5 * np.median(light)
    rows, columns = np.nonzero(dark)
    np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], [20, 24], atol=0.5)
    assert dark.sum() == pytest.approx(np.pi * 3.0**2 / sun[2] / -1, rel=0.15)


def test_light_follows_the_cosine_law():
    sun = np.array([0.0, -0.6, -0.8])
    wall = np.asarray(picture(world(sun=tuple(sun)), jnp.float32(1.5)))[24, 60]
    assert wall == pytest.approx(0.5 * 0.8, rel=1e-3)


@functools.partial(jax.jit, static_argnames="config")
def draw(keys, times, config=CONFIG):
    return rendered.draw_many(keys, jnp.tile(times, (len(keys), 1)), (24, 24), config)


TIMES = jnp.array([0.0, 1.0, 1.375, 3.0])


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(1), 4)


def test_clips_depend_on_key_and_time_alone(keys):
    clips = np.asarray(draw(keys, TIMES))
    assert clips.shape == (4, 4, 24, 24, 3)
    assert clips.min() >= 0.0
    assert clips.max() <= 1.0
    again = np.asarray(draw(keys[::-1], TIMES[::-1]))[::-1, ::-1]
    np.testing.assert_allclose(again, clips, atol=1e-5)
    assert np.abs(clips[1:] - clips[:-1]).mean(axis=(1, 2, 3, 4)).min() > 0.01
    assert np.abs(clips[:, 3] - clips[:, 0]).mean() > 0.01


def test_motion_blur_is_the_mean_of_light_over_the_exposure():
    moving = world(ball=(1.0, 0.0, 0.0))
    moments = 1.5 + np.linspace(-0.15, 0.15, 7, dtype=np.float32)
    spread = np.mean([picture(moving, jnp.float32(moment)) for moment in moments], axis=0)
    sharp = np.asarray(picture(moving, jnp.float32(1.5)))
    # A ball that moves by 12 pixels an interval blurs by 3.6 pixels along its way only.
    assert disc(spread, 0.5)[1] == pytest.approx(disc(sharp, 0.5)[1], rel=0.01)
    across, along = (np.ptp(np.nonzero((0.5 - spread > 0.01).any(axis))[0]) for axis in (0, 1))
    assert across - along == pytest.approx(3.6, abs=1.1)


def test_blurred_clips_differ_from_sharp_ones_only_where_something_moves(keys):
    config = dataclasses.replace(CONFIG, blur_share=1.0, max_exposure=0.5)
    blurred, sharp = np.asarray(draw(keys, TIMES, config)), np.asarray(draw(keys, TIMES))
    assert 1e-4 < np.abs(blurred - sharp).mean() < np.abs(sharp[:, 1:] - sharp[:, :-1]).mean()


def test_textures_have_a_power_of_two_texels():
    with pytest.raises(ValueError, match="power of two, at least 32"):
        rendered.RenderedConfig(texture_size=48)
