# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax import contrib

from flavr_jax.training.optimizers import (
    OptimizerConfig,
    Schedule,
    ScheduleConfig,
    joint_norm,
    optimizer,
)


@pytest.mark.parametrize(
    ("step", "progress", "expected"),
    [(0, 0.0, 0.008), (49, 0.0, 0.4), (100, 0.0, 0.8), (1000, 0.5, 0.4), (1000, 1.0, 0.0)],
)
def test_the_learning_rate_warms_up_over_steps_and_falls_with_the_progress(
    step, progress, expected
):
    schedule = Schedule(ScheduleConfig("cosine", warmup_steps=100), 0.8)
    assert schedule.rate(step, progress) == pytest.approx(expected)


def test_the_learning_rate_never_rises_again_when_time_is_overdrawn():
    schedule = Schedule(ScheduleConfig("cosine", warmup_steps=0), 0.8)
    assert schedule.rate(1000, 1.2) == pytest.approx(0.0)


def test_a_plateau_lowers_the_rate_when_patience_is_over_and_survives_a_restart():
    # By hand, after PyTorch's ReduceLROnPlateau(factor=0.5, patience=2): the third report without
    # a gain of 1e-4 lowers the rate and starts counting again.
    config = ScheduleConfig("plateau", warmup_steps=0, factor=0.5, patience=2)
    losses = [1.0, 0.9, 0.9, 0.89999, 0.95, 0.8, float("nan"), 0.8, 0.81]
    expected = [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25]
    schedule = Schedule(config, 1.0)
    for loss, rate in zip(losses, expected, strict=True):
        resumed = Schedule(config, 1.0)
        resumed.set_state(schedule.get_state())
        schedule = resumed
        schedule.report(loss)
        assert schedule.rate(0, 0.0) == rate


def test_without_decay_and_clipping_the_update_is_adams():
    rule = optimizer(OptimizerConfig(beta1=0.9, beta2=0.99, weight_decay=0.0, clip_norm=0.0))
    params = {"a": jnp.array([5.0, -5.0])}
    state = rule.init(params)
    first = second = np.zeros(2)
    for number, gradient in enumerate(np.array([[3.0, -40.0], [1.0, 2.0], [-2.0, 0.5]]), 1):
        update, state = rule.update({"a": jnp.asarray(gradient, jnp.float32)}, state, params)
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        unbiased = first / (1 - 0.9**number), second / (1 - 0.99**number)
        np.testing.assert_allclose(update["a"], unbiased[0] / np.sqrt(unbiased[1]), rtol=1e-5)


def test_decay_pulls_parameters_and_clipping_bounds_the_gradient():
    params = {"a": jnp.array([5.0, -5.0])}
    rule = optimizer(OptimizerConfig(weight_decay=0.1, clip_norm=1.0))
    update, state = rule.update({"a": jnp.array([30.0, 40.0])}, rule.init(params), params)
    # Adam's first update is the gradient's sign, however long it is.
    np.testing.assert_allclose(update["a"], [1.0 + 0.5, 1.0 - 0.5], rtol=1e-5)
    # The moment has seen a gradient of length 1.
    moments = next(part for part in state if hasattr(part, "mu"))
    np.testing.assert_allclose(moments.mu["a"], [0.06, 0.08], rtol=1e-5)


def test_the_joint_norm_is_that_of_all_elements():
    tree = {"a": jnp.array([[3.0, 0.0]]), "b": (jnp.array(4.0), jnp.full((2, 3, 4), 2.0))}
    np.testing.assert_allclose(joint_norm(tree), np.sqrt(9 + 16 + 24 * 4), rtol=1e-6)


def test_muon_gives_kernels_singular_values_near_1_and_leaves_biases_and_pixels_to_adam():
    generator = np.random.default_rng(0)
    # A kernel whose singular values span two orders of magnitude.
    left, _ = np.linalg.qr(generator.standard_normal((3 * 5 * 6, 16)))
    right, _ = np.linalg.qr(generator.standard_normal((16, 16)))
    gradient = {
        "kernel": jnp.asarray((left * np.logspace(0, -2, 16)) @ right).reshape(3, 5, 6, 16),
        "bias": jnp.array([3.0, -40.0]),
        "out": {"kernel": jnp.array([3.0, -40.0]).reshape(1, 1, 1, 2)},
    }
    rule = optimizer(OptimizerConfig("muon", weight_decay=0.0, clip_norm=0.0))
    update, _ = rule.update(gradient, rule.init(gradient), gradient)
    found = np.linalg.svd(np.reshape(update["kernel"], (-1, 16)), compute_uv=False)
    assert (found / (0.2 * np.sqrt(90)) > 0.4).all()
    assert (found / (0.2 * np.sqrt(90)) < 1.3).all()
    for adams in update["bias"], update["out"]["kernel"].ravel():
        np.testing.assert_allclose(adams, [1.0, -1.0], rtol=1e-5)
    # As large as updates of Adam are in training.
    assert 0.15 < np.sqrt(np.mean(np.square(update["kernel"]))) < 0.25


def test_muon_on_stacks_is_optaxs_muon_and_takes_a_third_of_its_products():
    # Kernels of several sizes; one has more outputs than everything else together.
    shapes = [(3, 3, 3, 8, 16), (3, 3, 3, 16, 16), (1, 1, 1, 8, 32), (3, 16, 12)] + [(3, 8, 8)] * 5
    generator = np.random.default_rng(0)
    kernels, gradients = (
        {
            str(n): jnp.asarray(generator.standard_normal(s), jnp.float32)
            for n, s in enumerate(shapes)
        }
        for _ in range(2)
    )
    rule = optimizer(OptimizerConfig("muon", weight_decay=0.0, clip_norm=0.0))
    optaxs = contrib.scale_by_muon(
        weight_dimension_numbers=lambda tree: jax.tree.map(
            lambda x: contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1), tree
        )
    )
    state, expected_state = rule.init(kernels), optaxs.init(kernels)
    for gradient in gradients, kernels:
        update, state = rule.update(gradient, state, kernels)
        expected, expected_state = optaxs.update(gradient, expected_state, kernels)
        for name, shape in zip(update, shapes, strict=True):
            longest = max(int(np.prod(shape[:-1])), shape[-1])
            wanted = 0.2 * np.sqrt(longest) * expected[name]
            np.testing.assert_allclose(update[name], wanted, atol=1e-4)
    moments = state[0].inner_states["muon"].inner_state[0]
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), moments.mu, expected_state.mu
    )

    # By itself, each matrix takes 15 products. (Versions of optax write them as a loop or in a row,
    # so that its own program cannot be counted.)
    text = jax.jit(rule.update).lower(gradients, state, kernels).as_text()
    assert text.count("stablehlo.dot_general") <= len(shapes) * 15 / 3


@pytest.mark.parametrize("kind", ["constant", "cosine", "plateau"])
def test_a_warm_up_rises_evenly_to_the_highest_rate_and_no_schedule_exceeds_it(kind):
    schedule = Schedule(ScheduleConfig(kind, warmup_steps=10), 0.5)
    rates = np.array([schedule.rate(step, 0.0) for step in range(30)])
    np.testing.assert_allclose(rates[:10], 0.5 * np.arange(1, 11) / 10)
    np.testing.assert_array_equal(rates[10:], 0.5)


def test_a_cosine_falls_slowly_at_both_ends_and_is_symmetric():
    schedule = Schedule(ScheduleConfig("cosine", warmup_steps=0), 2.0)
    part = np.linspace(0, 1, 41)
    rates = np.array([schedule.rate(5, progress) for progress in part])
    np.testing.assert_allclose(rates, 1 + np.cos(np.pi * part), atol=1e-12)
    np.testing.assert_allclose(rates + rates[::-1], 2.0, atol=1e-12)


def test_only_a_plateau_listens_to_reports():
    for kind in ("constant", "cosine"):
        schedule = Schedule(ScheduleConfig(kind, warmup_steps=0, patience=0), 1.0)
        before = schedule.rate(0, 0.25)
        for _ in range(5):
            schedule.report(1.0)
        assert schedule.rate(0, 0.25) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulate": 0}, "`accumulate` is 0; a batch has at least 1 part"),
        ({"beta1": 1.0}, r"`beta1` is 1\.0; a decay is at least 0 and below 1"),
        ({"beta2": -0.1}, "`beta2` is -0.1"),
        ({"average_decay": 1.5}, "`average_decay` is 1.5"),
    ],
)
def test_settings_that_make_no_optimiser_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**change)
