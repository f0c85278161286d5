# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax import checkpoint
from flavr_jax.config import ModelConfig
from flavr_jax.data import mixture, synthetic
from flavr_jax.models import flavr
from flavr_jax.training import loop, state, step

MODEL = ModelConfig(width=4, n_outputs=1, base="blend")
MIX = mixture.MixtureConfig(
    crop=16, batch_size=2, synthetic=synthetic.SyntheticConfig(texture_size=24, n_objects=1)
)
OPTIMIZER = state.OptimizerConfig(learning_rate=1e-3, warmup_steps=1)


@pytest.fixture(scope="module")
def train_step():
    return step.make_step(MODEL, MIX, OPTIMIZER)


@pytest.fixture(scope="module")
def params():
    return flavr.init(MODEL, jax.random.key(0))


def advance(train_step, before, *, rate=1e-3):
    """One step on a copy, because the state is donated."""
    keys = jax.random.split(jax.random.key(1), jax.local_device_count())
    placed = step.replicate(jax.tree.map(jnp.copy, before))
    return train_step(placed, jnp.float32(rate), None, keys)


def test_a_step_moves_parameters_and_follows_them_with_the_average(train_step, params):
    before = state.create(params, OPTIMIZER)
    after, metrics = advance(train_step, before)
    assert int(after.step) == 1
    assert int(after.skipped) == 0
    assert np.isfinite(metrics["loss"])
    moved = [
        float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (after.params, params)))
    ]
    # Adam's first step is the learning rate in every coordinate that has a gradient.
    assert 0.5e-3 < max(moved) < 1.2e-3
    for average, new, old in zip(*map(jax.tree.leaves, (after.average, after.params, params))):
        np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, atol=1e-6)


def test_a_step_depends_on_the_state_alone(train_step, params):
    before = state.create(params, OPTIMIZER)
    first, second = (advance(train_step, before)[0] for _ in range(2))
    for a, b in zip(*map(jax.tree.leaves, (first, second))):
        np.testing.assert_array_equal(a, b)


def test_a_step_whose_gradient_is_not_finite_changes_nothing_but_the_counters(train_step, params):
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    before = dataclasses.replace(state.create(params, OPTIMIZER), params=broken)
    after, _ = advance(train_step, before)
    assert (int(after.step), int(after.skipped)) == (1, 1)
    for a, b in zip(
        *map(jax.tree.leaves, ((after.average, after.moments), (before.average, before.moments)))
    ):
        np.testing.assert_array_equal(a, b)


def test_a_restored_state_is_the_saved_one(tmp_path, params):
    saved = state.create(params, OPTIMIZER)
    state.save(tmp_path / "state.npz", saved, elapsed=12.5)
    like = jax.tree.map(jnp.zeros_like, saved)
    restored, elapsed = state.restore(tmp_path / "state.npz", like)
    assert elapsed == 12.5
    for a, b in zip(*map(jax.tree.leaves, (restored, saved))):
        np.testing.assert_array_equal(a, b)
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_a_state_of_another_network_is_refused(tmp_path, params):
    state.save(tmp_path / "state.npz", state.create(params, OPTIMIZER), elapsed=0.0)
    other = flavr.parameter_shapes(dataclasses.replace(MODEL, width=8))
    like = state.create(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), other), OPTIMIZER)
    with pytest.raises(ValueError, match="state of another network"):
        state.restore(tmp_path / "state.npz", like)


def test_a_run_leaves_a_checkpoint_a_log_and_a_state_that_the_next_leg_resumes(tmp_path):
    recipe = loop.Recipe(model=MODEL, data=MIX, optimizer=OPTIMIZER, minutes=1e-4)
    loop.train(recipe, output=tmp_path)
    first = checkpoint.load(tmp_path / "checkpoint")
    assert first.config == MODEL
    steps_of_first = first.provenance["steps"]
    assert steps_of_first > 0
    loop.train(dataclasses.replace(recipe, minutes=2e-3), output=tmp_path, resume=True)
    second = checkpoint.load(tmp_path / "checkpoint")
    assert second.provenance["steps"] > steps_of_first
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)


def test_a_network_with_other_inputs_than_the_data_has_is_refused(tmp_path):
    recipe = loop.Recipe(model=dataclasses.replace(MODEL, n_inputs=6))
    with pytest.raises(ValueError, match="`n_inputs` is 6"):
        loop.train(recipe, output=tmp_path)
