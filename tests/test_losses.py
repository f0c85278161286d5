# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax import losses


def windows(*values):
    """Windows of plain 2×2 frames: one list of values a window."""
    frames = jnp.asarray(values, jnp.float32)[:, :, None, None, None]
    return jnp.broadcast_to(frames, (*frames.shape[:2], 2, 2, 3))


def test_l1_is_the_mean_absolute_difference():
    loss = losses.l1(windows([0.5, 0.2]), windows([0.25, 0.6]), jnp.ones((1, 2)))
    assert float(loss) == pytest.approx((0.25 + 0.4) / 2)


def test_charbonnier_is_the_rounded_l1():
    loss = losses.charbonnier(windows([0.3]), windows([0.0]), jnp.ones((1, 1)), epsilon=0.4)
    assert float(loss) == pytest.approx(0.5)


def test_times_count_by_weight_and_windows_equally():
    prediction, target = windows([0.1, 0.4], [0.2, 0.9]), windows([0.0, 0.0], [0.0, 0.0])
    weights = jnp.array([[1.0, 3.0], [2.0, 0.0]])
    expected = ((0.1 + 3 * 0.4) / 4 + 0.2) / 2
    assert float(losses.l1(prediction, target, weights)) == pytest.approx(expected)


def test_a_time_without_truth_has_no_influence_whatever_it_holds():
    target, weights = windows([0.0, np.nan]), jnp.array([[1.0, 0.0]])
    value, gradient = jax.value_and_grad(losses.l1)(windows([0.5, 0.5]), target, weights)
    assert float(value) == pytest.approx(0.5)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient[:, 1]).any()
