# SPDX-License-Identifier: Apache-2.0
"""Painting of layers at given poses: place, turn, size and deformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data.synthetic import collage, textures

SIZE = (32, 32)


@pytest.fixture(scope="module")
def cutouts():
    """A grey background, and an object that is a horizontal white bar of 12×4 texels."""
    alpha = np.zeros((24, 24), np.float32)
    alpha[10:14, 6:18] = 1.0
    white = jnp.ones((24, 24, 3))
    packed = [
        textures.pack(0.2 * white, jnp.ones((24, 24))),
        textures.pack(white, jnp.asarray(alpha)),
    ]
    return collage.Cutouts(jnp.stack(packed), jnp.array([True, False]))


@pytest.fixture(scope="module")
def painted(cutouts):
    paint = jax.jit(lambda poses: collage.paint(cutouts, poses, SIZE))

    def at(frames=1, **pose):
        """Frames in which the object has a pose, given as one value or one for each frame."""
        rest = {"position": (0.0, 0.0), "angle": 0.0, "log_scale": 0.0, "wave": np.zeros((3, 2))}
        both = []
        for name, value in rest.items():
            shape = (frames, *np.shape(value))
            objects = np.broadcast_to(np.asarray(pose.get(name, value)), shape)
            both.append(np.stack([np.broadcast_to(value, shape), objects], axis=1))
        return np.asarray(paint(collage.Poses(*(jnp.asarray(each, jnp.float32) for each in both))))

    return at


def moments(frame):
    """Area of the object, its centre (x, y) from the image's, and its extent along x and y."""
    share = (frame[..., 0] - 0.2) / 0.8
    y, x = np.indices(share.shape) - np.array(15.5)
    area = share.sum()
    centre = np.array([(share * x).sum(), (share * y).sum()]) / area
    spread = [(share * (axis - mean) ** 2).sum() / area for axis, mean in zip((x, y), centre)]
    return area, centre, np.sqrt(np.array(spread) * 12)


def test_an_object_at_rest_is_in_the_middle_at_its_size(painted):
    area, centre, extent = moments(painted()[0])
    assert area == pytest.approx(48, rel=0.02)
    np.testing.assert_allclose(centre, 0, atol=0.05)
    np.testing.assert_allclose(extent, [12, 4], atol=0.4)


def test_positions_point_to_the_right_and_down(painted):
    _, centre, _ = moments(painted(position=(5.25, -3.5))[0])
    np.testing.assert_allclose(centre, [5.25, -3.5], atol=0.1)  # soft borders


def test_a_quarter_turn_stands_the_bar_up(painted):
    _, _, extent = moments(painted(angle=np.pi / 2)[0])
    np.testing.assert_allclose(extent, [4, 12], atol=0.4)


def test_turns_are_clockwise(painted):
    frame = painted(angle=np.pi / 4)[0]
    # Its right end points down.
    assert frame[19, 19, 0] > 0.8 > 0.3 > frame[12, 19, 0]


def test_scales_are_pixels_per_texel(painted):
    area, _, extent = moments(painted(log_scale=np.log(1.5))[0])
    assert area == pytest.approx(48 * 1.5**2, rel=0.05)
    np.testing.assert_allclose(extent, [18, 6], atol=0.7)


def test_a_wave_bends_the_bar_and_none_leaves_it(painted):
    wave = np.array([[0.0, 2.0], [0.1, 0.5], [0.0, 0.0]])  # up and down, along the bar
    bent = painted(wave=wave)[0]
    _, _, extent = moments(bent)
    assert extent[1] > 4.6
    np.testing.assert_array_equal(painted(wave=wave * [[0.0], [1.0], [1.0]])[0], painted()[0])


def test_every_frame_has_its_own_pose(painted):
    frames = painted(frames=3, position=[(-4.0, 0.0), (0.0, 0.0), (4.0, 0.0)])
    found = [moments(frame)[1][0] for frame in frames]
    np.testing.assert_allclose(found, [-4, 0, 4], atol=0.05)


def test_waves_do_not_fold_the_texture():
    waves = jax.vmap(lambda key: collage.random_wave(key, 50.0))(
        jax.random.split(jax.random.key(0), 200)
    )
    slopes = np.asarray(waves[:, 0] * waves[:, 1])
    assert slopes.max() <= 0.5 + 1e-5
    assert np.asarray(waves[:, 0]).max() > 5
