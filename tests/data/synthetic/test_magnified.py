# SPDX-License-Identifier: Apache-2.0
"""Clips of small motion: the truth moves as many times as far, and what is at rest stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data.synthetic import collage, magnified
from flavr_jax.data.synthetic.magnified import MagnifiedConfig

RIGID = {"turn": 0.0, "zoom": 0.0, "bend": 0.0}
SMALL = {"crop": 32, "texture_size": 64, "noise": 0.0}


def film(seed, amounts, config):
    make = jax.jit(lambda amounts: magnified.film(jax.random.key(seed), amounts, config))
    return make(jnp.asarray(amounts))


def shift(one, two):
    """Displacement between two frames in pixels, by least squares over brightness gradients."""
    one, two = (np.asarray(frame, np.float64).mean(axis=-1) for frame in (one, two))
    down, across = np.gradient((one + two) / 2)
    inner = (slice(3, -3), slice(3, -3))
    a = np.stack([across[inner].ravel(), down[inner].ravel()], axis=1)
    return np.linalg.lstsq(a, (one - two)[inner].ravel(), rcond=None)[0]


def test_displacements_are_proportional_to_the_amount():
    config = MagnifiedConfig(**SMALL, **RIGID, reach=2.0, still_share=0.0, n_objects=0)
    frames = film(1, [0.0, 0.1, 0.2, 0.4], config)
    found = [shift(frames[0], frame) for frame in frames[1:]]
    assert np.hypot(*found[0]) > 0.04
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=0.05, atol=2e-3)
    np.testing.assert_allclose(found[2], 4 * found[0], rtol=0.1, atol=4e-3)


def test_a_still_background_stays():
    config = MagnifiedConfig(**SMALL, still_share=1.0, n_objects=0)
    frames = film(2, [0.0, 1.0], config)
    np.testing.assert_array_equal(frames[0], frames[1])


def test_by_the_factor_1_the_truth_is_the_middle_frame():
    config = MagnifiedConfig(**SMALL, factors=(1.0, 1.0))
    sample = jax.jit(lambda key: magnified.draw(key, config))(jax.random.key(3))
    # Inputs are rounded to 8 bits, the truth is not.
    np.testing.assert_allclose(sample.target[0], sample.frames[2], atol=0.51 / 255)
    assert not np.array_equal(sample.frames[0], sample.frames[2])


def test_noise_has_the_deviation_that_was_asked_for_and_8_bits():
    grey = jnp.full((64, 64, 3), 0.5)
    noisy = np.asarray(magnified.quantised(jax.random.key(0), grey, 0.02))
    assert noisy.std() == pytest.approx(0.02, rel=0.05)
    np.testing.assert_allclose(noisy * 255, np.rint(noisy * 255), atol=1e-3)


def test_objects_cover_the_background_where_they_are_placed():
    shape = (1, 2)
    poses = collage.Poses(
        position=jnp.array([[[0.0, 0.0], [6.0, -4.0]]]),
        angle=jnp.zeros(shape),
        log_scale=jnp.zeros(shape),
        wave=jnp.zeros((*shape, 3, 2)),
    )
    white, black = (jnp.full((16, 16), value, jnp.uint32) for value in (0xFFFFFFFF, 0xFF000000))
    cutouts = collage.Cutouts(jnp.stack([white, black]), jnp.array([True, False]))
    texels = cutouts.texels.at[1, :, :4].set(0).at[1, :, -4:].set(0)
    texels = texels.at[1, :4].set(0).at[1, -4:].set(0)  # a square of 4 pixels is opaque
    frame = collage.paint(cutouts._replace(texels=texels), poses, (24, 32))[0]
    rows, columns = np.nonzero(np.asarray(frame[..., 0]) < 0.5)
    assert rows.mean() == pytest.approx(11.5 - 4.0, abs=0.1)
    assert columns.mean() == pytest.approx(15.5 + 6.0, abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"crop": 100}, "crop"), ({"factors": (0.5, 3.0)}, "factors"), ({"noise": 2.0}, "noise")],
)
def test_settings_that_make_no_clip_are_explained(change, message):
    with pytest.raises(ValueError, match=message):
        MagnifiedConfig(**change)
