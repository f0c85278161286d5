# SPDX-License-Identifier: Apache-2.0
"""Recipes: all settings that the result of a run depends on, in one TOML file.

Folders of data are not part of a recipe, because they differ between machines.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from jax import Array

from flavr_jax import config as configs
from flavr_jax import losses
from flavr_jax.config import ModelConfig
from flavr_jax.data import clip_bank, labelled, mixture
from flavr_jax.data.sources import data_set
from flavr_jax.data.synthetic import magnified, textures
from flavr_jax.models.classifier import ClassifierConfig
from flavr_jax.models.magnifier import MagnifierConfig
from flavr_jax.training import inputs, tasks
from flavr_jax.training.inputs import Inputs, ReadConfig
from flavr_jax.training.optimizers import OptimizerConfig, ScheduleConfig
from flavr_jax.training.parallel import Parallel, Strategy
from flavr_jax.training.step import Compute
from flavr_jax.training.tasks import Task

__all__ = ["Places", "Recipe", "merge", "prepare", "read"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to train, on which data, and for how long.

    Attributes:
        model: the network.
        loss: distances by name and weight, as in ``"1*l1+0.1*census"``.
        data: composition and augmentation of a batch of windows.
        dataset: name of the data set to read windows from, as in data/sources.py; if empty,
            windows are drawn on the device.
        read: how windows are read.
        labelled: if given, train a classifier of labelled clips, cut in this way.
        dropout: share of features that a classifier drops in training.
        magnified: if given, train a network that magnifies motion, on such clips.
        optimizer: how parameters are updated.
        schedule: course of the learning rate.
        steps: length of the run in steps.
        minutes: length of the run in minutes, without compilation and reports. Exactly one of
            ``steps`` and ``minutes`` is set.
        seed: seed of parameters and data.
        compute: dtype of the forward and backward passes; parameters are always float32.
        remat: recompute blocks in the backward pass instead of keeping their activations. This
            saves memory and takes about a third more computation.
        strategy: how a step is mapped over devices; both strategies give the same numbers.
        reports: number of reports, evenly spaced over the run. A report validates, scores, and
            releases a checkpoint.
        validation_batches: number of batches in a validation; 0 turns it off.
        save_steps: number of steps between two saved states.
        log_steps: number of steps between two lines of the log; a line has means over these steps.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: str = "charbonnier"
    data: mixture.MixtureConfig = dataclasses.field(default_factory=mixture.MixtureConfig)
    dataset: str = ""
    read: ReadConfig = dataclasses.field(default_factory=ReadConfig)
    labelled: labelled.LabelledConfig | None = None
    dropout: float = 0.5
    magnified: magnified.MagnifiedConfig | None = None
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    compute: Compute = "bfloat16"
    remat: bool = False
    strategy: Strategy = "pmap"
    reports: int = 10
    validation_batches: int = 0
    save_steps: int = 1000
    log_steps: int = 50

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(
                f"`steps` is {self.steps} and `minutes` is {self.minutes}; set one of them: a run "
                "is limited by steps or by time."
            )
        for name in ("steps", "minutes", "save_steps", "log_steps"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` is {value}; it is above 0.")
        if self.model.batch_norm:
            raise ValueError(
                "`batch_norm` is true, but its running statistics are not trained here; set it to "
                "false, as in the paper's models."
            )
        if self.labelled is not None and self.magnified is not None:
            raise ValueError("`labelled` and `magnified` are both given; leave one out.")
        if self.labelled is None and self.model.n_inputs != mixture.N_INPUTS:
            raise ValueError(
                f"`n_inputs` is {self.model.n_inputs}, but training windows have "
                f"{mixture.N_INPUTS} inputs; set it to that."
            )
        crop, unit = self.data.crop, self.model.multiple
        windows = self.labelled is None and self.magnified is None
        if windows and (crop < unit or crop % unit):
            raise ValueError(
                f"`data.crop` is {crop}; for this network it is a multiple of {unit}, at least "
                f"{unit}. Use {unit * max(1, round(crop / unit))}."
            )


@dataclasses.dataclass(frozen=True)
class Places:
    """Folders and lists of data on this machine.

    Attributes:
        clips: folder of training clips (.mp4), which are kept in the device's memory; by default
            all windows are synthetic.
        source: folder of the recipe's data set, as downloaded or packed, or of labelled clips.
        training_list: file that lists the labelled clips to train on, one per line; by default all
            clips.
        validation_list: file that lists the labelled clips to validate on; by default the same as
            for training.
        evaluation: folder of the evaluation set, which every report scores.
        evaluation_set: name of the evaluation set.
        textures: photographs for the layers of synthetic windows that are drawn without a data set:
            a folder, or a JSONL file beside a folder of the same name.
    """

    clips: Path | None = None
    source: Path | None = None
    training_list: Path | None = None
    validation_list: Path | None = None
    evaluation: Path | None = None
    evaluation_set: str = "davis-2x"
    textures: Path | None = None


def read(path: Path, changes: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe from a TOML file and apply changes such as ``"data.crop=224"``.

    Raises:
        OSError: the file cannot be read.
        ValueError: a key or value is wrong; the message names it.
    """
    values = configs.read_toml(path)
    for change in changes:
        try:
            merge(values, tomllib.loads(change))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(
                f"`--set {change}` is not TOML ({error}); write key=value, and text in two "
                "kinds of quotes, such as 'loss=\"l1\"'."
            ) from error
    limits = [key for change in changes for key in tomllib.loads(change)]
    if "steps" in limits:  # a recipe has one limit, so the new one replaces the old
        values.pop("minutes", None)
    elif "minutes" in limits:
        values.pop("steps", None)
    return configs.build(Recipe, values, where=str(path))


def merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Change nested values in place; tables are merged, everything else is replaced."""
    for key, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(key), dict):
            merge(values[key], change)
        else:
            values[key] = change


def prepare(recipe: Recipe, places: Places, parallel: Parallel) -> tuple[Task, Inputs]:
    """Make the task of a recipe and the inputs that it trains on.

    Raises:
        OSError: data is missing.
        ValueError: ``places`` lacks a folder that the recipe needs, or names an unknown set.
    """
    if recipe.labelled is not None:
        return _classification(recipe, recipe.labelled, places)
    if recipe.magnified is not None:
        return _magnification(recipe, recipe.magnified, places, parallel)
    scored = None
    if places.evaluation is not None:
        data_set(places.evaluation_set)  # fail here on an unknown name, not at the first report
        scored = (places.evaluation_set, places.evaluation)
    task = tasks.Interpolation(recipe.model, losses.parse(recipe.loss), recipe.remat, scored)
    n_outputs = recipe.model.n_outputs
    if not recipe.dataset:
        real = None if places.clips is None else _resident(places.clips, parallel)
        return task, inputs.Drawn(
            n_outputs,
            recipe.data,
            real,
            _photographs(places, recipe.data.synthetic.texture_size, parallel),
        )
    if places.source is None:
        raise ValueError(
            f"the recipe reads {recipe.dataset}; name its folder with --source "
            f"({data_set(recipe.dataset).layout})."
        )
    # In some data sets several sequences are windows of one clip; each clip counts once.
    clips = {each.clip.name: each.clip for each in data_set(recipe.dataset).read(places.source)}
    chosen = tuple(clips.values())
    return task, inputs.Read(n_outputs, chosen, recipe.read, recipe.data, recipe.seed)


def _classification(
    recipe: Recipe, cut: labelled.LabelledConfig, places: Places
) -> tuple[Task, Inputs]:
    """Make the task and the inputs of a classifier."""
    if places.source is None:
        raise ValueError(
            "the recipe learns classes; name the folder of clips with --source "
            f"({labelled.LAYOUT})."
        )
    training = labelled.read(places.source, places.training_list)
    held_out = labelled.read(places.source, places.validation_list or places.training_list)
    config = ClassifierConfig(len(training.classes), recipe.model, recipe.dropout)
    task = tasks.Classification(config, training.classes, recipe.remat)
    return task, inputs.LabelledInputs(training, held_out, cut, recipe.seed)


def _magnification(
    recipe: Recipe, drawn: magnified.MagnifiedConfig, places: Places, parallel: Parallel
) -> tuple[Task, Inputs]:
    """Make the task and the inputs of a network that magnifies motion."""
    config = MagnifierConfig(drawn.factors[1], recipe.model)
    task = tasks.Magnification(config, losses.parse(recipe.loss), recipe.remat)
    return task, inputs.Magnified(drawn, _photographs(places, drawn.texture_size, parallel))


def _photographs(places: Places, texture_size: int, parallel: Parallel) -> Array | None:
    """Read photographs of the textures' size or larger, and copy them to every device."""
    if places.textures is None:
        return None
    # Smaller pictures would have to be enlarged, and then have no fine detail.
    side = max(512, texture_size)
    return parallel.replicate(textures.read_pictures(places.textures, side=side))


def _resident(folder: Path, parallel: Parallel) -> mixture.RealClips:
    """Read clips and copy them to every device."""
    bank = clip_bank.read_folder(folder)
    table = clip_bank.tabulate(bank)
    return mixture.RealClips(parallel.replicate(bank.frames), parallel.replicate(table))
