# SPDX-License-Identifier: Apache-2.0
"""States of a run on disk: exact, two of them, and refused by another network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.training.checkpoints import Checkpoints, from_arrays, to_arrays
from flavr_jax.training.optimizers import OptimizerConfig
from flavr_jax.training.state import create

PARAMS = {"layer": {"kernel": jnp.asarray([[1.5, -2.25]], jnp.float32), "bias": jnp.ones(2)}}


@pytest.fixture(scope="module")
def state():
    return create(PARAMS, OptimizerConfig(), seed=7)


def test_leaves_are_named_by_their_path_and_come_back(state):
    arrays = to_arrays(state)
    np.testing.assert_array_equal(arrays["params/layer/kernel"], [[1.5, -2.25]])
    assert all(isinstance(each, np.ndarray) for each in arrays.values())
    again = from_arrays(arrays, state, where="here")
    assert jax.tree.structure(again) == jax.tree.structure(state)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda arrays: arrays.pop("params/layer/bias"), 1),
        (lambda arrays: arrays.update({"extra": np.zeros(1)}), 1),
        (lambda arrays: arrays.update({"step": np.zeros(3), "key": np.zeros(9)}), 2),
    ],
)
def test_a_state_of_other_names_or_shapes_is_refused(state, change, count):
    arrays = to_arrays(state)
    change(arrays)
    with pytest.raises(ValueError, match=rf"^run/3 is .*: {count} arrays differ.*--init-from"):
        from_arrays(arrays, state, where="run/3")


def test_the_newest_two_states_are_kept_and_the_newest_is_read(state, tmp_path):
    with Checkpoints(tmp_path / "states") as kept:
        assert (kept.latest(), kept.last) == (None, None)
        for step in (5, 10, 15):
            kept.save(step, dataclasses.replace(state, step=jnp.int32(step)), {"fed": step})
            assert kept.last == step
    assert sorted(each.name for each in (tmp_path / "states").iterdir()) == ["10", "15"]
    with Checkpoints(tmp_path / "states") as kept:
        assert kept.latest() == kept.last == 15
        found, host = kept.restore(jax.tree.map(jnp.zeros_like, state))
    assert int(found.step) == host["fed"] == 15
    np.testing.assert_array_equal(found.key, state.key)
    np.testing.assert_array_equal(found.params["layer"]["kernel"], [[1.5, -2.25]])


def test_a_state_is_what_it_was_when_it_was_saved(state, tmp_path):
    # The step reuses the memory of the state while it is written in the background.
    memory = np.zeros(1000, np.float32)
    with Checkpoints(tmp_path / "states") as kept:
        kept.save(1, dataclasses.replace(state, key=memory), {})
        memory[:] = 9.0
    with Checkpoints(tmp_path / "states") as kept:
        found, _ = kept.restore(dataclasses.replace(state, key=memory))
    np.testing.assert_array_equal(found.key, 0.0)


def test_the_average_begins_as_a_copy_of_the_parameters(state):
    assert state.average["layer"]["kernel"] is not state.params["layer"]["kernel"]
    np.testing.assert_array_equal(state.average["layer"]["kernel"], [[1.5, -2.25]])
    assert int(state.step) == int(state.skipped) == int(state.skipped_in_a_row) == 0
    other = create(PARAMS, OptimizerConfig(), seed=8)
    assert (np.asarray(state.key) != np.asarray(other.key)).any()
