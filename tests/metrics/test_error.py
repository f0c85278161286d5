# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.metrics import error


def test_errors_are_in_levels_of_rounded_clamped_frames():
    rng = np.random.default_rng(0)
    target = rng.random((3, 8, 10, 3)).astype(np.float32)
    prediction = target + rng.normal(0, 0.3, target.shape).astype(np.float32)
    files = [np.rint(np.clip(f, 0, 1) * 255.0).astype(np.float64) for f in (prediction, target)]
    difference = files[0] - files[1]
    absolute = np.abs(difference).mean(axis=(1, 2, 3))
    rms = np.sqrt((difference**2).sum(axis=-1).mean(axis=(1, 2)))
    pair = jnp.asarray(prediction), jnp.asarray(target)
    np.testing.assert_allclose(error.error_absolute(*pair), absolute, rtol=1e-5)
    np.testing.assert_allclose(error.error_rms(*pair), rms, rtol=1e-5)


def test_one_level_off_in_every_colour_is_1_and_root_3():
    frame = jnp.full((4, 4, 3), 100 / 255)
    other = jnp.full((4, 4, 3), 101 / 255)
    assert float(error.error_absolute(frame, other)) == pytest.approx(1.0)
    assert float(error.error_rms(frame, other)) == pytest.approx(3**0.5)
