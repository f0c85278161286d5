# SPDX-License-Identifier: Apache-2.0
import json
import sys
from pathlib import Path

import jax
import pytest

from flavr_jax import cli
from flavr_jax.commands import train as training
from flavr_jax.commands import tune as tuning
from flavr_jax.training.loop import Leg
from flavr_jax.training.parallel import Hosts
from flavr_jax.training.recipe import Places

pytestmark = pytest.mark.usefixtures("definition")

ROOT = Path(__file__).parents[2]
TRAIN = """
steps = 6
[model]
width = 4
[data]
crop = 16
batch_size = 2
synthetic = { texture_size = 24, n_objects = 1 }
"""
SEARCH = """
recipe = "recipe.toml"
first_steps = 2
[space]
optimizer.learning_rate = [1e-3, 0.25]
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(TRAIN)
    return path


def run(script, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        cli.run(script.main, script.Options)
    return done.value.code


def test_every_option_reaches_what_it_is_for(recipe, tmp_path, monkeypatch, capsys):
    script, seen = training, {}
    monkeypatch.setattr(script.parallel, "initialize", lambda hosts: seen.update(hosts=hosts))
    monkeypatch.setattr(
        script.recipes,
        "prepare",
        lambda recipe, places, mapping: (seen.update(recipe=recipe, places=places), None),
    )

    def train(recipe, task, inputs, output, leg, mapping):
        seen.update(output=output, leg=leg)
        return False

    monkeypatch.setattr(script.loop, "train", train)
    code = run(
        script, recipe, "--output", tmp_path / "out",
        "--clips", "a", "--source", "b", "--training-list", "c", "--validation-list", "d",
        "--evaluation", "e", "--evaluation-set", "vimeo90k-test",
        "--resume", "--resume-from", "f", "--init-from", "g", "--export-state", "h",
        "--until", "5", "--leg-minutes", "2.5",
        "--coordinator", "host0:1234", "--processes", "4", "--process", "3", "--cluster",
        "--set", "data.crop=32", "seed=7",
        monkeypatch=monkeypatch,
    )  # fmt: skip
    assert code is None
    assert (seen["recipe"].data.crop, seen["recipe"].seed) == (32, 7)
    assert seen["places"] == Places(*map(Path, "abcde"), evaluation_set="vimeo90k-test")
    assert seen["leg"] == Leg(True, Path("f"), Path("g"), Path("h"), 5, 2.5)
    assert seen["hosts"] == Hosts("host0:1234", 4, 3, True)
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'checkpoint'}: go on with --resume.\n"


def test_a_resumed_training_finds_the_programs_that_the_first_leg_compiled(
    recipe, tmp_path, monkeypatch
):
    script, seen = training, []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(
        script.loop, "train", lambda *_: seen.append(jax.config.jax_compilation_cache_dir)
    )
    try:
        run(script, recipe, "--output", tmp_path / "out", monkeypatch=monkeypatch)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert seen == [str(tmp_path / "flavr_jax" / "compiled")]


def test_a_wrong_key_of_the_recipe_is_one_line(recipe, tmp_path, monkeypatch, capsys):
    script = training
    arguments = [recipe, "--output", tmp_path / "out", "--set", "data.corp=32"]
    assert run(script, *arguments, monkeypatch=monkeypatch) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "unknown key 'corp'" in errors[0]


def test_a_search_prints_its_trials_with_the_best_first(recipe, tmp_path, monkeypatch, capsys):
    script = tuning
    path = tmp_path / "search.toml"
    path.write_text(SEARCH)

    def train(recipe, task, inputs, folder, leg, mapping):
        assert leg.resume
        folder.mkdir(exist_ok=True)
        line = {"step": leg.until, "validation loss": recipe.optimizer.learning_rate}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return True

    monkeypatch.setattr(script.loop, "train", train)
    code = run(script, path, "--output", tmp_path / "out", monkeypatch=monkeypatch)
    assert code is None
    printed = capsys.readouterr().out
    assert printed.index("0.001") < printed.index("0.25")
    assert len(json.loads((tmp_path / "out" / "trials.json").read_text())) == 2
