# SPDX-License-Identifier: Apache-2.0
import pytest

from flavr_jax.training import loop, state

CONFIG = state.OptimizerConfig(learning_rate=0.8, warmup_steps=100)


@pytest.mark.parametrize(
    ("step", "progress", "expected"),
    [(0, 0.0, 0.008), (49, 0.0, 0.4), (100, 0.0, 0.8), (1000, 0.5, 0.4), (1000, 1.0, 0.0)],
)
def test_the_learning_rate_warms_up_over_steps_and_falls_with_the_time(step, progress, expected):
    assert loop.learning_rate(step, progress, CONFIG) == pytest.approx(expected)


def test_the_learning_rate_never_rises_again_when_time_is_overdrawn():
    assert loop.learning_rate(1000, 1.2, CONFIG) == pytest.approx(0.0)
