# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.render import Material, Object, Scene, patterns, world


def colours(name, points, *, scale=1.0, size=1.0):
    """Second-colour fraction of a pattern from black to white."""
    stuff = Material(colour=(0.0,) * 3, second=(1.0,) * 3, pattern=name, scale=scale)
    _, arrays = world.compile_scene(Scene((Object(material="m", size=(size,)),), {"m": stuff}))
    count = len(points)
    first = (row[0][..., None] for row in arrays.materials)
    material = world.Materials(*(jnp.repeat(row, count, -1) for row in first))
    local = jnp.asarray(np.transpose(points), jnp.float32)
    found = patterns.colour((name,), (), material, local, jnp.full((3, count), size))
    return np.asarray(found[0])


def test_a_checker_alternates_along_every_axis():
    points = [[0.5, 0.5, 0.5], [1.5, 0.5, 0.5], [0.5, 1.5, 0.5], [1.5, 1.5, 0.5], [-0.5, 0.5, 0.5]]
    np.testing.assert_array_equal(colours("checker", points), [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(colours("checker", points[:2], scale=3.0), [0, 0])


@pytest.mark.parametrize("name", ["bands", "wedges", "dots"])
def test_patterns_on_balls_grow_with_the_ball(name):
    points = np.random.default_rng(0).normal(size=(200, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    small, large = colours(name, points), colours(name, 3.0 * points, size=3.0)
    assert 0.1 < small.mean() < 0.9
    assert (small != large).mean() < 0.02  # rounding decides at edges


def test_noise_is_continuous_and_of_every_level():
    line = np.linspace([0.1, 0.2, 0.3], [8.1, 3.2, 1.3], 2000)
    values = colours("noise", line)
    assert values.min() < 0.3 < 0.65 < values.max()
    assert np.abs(np.diff(values)).max() < 0.1


def test_images_are_read_between_texels_and_repeat():
    image = jnp.asarray(np.arange(8, dtype=np.float32).reshape(2, 4, 1) * np.ones(3, np.float32))
    u = jnp.array([0.125, 0.25, 1.125, -0.875])  # the first texel's centre, half way to the next, …
    values = patterns.bilinear(image, u, jnp.full(4, 0.25))[0]
    np.testing.assert_allclose(values, [0.0, 0.5, 0.0, 0.0], atol=1e-5)
