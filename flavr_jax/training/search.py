# SPDX-License-Identifier: Apache-2.0
"""Search for the best settings of a recipe: a grid or random trials, with successive halving.

Every trial trains for a few steps. The best of them continue for more steps, and the best of those
for even more, so that most of the time is spent on promising settings. The results of a trial are
in its folder, and a stopped search continues when it is started again.

References:
    Jamieson & Talwalkar 2016, https://arxiv.org/abs/1502.07943
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flavr_jax import config as configs
from flavr_jax.partial import written_whole
from flavr_jax.training import recipe as recipes
from flavr_jax.training import run_log
from flavr_jax.training.recipe import Recipe

__all__ = ["Search", "Trial", "read_search", "run", "rungs", "trials"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Search:
    """Settings to search, and how trials are selected.

    Attributes:
        space: values of each key of the recipe: a list, or in a random search ``{low, high}`` or
            ``{low, high, log = true}``.
        trials: number of random trials; 0 tries every combination of the lists.
        first_steps: number of steps of the first rung, in which every trial trains.
        halving: factor by which each rung is longer than the previous one, and by which the number
            of trials is reduced.
        metric: name of the value in the log by which trials are compared.
        best: which values of the metric are best.
        seed: seed of the random trials.
    """

    space: dict[str, Any] = dataclasses.field(default_factory=dict)
    trials: int = 0
    first_steps: int = 200
    halving: int = 3
    metric: str = "validation loss"
    best: Literal["smallest", "largest"] = "smallest"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.space:
            raise ValueError("`space` is empty; give it a key of the recipe and its values.")
        if self.halving < 2:
            raise ValueError(
                f"`halving` is {self.halving}, but a rung keeps one trial in 2 or more; use at "
                "least 2."
            )
        ranges = [key for key, values in self.space.items() if not isinstance(values, list)]
        if ranges and self.trials == 0:
            raise ValueError(
                f"`space` has a range for {ranges[0]}, but a grid needs lists; set `trials`."
            )


@dataclasses.dataclass(frozen=True)
class Trial:
    """One choice of settings, and its result.

    Attributes:
        number: index of the trial, from 0.
        settings: values by key of the recipe.
        steps: number of steps trained so far.
        value: metric after these steps; None if the trial failed.
    """

    number: int
    settings: dict[str, Any]
    steps: int = 0
    value: float | None = None


def read_search(path: Path) -> tuple[Search, Path]:
    """Read a search from a TOML file, and the path of its recipe, which is relative to the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: a key or value is wrong, or there is no recipe.
    """
    values = configs.read_toml(path)
    base = values.pop("recipe", None)
    if not isinstance(base, str):
        raise ValueError(f'{path} names no `recipe`; write, for example, recipe = "default.toml".')
    values["space"] = dict(_flatten(values.get("space", {})))
    return configs.build(Search, values, where=str(path)), path.parent / base


def trials(search: Search) -> list[Trial]:
    """Return the trials of a search: all combinations, or random draws."""
    names = list(search.space)
    if search.trials == 0:
        grid = itertools.product(*search.space.values())
        return [Trial(number, dict(zip(names, values))) for number, values in enumerate(grid)]
    found = []
    for number in range(search.trials):
        # Each trial has its own generator, so that more trials do not change the first ones.
        rng = np.random.default_rng((search.seed, number))
        found.append(Trial(number, {name: _draw(search.space[name], rng) for name in names}))
    return found


def rungs(search: Search, count: int) -> list[tuple[int, int]]:
    """Return the steps and the number of trials of every rung; the first has ``count`` trials."""
    steps, plan = search.first_steps, [(search.first_steps, count)]
    while count > 1:
        steps, count = steps * search.halving, max(1, count // search.halving)
        plan.append((steps, count))
    return plan


def run(
    search: Search,
    recipe: dict[str, Any],
    output: Path,
    train: Callable[[Recipe, Path, int], object],
) -> list[Trial]:
    """Run a search, and return all trials, the best first.

    ``output/trials.json`` is updated after every trial.

    Args:
        search: what to search.
        recipe: values of the recipe to vary.
        output: parent folder of the trials' folders.
        train: trains a recipe in a folder up to a step, and continues where it stopped before.

    Raises:
        ValueError: settings do not fit the recipe, or no trial has a finite value of the metric.
    """
    output.mkdir(parents=True, exist_ok=True)
    known = trials(search)
    plan = rungs(search, len(known))
    recipes_of = [_recipe_of(each, recipe, search, plan[-1][0]) for each in known]
    alive = list(known)
    for steps, count in plan:
        alive = alive[:count]
        for place, trial in enumerate(alive):
            folder = output / f"trial-{trial.number:03d}"
            value = _advance(recipes_of[trial.number], folder, steps, search.metric, train)
            alive[place] = known[trial.number] = dataclasses.replace(
                trial, steps=steps, value=value
            )
            logger.info("trial %d at step %d: %s", trial.number, steps, value)
            _write(output, known)
        alive.sort(key=lambda trial: _rank(trial, search))
    if alive[0].value is None:
        raise ValueError(
            f"no trial reached a finite {search.metric!r}; choose a `metric` that "
            f"{output}/trial-000/metrics.jsonl has, or see failed.txt there."
        )
    return sorted(known, key=lambda trial: (-trial.steps, _rank(trial, search)))


def _recipe_of(trial: Trial, base: dict[str, Any], search: Search, steps: int) -> Recipe:
    """Return the recipe of a trial: the base with the trial's settings, limited to ``steps``."""
    values = json.loads(json.dumps(base))  # a deep copy, because merge() changes tables in place
    for key, value in trial.settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        recipes.merge(values, value)
    values.pop("minutes", None)
    # Every rung ends at a multiple of first_steps, and each multiple has a report.
    values |= {"steps": steps, "reports": steps // search.first_steps}
    # By default, trials are compared by the loss of a validation.
    values["validation_batches"] = values.get("validation_batches") or 8
    return configs.build(Recipe, values, where=f"trial {trial.number}")


def _advance(
    recipe: Recipe, folder: Path, steps: int, metric: str, train: Callable[[Recipe, Path, int], Any]
) -> float | None:
    """Return the metric of a trial at a step, after training if it is not known yet."""
    failed = folder / "failed.txt"
    if failed.exists():
        return None
    found = _value(folder, steps, metric)
    if found is not None:
        return found
    try:
        train(recipe, folder, steps)
        found = _value(folder, steps, metric)
        reason = f"it reached no finite {metric!r}."
    except ValueError as error:  # for example gradients that are never finite
        reason = str(error)
    if found is None:
        # A search that is started again must not train it once more.
        failed.write_text(f"{reason}\n")
        logger.info("%s: %s", folder.name, reason)
    return found


def _value(folder: Path, step: int, metric: str) -> float | None:
    """Read the metric at a step from a trial's log; None if it is not there or not finite."""
    lines = [x for x in run_log.read_metrics(folder) if x["step"] == step and metric in x]
    return lines[-1][metric] if lines and math.isfinite(lines[-1][metric]) else None


def _rank(trial: Trial, search: Search) -> float:
    """Return a number that is smaller for better trials; failed trials come last."""
    if trial.value is None:
        return math.inf
    return trial.value if search.best == "smallest" else -trial.value


def _write(output: Path, known: list[Trial]) -> None:
    with written_whole(output / "trials.json") as partial:
        partial.write_text(json.dumps([dataclasses.asdict(trial) for trial in known], indent=1))


def _draw(choice: Any, rng: np.random.Generator) -> Any:
    """Draw one value of a list or a range."""
    if isinstance(choice, list):
        return choice[int(rng.integers(len(choice)))]
    low, high = float(choice["low"]), float(choice["high"])
    if choice.get("log"):
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    return float(rng.uniform(low, high))


def _flatten(space: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested tables as dotted keys; a table with ``low`` is a range."""
    for key, value in space.items():
        if isinstance(value, dict) and "low" not in value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) or "high" in value:
            yield prefix + key, value
        else:
            raise ValueError(f"`space` has {prefix}{key}; a list or {{low, high}} goes there.")
