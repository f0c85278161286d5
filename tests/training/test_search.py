# SPDX-License-Identifier: Apache-2.0
import itertools
import json

import pytest

from flavr_jax.training import loop, search
from flavr_jax.training.loop import Leg
from flavr_jax.training.search import Search
from tests.training.toys import Line, Points

BASE = {
    "minutes": 3.0,
    "model": {"width": 4},
    "optimizer": {"clip_norm": 0.0, "weight_decay": 0.0},
    "schedule": {"kind": "constant", "warmup_steps": 0},
    "compute": "float32",
    "log_steps": 100,
}
RATES = Search(
    {"optimizer.learning_rate": [1e-6, 1e30, 0.3, 1e-5, 1e-4, 0.03]}, first_steps=4, halving=2
)


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    monkeypatch.setattr(loop.run_log, "plot", lambda folder: None)


def test_the_best_settings_win_and_most_steps_are_spent_on_them(tmp_path):
    trained = []

    def train(recipe, folder, until):
        trained.append((folder.name, until))
        return loop.train(recipe, Line(), Points(), folder, Leg(resume=True, until=until))

    ranked = search.run(RATES, BASE, tmp_path, train)
    # Six trials to step 4, the best three to 8, the best one to 16.
    assert [until for _, until in trained] == [4] * 6 + [8] * 3 + [16]
    assert ranked[0].settings == {"optimizer.learning_rate": 0.3}
    assert (ranked[0].steps, ranked[1].steps, ranked[-1].steps) == (16, 8, 4)
    stored = json.loads((tmp_path / "trials.json").read_text())
    assert [trial["number"] for trial in stored] == list(range(6))
    # Started again, everything is known; with one trial's log lost, that one is trained.
    trained.clear()
    assert search.run(RATES, BASE, tmp_path, train) == ranked
    assert trained == []
    (tmp_path / "trial-003" / "metrics.jsonl").unlink()
    search.run(RATES, BASE, tmp_path, lambda recipe, folder, until: trained.append(folder.name))
    assert trained == ["trial-003"]


def test_a_trial_that_cannot_be_trained_is_last_and_not_tried_again(tmp_path):
    asked = []

    def train(recipe, folder, until):
        folder.mkdir(exist_ok=True)
        asked.append(folder.name)
        if recipe.optimizer.learning_rate == 2.0:
            raise ValueError("20 steps in a row had no finite gradient.")
        line = {"step": until, "validation loss": recipe.optimizer.learning_rate}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")

    of = Search({"optimizer.learning_rate": [2.0, 1.0]}, first_steps=1, halving=2)
    ranked = search.run(of, BASE, tmp_path, train)
    assert [(trial.number, trial.value) for trial in ranked] == [(1, 1.0), (0, None)]
    search.run(of, BASE, tmp_path, train)
    assert asked.count("trial-000") == 1


def test_a_random_search_draws_within_its_ranges_and_the_same_again():
    space = {"a": {"low": 1e-4, "high": 1e-2, "log": True}, "b": {"low": 2, "high": 3}, "c": [5]}
    of = Search(space, trials=50)
    drawn = [trial.settings for trial in search.trials(of)]
    assert drawn == [trial.settings for trial in search.trials(of)]
    assert all(1e-4 <= x["a"] <= 1e-2 and 2 <= x["b"] <= 3 and x["c"] == 5 for x in drawn)
    # Half of the values of a logarithmic range lie below its geometric mean.
    assert 15 <= sum(x["a"] < 1e-3 for x in drawn) <= 35


def test_a_search_file_names_its_recipe_and_nested_keys(tmp_path):
    path = tmp_path / "search.toml"
    path.write_text('recipe = "base.toml"\n[space]\noptimizer.learning_rate = [1e-3, 1e-4]\n')
    found, base = search.read_search(path)
    assert found == Search({"optimizer.learning_rate": [1e-3, 1e-4]})
    assert base == tmp_path / "base.toml"
    path.write_text("[space]\nseed = [1]\n")
    with pytest.raises(ValueError, match="names no `recipe`"):
        search.read_search(path)


def test_a_range_in_a_grid_is_refused():
    with pytest.raises(ValueError, match="a grid needs lists; set `trials`"):
        Search({"seed": {"low": 1, "high": 2}})


@pytest.mark.parametrize(("count", "halving"), [(27, 3), (6, 2), (1, 3), (10, 4), (2, 5)])
def test_rungs_grow_and_thin_out_until_one_trial_is_left(count, halving):
    plan = search.rungs(Search({"seed": [1]}, first_steps=100, halving=halving), count)
    steps, counts = zip(*plan)
    assert (steps[0], counts[0], counts[-1]) == (100, count, 1)
    assert all(b == a * halving for a, b in itertools.pairwise(steps))
    assert all(b == max(1, a // halving) for a, b in itertools.pairwise(counts))


def test_a_grid_has_every_combination_once_in_order():
    found = search.trials(Search({"a": [1, 2], "b": ["x", "y", "z"]}))
    assert [each.number for each in found] == list(range(6))
    assert [tuple(each.settings.values()) for each in found] == list(
        itertools.product([1, 2], ["x", "y", "z"])
    )


def test_more_random_trials_begin_with_the_same_ones():
    few, many = (search.trials(Search({"a": {"low": 0, "high": 1}}, trials=n)) for n in (5, 9))
    assert many[:5] == few
    other = search.trials(Search({"a": {"low": 0, "high": 1}}, trials=5, seed=1))
    assert [each.settings for each in other] != [each.settings for each in few]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": {}}, "`space` is empty; give it a key"),
        ({"space": {"seed": [1]}, "halving": 1}, "`halving` is 1.*use at least 2"),
    ],
)
def test_a_search_that_cannot_end_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Search(**settings)
