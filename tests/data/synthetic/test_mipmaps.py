# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data.synthetic import mipmaps

SIZE = 32


@pytest.fixture(scope="module")
def words():
    """A ramp of red and green, and random grey."""
    x, y = jnp.meshgrid(jnp.arange(SIZE), jnp.arange(SIZE))
    ramp = jnp.stack([4 * x + 2, 4 * y + 2, jnp.zeros_like(x)], axis=-1) / 255.0
    grey = jax.random.uniform(jax.random.key(0), (SIZE, SIZE, 1)) * jnp.ones(3)
    return jax.vmap(mipmaps.build)(jnp.stack([ramp, grey]))


def at(words, texture, level, u, v):
    arguments = (jnp.asarray(texture), jnp.asarray(level), jnp.float32(u), jnp.float32(v))
    return [255 * float(each) for each in mipmaps.sample(words, SIZE, *arguments)]


@pytest.mark.parametrize("level", range(mipmaps.N_LEVELS - 2))
def test_a_ramp_is_the_same_at_every_resolution(words, level):
    # Away from the border, where the finest levels mirror the ramp.
    red, green, blue = at(words, 0, level, 12.25, 18.5)
    assert (red, green) == pytest.approx((4 * 12.25, 4 * 18.5), abs=1.5)
    assert blue == 0.0


def test_the_coarsest_resolution_is_close_to_the_mean(words):
    mean = np.asarray(jax.random.uniform(jax.random.key(0), (SIZE, SIZE))).mean()
    values = [at(words, 1, mipmaps.N_LEVELS - 1, u, v)[0] for u in (3.0, 25.0) for v in (9.0, 30.0)]
    np.testing.assert_allclose(np.array(values) / 255, mean, atol=0.1)


def test_coarse_levels_average_blocks_of_texels(words):
    grey = np.asarray(jax.random.uniform(jax.random.key(0), (SIZE, SIZE)))
    for level, side in ((1, 1), (2, 2), (3, 4)):
        red = at(words, 1, level, 2.5 * side, 1.5 * side)[0]  # the middle of a block
        block = grey[side : 2 * side, 2 * side : 3 * side]
        assert red / 255 == pytest.approx(block.mean(), abs=0.005)


def test_textures_go_on_as_their_mirror_images(words):
    inside = at(words, 1, 1, 5.3, 7.9)
    for u, v in ((-5.3, 7.9), (2 * SIZE - 5.3, 7.9), (5.3 + 4 * SIZE, -7.9)):
        assert at(words, 1, 1, u, v) == pytest.approx(inside, abs=0.05)
