# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.metrics import sharpness


def test_energy_is_the_mean_square_of_the_laplacian_in_levels():
    frame = np.zeros((5, 5, 3), np.float32)
    frame[2, 2] = 10 / 255
    # Inside the border: the pixel has −40, its four neighbours 10 each, of 9 pixels.
    expected = (40**2 + 4 * 10**2) / 9
    assert float(sharpness.laplacian_energy(jnp.asarray(frame))) == pytest.approx(
        expected, rel=1e-4
    )


def test_ramps_have_no_energy_and_two_flat_frames_are_alike():
    ramp = jnp.broadcast_to(jnp.arange(16)[:, None, None] / 255, (16, 16, 3))
    assert float(sharpness.laplacian_energy(ramp)) == pytest.approx(0.0, abs=1e-6)
    assert float(sharpness.laplacian_ratio(ramp, 0 * ramp)) == pytest.approx(1.0, abs=1e-3)


def test_the_ratio_is_one_of_each_frame_and_falls_with_blur():
    rng = np.random.default_rng(0)
    sharp = rng.random((2, 32, 32, 3)).astype(np.float32)
    soft = (sharp + np.roll(sharp, 1, axis=1)) / 2
    pair = jnp.asarray(np.stack([sharp[0], soft[1]])), jnp.asarray(sharp)
    ratios = np.asarray(sharpness.laplacian_ratio(*pair))
    assert ratios[0] == pytest.approx(1.0)
    assert 0.1 < ratios[1] < 0.6
