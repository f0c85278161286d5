# SPDX-License-Identifier: Apache-2.0
"""The step with the network itself; what does not depend on it is tested with a toy."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax import checkpoint, losses
from flavr_jax.config import ModelConfig
from flavr_jax.data.mixture import Batch
from flavr_jax.training import loop, recipe, run_log, search
from flavr_jax.training.inputs import Nothing
from flavr_jax.training.loop import Leg
from flavr_jax.training.parallel import Parallel
from flavr_jax.training.recipe import Places
from flavr_jax.training.tasks import Interpolation
from tests.training.toys import saved_state

pytestmark = pytest.mark.usefixtures("definition")

RECIPE = """
steps = 6
loss = "1*charbonnier+0.1*laplacian"
reports = 1
log_steps = 2
[model]
width = 4
base = "blend"
[data]
crop = 16
batch_size = 2
synthetic = { texture_size = 24, n_objects = 1 }
[optimizer]
learning_rate = 1e-3
average_decay = 0.9
[schedule]
warmup_steps = 0
"""


@dataclasses.dataclass(frozen=True)
class Noise:
    """Windows without content: quick to compile."""

    batch_size: int = 2
    resident: None = None

    def feed(self, parallel, *, validation=False):
        return Nothing()

    def batch(self, key, part, parts, fetched, resident):
        frames = jax.random.uniform(key, (self.batch_size // parts, 5, 16, 16, 3))
        return Batch(frames[:, :4], frames[:, 4:], jnp.ones((len(frames), 1)))


def test_a_recipe_becomes_a_checkpoint_and_interruptions_change_no_bit_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.run_log, "plot", lambda folder: None)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    of = recipe.read(tmp_path / "recipe.toml", ("optimizer.clip_norm=0.5",))
    task, drawn = recipe.prepare(of, Places(), Parallel())
    shapes = jax.eval_shape(
        lambda key: drawn.batch(key, jnp.int32(0), 2, None, drawn.resident), jax.random.key(0)
    )
    assert shapes.inputs.shape == (1, 4, 16, 16, 3)

    assert loop.train(of, task, Noise(), tmp_path / "whole")
    assert not loop.train(of, task, Noise(), tmp_path / "legs", Leg(until=3))
    assert loop.train(of, task, Noise(), tmp_path / "legs", Leg(resume=True))
    states = [saved_state(tmp_path / name, task, of)[0] for name in ("whole", "legs")]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)
    first = run_log.read_metrics(tmp_path / "whole")[0]
    assert first["loss"] == pytest.approx(first["charbonnier"] + 0.1 * first["laplacian"])
    start = task.init(jax.random.key(0))["out"]["kernel"]
    moved = np.abs(states[0].params["out"]["kernel"] - start).max()
    assert 1e-4 < moved < 6.1e-3  # six steps of Adam are at most six times the learning rate
    stored = checkpoint.load(tmp_path / "whole" / "checkpoint")
    assert stored.config == of.model
    average = states[0].average["out"]["kernel"]
    np.testing.assert_allclose(stored.params["out"]["kernel"], average, rtol=2**-8)


def test_with_remat_the_gradient_computes_every_block_and_stage_again():
    model = ModelConfig(width=4, base="blend")
    params = Interpolation(model, losses.parse("l1")).init(jax.random.key(0))
    frames = jnp.ones((1, 5, 16, 16, 3))
    batch = Batch(frames[:, :4], frames[:, 4:], jnp.ones((1, 1)))

    def count(remat):
        task = Interpolation(model, losses.parse("l1"), remat)
        text = str(jax.make_jaxpr(lambda params: task.loss(params, batch, None)[0])(params))
        return text.count("= checkpoint[") + text.count("= remat2[") + text.count("= remat[")

    assert (count(False), count(True)) == (0, 8 + 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "set one of them"),
        ("steps = 1\nminutes = 2", "set one of them"),
        ("steps = 1\n[model]\nn_inputs = 6", "`n_inputs` is 6, but training windows have 4"),
        ("steps = 1\n[model]\nbatch_norm = true", "set it to false"),
        ("steps = 1\n[data]\ncrop = 44", r"`data.crop` is 44; .* of 8, at least 8. Use 48"),
        (
            "steps = 1\ndata.crop = 7\n[model]\nbase = 'warp'\ntrunk_scale = 2",
            r"`data.crop` is 7; .* of 16, at least 16. Use 16",
        ),
        ("steps = 1\n[date]", "unknown key 'date'"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(tmp_path, text, message):
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        recipe.read(tmp_path / "recipe.toml")


def test_changes_reach_into_tables_and_replace_the_limit(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    of = recipe.read(tmp_path / "recipe.toml", ("minutes=3.0", "data.crop=32"))
    assert (of.steps, of.minutes, of.data.crop, of.data.batch_size) == (None, 3.0, 32, 2)
    with pytest.raises(ValueError, match="write key=value"):
        recipe.read(tmp_path / "recipe.toml", ("minutes",))
    with pytest.raises(ValueError, match="""text in two kinds of quotes, such as 'loss="l1"'"""):
        recipe.read(tmp_path / "recipe.toml", ("loss=l2",))


def test_a_data_set_needs_its_folder_and_a_scored_one_a_known_name(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    of = recipe.read(tmp_path / "recipe.toml", ('dataset="vimeo90k-train"',))
    with pytest.raises(ValueError, match=r"name its folder with --source .sequences/00001"):
        recipe.prepare(of, Places(), Parallel())
    unknown = Places(evaluation=tmp_path, evaluation_set="davis-3x")
    with pytest.raises(ValueError, match="unknown data set 'davis-3x'"):
        recipe.prepare(dataclasses.replace(of, dataset=""), unknown, Parallel())


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "configs").iterdir()))
def test_every_recipe_in_the_project_can_be_read_and_says_how_it_was_run(path):
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    assert f"configs/{path.name}" in header
    assert "Hardware" in header
    assert len(path.read_text().splitlines()) <= 40
    if path.name == "search.toml":
        assert search.read_search(path)[1].is_file()
    else:
        recipe.read(path)
