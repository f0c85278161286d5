# SPDX-License-Identifier: Apache-2.0
"""Which settings of a recipe train best: a grid or a random sample, by successive halving.

Every trial trains a little; the best share of them goes on from where it stopped, for longer, and
so on to the end: most of the time is spent on settings that are worth it. What is known of a trial
lies in its folder, so a search that was stopped goes on by being started again.

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
    """What is varied, and how trials are sorted out.

    Attributes:
        space: what each key of the recipe may be: a list of values, or for a random search
            ``{low, high}`` or ``{low, high, log = true}``.
        trials: how many to draw; 0 takes every combination of the lists.
        first_steps: steps that every trial trains.
        halving: each rung trains so many times longer, and keeps one in so many trials.
        metric: what trials are sorted by, a name in their log.
        best: whether small or large values are good.
        seed: of the drawing.
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
            raise ValueError(f"`halving` is {self.halving}; one in 2 or more is kept.")
        ranges = [key for key, values in self.space.items() if not isinstance(values, list)]
        if ranges and self.trials == 0:
            raise ValueError(
                f"`space` has a range for {ranges[0]}, but a grid needs lists; set `trials`."
            )


@dataclasses.dataclass(frozen=True)
class Trial:
    """One choice of settings, and what came of it.

    Attributes:
        number: in the order of the draw.
        settings: by key of the recipe.
        steps: how far it was trained.
        value: of the metric there; None where it failed.
    """

    number: int
    settings: dict[str, Any]
    steps: int = 0
    value: float | None = None


def read_search(path: Path) -> tuple[Search, Path]:
    """A search from a TOML file, and the recipe that it names, relative to itself.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no search, or names no recipe.
    """
    values = configs.read_toml(path)
    base = values.pop("recipe", None)
    if not isinstance(base, str):
        raise ValueError(f'{path} names no `recipe`; write recipe = "default.toml", say.')
    values["space"] = dict(_flatten(values.get("space", {})))
    return configs.build(Search, values, where=str(path)), path.parent / base


def trials(search: Search) -> list[Trial]:
    """The settings to try: all combinations, or so many drawn."""
    names = list(search.space)
    if search.trials == 0:
        grid = itertools.product(*search.space.values())
        return [Trial(number, dict(zip(names, values))) for number, values in enumerate(grid)]
    found = []
    for number in range(search.trials):
        rng = np.random.default_rng((search.seed, number))
        found.append(Trial(number, {name: _draw(search.space[name], rng) for name in names}))
    return found


def rungs(search: Search, count: int) -> list[tuple[int, int]]:
    """How far trials are trained, and how many of them, rung by rung."""
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
    """All trials, the best first; ``output/trials.json`` has them after every one.

    Args:
        search: what to try.
        recipe: the values of the recipe that is varied.
        output: a folder a trial goes there.
        train: trains a recipe in a folder up to a step, from where it was.

    Raises:
        ValueError: when settings do not make a recipe, or none of the trials came to a value.
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
            f"no trial came to a {search.metric!r}; look at {output}/trial-000/metrics.jsonl."
        )
    return sorted(known, key=lambda trial: (-trial.steps, _rank(trial, search)))


def _recipe_of(trial: Trial, base: dict[str, Any], search: Search, steps: int) -> Recipe:
    values = json.loads(json.dumps(base))
    for key, value in trial.settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        recipes.merge(values, value)
    values.pop("minutes", None)
    # A report at the end of every rung, whichever rung a trial ends on.
    values |= {"steps": steps, "reports": steps // search.first_steps}
    values["validation_batches"] = values.get("validation_batches") or 8
    return configs.build(Recipe, values, where=f"trial {trial.number}")


def _advance(
    recipe: Recipe, folder: Path, steps: int, metric: str, train: Callable[[Recipe, Path, int], Any]
) -> float | None:
    """The metric of a trial at a step, for which it is trained if that is not known yet."""
    failed = folder / "failed.txt"
    if failed.exists():
        return None
    found = _value(folder, steps, metric)
    if found is not None:
        return found
    try:
        train(recipe, folder, steps)
        found = _value(folder, steps, metric)
        reason = f"it came to no finite {metric!r}."
    except ValueError as error:  # gradients that stay infinite, say
        reason = str(error)
    if found is None:
        failed.write_text(f"{reason}\n")
        logger.info("%s: %s", folder.name, reason)
    return found


def _value(folder: Path, step: int, metric: str) -> float | None:
    lines = [x for x in run_log.read_metrics(folder) if x["step"] == step and metric in x]
    return lines[-1][metric] if lines and math.isfinite(lines[-1][metric]) else None


def _rank(trial: Trial, search: Search) -> float:
    if trial.value is None:
        return math.inf
    return trial.value if search.best == "smallest" else -trial.value


def _write(output: Path, known: list[Trial]) -> None:
    with written_whole(output / "trials.json") as partial:
        partial.write_text(json.dumps([dataclasses.asdict(trial) for trial in known], indent=1))


def _draw(choice: Any, rng: np.random.Generator) -> Any:
    """One value of a list or a range."""
    if isinstance(choice, list):
        return choice[int(rng.integers(len(choice)))]
    low, high = float(choice["low"]), float(choice["high"])
    if choice.get("log"):
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    return float(rng.uniform(low, high))


def _flatten(space: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as dotted keys; a table with ``low`` is a range."""
    for key, value in space.items():
        if isinstance(value, dict) and "low" not in value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) or "high" in value:
            yield prefix + key, value
        else:
            raise ValueError(f"`space` has {prefix}{key}; a list or {{low, high}} goes there.")
