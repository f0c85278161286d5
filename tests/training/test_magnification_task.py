# SPDX-License-Identifier: Apache-2.0
"""A network that magnifies motion learns from drawn clips, by the trainer's loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax import checkpoint
from flavr_jax.config import ModelConfig
from flavr_jax.data.synthetic.magnified import MagnifiedConfig
from flavr_jax.training import loop, recipe, run_log
from flavr_jax.training.inputs import Magnified
from flavr_jax.training.optimizers import OptimizerConfig, ScheduleConfig
from flavr_jax.training.parallel import Parallel
from flavr_jax.training.recipe import Places, Recipe

pytestmark = pytest.mark.usefixtures("definition", "shallow")

CLIPS = MagnifiedConfig(crop=16, batch_size=4, n_objects=1, texture_size=32, noise=0.1)


@pytest.mark.once
def test_the_error_falls_and_a_checkpoint_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.run_log, "plot", lambda folder: None)
    of = Recipe(
        model=ModelConfig(width=2),
        magnified=CLIPS,
        optimizer=OptimizerConfig(learning_rate=1e-2, average_decay=0.8),
        schedule=ScheduleConfig("constant", warmup_steps=2),
        steps=24,
        compute="float32",
        reports=2,
        validation_batches=2,
        log_steps=12,
    )
    mapping = Parallel(of.strategy, devices=tuple(jax.local_devices()[:1]))
    task, inputs = recipe.prepare(of, Places(), mapping)
    assert loop.train(of, task, inputs, tmp_path, mapping=mapping)
    losses = [
        row["validation loss"] for row in run_log.read_metrics(tmp_path) if "validation loss" in row
    ]
    assert losses[-1] < losses[0]
    config, params, provenance = checkpoint.load_magnifier(tmp_path / "checkpoint")
    assert config.largest_factor == CLIPS.factors[1]
    assert provenance["steps"] == 24
    assert all(np.isfinite(leaf.astype(np.float32)).all() for leaf in jax.tree.leaves(params))


def test_a_batch_in_parts_is_the_batch_as_a_whole():
    inputs, key = Magnified(CLIPS), jax.random.key(5)

    @functools.partial(jax.jit, static_argnums=1)
    def factors(part, parts):
        return inputs.batch(key, part, parts, None, None).factor

    whole = factors(jnp.int32(0), 1)
    # Part p has every second sample of the whole.
    for part in range(2):
        np.testing.assert_allclose(whole[part::2], factors(jnp.int32(part), 2), rtol=1e-6)


def test_two_tasks_at_once_are_a_mistake():
    with pytest.raises(ValueError, match="leave one out"):
        recipe.configs.build(Recipe, {"steps": 1, "labelled": {}, "magnified": {}})
