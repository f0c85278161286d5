# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data.synthetic import motion
from flavr_jax.data.synthetic.motion import MotionConfig

SIZE = (256, 256)
RIGID = {"max_turn": 0.0, "max_zoom": 0.0, "tilt": 0.0, "max_shake": 0.0, "curvature": 0.0}


def paths(config, *, moves=1.0, count=200):
    keys = jax.random.split(jax.random.key(0), count)
    return jax.vmap(
        lambda key: motion.random_path(
            key, SIZE, config, moves=jnp.float32(moves), pixels_per_texel=(1.0, 1.0), spread=0.0
        )
    )(keys)


def centres(path, time):
    """Position in the image of each plane's origin, which its homography maps to zero."""
    matrices = jax.vmap(lambda p: motion.plane_from_image(p, jnp.float32(time)))(path)
    inverse = np.linalg.inv(np.asarray(matrices, np.float64))
    return inverse[:, :2, 2] / inverse[:, 2:, 2]


def test_speeds_are_those_of_the_settings_every_octave_alike():
    found = paths(MotionConfig(min_speed=2.0, max_speed=32.0, **RIGID))
    shifts = np.linalg.norm(centres(found, 2.0) - centres(found, 1.0), axis=1)
    assert shifts.min() >= 2.0 - 1e-2
    assert shifts.max() <= 32.0 + 1e-2
    octaves = np.histogram(np.log2(shifts), bins=[1, 2, 3, 4, 5])[0]
    assert octaves.min() > 0.5 * 200 / 4


def test_without_curvature_paths_are_straight_and_even():
    found = paths(MotionConfig(**RIGID))
    places = [centres(found, time) for time in (0.0, 1.5, 3.0)]
    np.testing.assert_allclose(places[0] + places[2], 2 * places[1], atol=1e-2)


def test_with_curvature_they_turn_and_speed_up():
    found = paths(MotionConfig(min_speed=8.0, max_speed=8.0, **(RIGID | {"curvature": 0.3})))
    first, second = (centres(found, time + 1.5) - centres(found, time) for time in (0.0, 1.5))
    lengths = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    cosine = (first * second).sum(axis=1) / (lengths[0] * lengths[1])
    assert np.median(np.degrees(np.arccos(np.clip(cosine, -1, 1)))) > 5
    assert np.median(np.abs(np.log(lengths[1] / lengths[0]))) > 0.1


@pytest.mark.parametrize(("field", "unit"), [("max_turn", 0.25), ("max_zoom", 0.15)])
def test_turns_and_zooms_stay_within_their_limits(field, unit):
    config = MotionConfig(min_speed=1e-3, max_speed=1e-3, **(RIGID | {field: unit}))
    found = paths(config)
    matrices = [
        np.asarray(jax.vmap(lambda p, t=t: motion.plane_from_image(p, jnp.float32(t)))(found))
        for t in (1.4, 1.6)
    ]
    angle, scale = (
        [np.arctan2(m[:, 0, 1], m[:, 0, 0]) for m in matrices],
        [np.log(np.hypot(m[:, 0, 0], m[:, 0, 1])) for m in matrices],
    )
    turned = np.abs((angle[1] - angle[0] + np.pi) % (2 * np.pi) - np.pi) / 0.2
    zoomed = np.abs(scale[1] - scale[0]) / 0.2
    rate, other = (turned, zoomed) if field == "max_turn" else (zoomed, turned)
    assert rate.max() <= unit + 1e-2
    assert rate.max() > unit / 2
    assert np.median(rate) < unit / 4
    assert other.max() < 1e-3


def test_what_does_not_move_keeps_its_place():
    found = paths(MotionConfig(), moves=0.0)
    np.testing.assert_allclose(centres(found, 3.0), centres(found, 0.0), atol=1e-4)


def test_waves_bend_some_planes_and_never_fold_them():
    config = MotionConfig(max_bend=14.0)
    waves = np.asarray(jax.vmap(lambda key: motion.random_wave(key, config))(
        jax.random.split(jax.random.key(0), 500)))  # fmt: skip
    amplitude, number = waves[:, 0], waves[:, 1]
    assert 0.3 < (amplitude.max(axis=1) > 0).mean() < 0.5
    assert 7.0 < amplitude.max() <= 14.0
    assert (amplitude * number).max() <= 0.5 + 1e-6  # slope of the wave
    axis = jnp.linspace(-100.0, 100.0, 21)
    u, v = jnp.broadcast_to(axis, (21, 21)), jnp.broadcast_to(axis[:, None], (21, 21))
    bent_u, _ = motion.bend(jnp.asarray(waves[amplitude[:, 0] > 5][0]), u, v, jnp.float32(0))
    assert np.abs(bent_u - u).max() <= 14.0
    assert np.abs(bent_u - u).max() > 1.0


def test_settings_without_sense_are_refused():
    with pytest.raises(ValueError, match="not above `max_speed`"):
        MotionConfig(min_speed=10.0, max_speed=5.0)


def test_nothing_in_a_frame_moves_faster_than_the_bound():
    found = paths(MotionConfig())
    bound = jax.vmap(lambda path: motion.speed(path, jnp.zeros((4, 2)), SIZE))(found)
    corners = np.array([[x, y, 1.0] for x in (-128, 0, 128) for y in (-128, 0, 128)]).T
    before, after = (
        np.asarray(jax.vmap(lambda p, t=t: motion.plane_from_image(p, jnp.float32(t)))(found))
        for t in (1.495, 1.505)
    )
    # Where the corners go to: from image to plane and back to the image, 0.01 intervals later.
    moved = np.linalg.inv(after.astype(np.float64)) @ before.astype(np.float64) @ corners
    speeds = np.linalg.norm(moved[:, :2] / moved[:, 2:] - corners[:2], axis=1).max(axis=1) / 0.01
    assert (speeds < 1.25 * np.asarray(bound) + 0.5).all()  # tilt makes some of it larger
    assert np.median(speeds / np.asarray(bound)) > 0.6
