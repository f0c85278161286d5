# SPDX-License-Identifier: Apache-2.0
"""Properties that every metric of pixels has, whatever the frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.metrics import error, psnr, sharpness

METRICS = {
    "psnr_flavr": jax.jit(psnr.psnr_flavr),
    "psnr_uint8": jax.jit(psnr.psnr_uint8),
    "error_rms": jax.jit(error.error_rms),
    "error_absolute": jax.jit(error.error_absolute),
    "laplacian_ratio": jax.jit(sharpness.laplacian_ratio),
}
SYMMETRIC = [name for name in METRICS if name != "laplacian_ratio"]


@pytest.fixture(scope="module")
def pair():
    """Two true frames, and predictions that are off by little and by much."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.8, (2, 12, 16, 3)).astype(np.float32)
    noise = rng.normal(0, 1, truth.shape).astype(np.float32)
    return truth + noise * np.array([0.02, 0.1], np.float32)[:, None, None, None], truth


def found(name, prediction, truth):
    return np.asarray(METRICS[name](jnp.asarray(prediction), jnp.asarray(truth)))


@pytest.mark.parametrize("name", METRICS)
def test_each_frame_has_a_value_of_its_own(name, pair):
    prediction, truth = pair
    values = found(name, prediction, truth)
    assert values.shape == (2,)
    np.testing.assert_allclose(found(name, prediction[::-1], truth[::-1]), values[::-1], rtol=1e-6)
    nested = found(name, prediction[:, None], truth[:, None])
    np.testing.assert_allclose(nested, values[:, None], rtol=1e-6)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_prediction_and_truth_may_be_exchanged(name, pair):
    prediction, truth = pair
    np.testing.assert_allclose(
        found(name, prediction, truth), found(name, truth, prediction), rtol=1e-6
    )


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("axis", [1, 2])
def test_mirrored_frames_have_the_same_value(name, axis, pair):
    mirrored = [np.flip(each, axis) for each in pair]
    np.testing.assert_allclose(found(name, *mirrored), found(name, *pair), rtol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_a_nan_in_one_frame_is_seen_in_its_value_and_in_no_other(name, pair):
    prediction, truth = pair[0].copy(), pair[1]
    prediction[1, 3, 4, 0] = np.nan
    values = found(name, prediction, truth)
    assert np.isnan(values).tolist() == [False, True]


@pytest.mark.parametrize("name", ["psnr_uint8", "error_rms", "error_absolute", "laplacian_ratio"])
def test_what_a_file_cannot_hold_does_not_count(name):
    # Files have colours from 0 to 1 in 255 steps: these two frames are the same file.
    rng = np.random.default_rng(1)
    levels = rng.integers(0, 256, (1, 8, 8, 3)).astype(np.float32)
    beyond = np.where(levels == 255, 300, np.where(levels == 0, -40, levels))
    other = (beyond + rng.uniform(-0.4, 0.4, levels.shape)).astype(np.float32)
    reference = found(name, levels / 255, levels / 255)
    np.testing.assert_array_equal(found(name, other / 255, levels / 255), reference)


def test_psnr_falls_by_six_decibels_when_the_error_doubles(pair):
    _, truth = pair
    offsets = [0.02, 0.04, 0.08]
    values = [found("psnr_flavr", truth + offset, truth)[0] for offset in offsets]
    np.testing.assert_allclose(np.diff(values), -20 * np.log10(2), atol=2e-3)
    # By hand: an error of 0.02 in every colour is −20 log₁₀ 0.02 = 33.98 dB.
    assert values[0] == pytest.approx(33.979, abs=2e-3)


def test_the_absolute_error_is_at_most_the_root_mean_square(pair):
    absolute, rms = found("error_absolute", *pair), found("error_rms", *pair)
    assert (absolute <= rms).all()
    assert (rms <= np.sqrt(3) * 255).all()


def test_the_smallest_frames_are_measured_too():
    one, other = np.zeros((1, 1, 1, 3), np.float32), np.full((1, 1, 1, 3), 0.2, np.float32)
    assert found("error_absolute", one, other)[0] == pytest.approx(51.0)
    assert found("psnr_uint8", one, other)[0] == pytest.approx(20 * np.log10(5), abs=1e-3)
    corner = np.zeros((1, 3, 3, 3), np.float32)
    assert found("laplacian_ratio", corner, corner)[0] == pytest.approx(1.0)
