# SPDX-License-Identifier: Apache-2.0
"""Everything that a run's result depends on, in one file; where data lies is not part of it."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from flavr_jax import config as configs
from flavr_jax import losses
from flavr_jax.config import ModelConfig
from flavr_jax.data import clip_bank as clip_bank
from flavr_jax.data import labelled, mixture
from flavr_jax.data.sources import data_set
from flavr_jax.models.classifier import ClassifierConfig
from flavr_jax.training import inputs, tasks
from flavr_jax.training.inputs import Inputs, ReadConfig
from flavr_jax.training.optimizers import OptimizerConfig, ScheduleConfig
from flavr_jax.training.parallel import Parallel, Strategy
from flavr_jax.training.step import Compute
from flavr_jax.training.tasks import Task

__all__ = ["Places", "Recipe", "merge", "prepare", "read"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to train, on what, and for how long.

    Attributes:
        model: the network.
        loss: distances by name and weight, as in ``"1*l1+0.1*census"``.
        data: what a batch of windows is made of.
        dataset: name of the data set that windows are read from, as in data/sources.py; without
            one, they are drawn on the device.
        read: how windows are read.
        labelled: learn classes of labelled clips instead, and what to cut from them.
        dropout: share of features that a classifier's training step leaves out.
        optimizer: how parameters are updated.
        schedule: how the learning rate runs.
        steps: how long to train: so many steps, or …
        minutes: … so long, compilation and reports not counted; exactly one of the two is set.
        seed: of parameters and data.
        compute: what the network computes in; parameters are float32 in any case.
        remat: compute blocks again for the gradient rather than keep their insides: less memory,
            about a third more work.
        strategy: how a step is spread over devices; both give the same numbers.
        reports: how many times over the run to validate, score and release a checkpoint.
        validation_batches: batches that a validation is the mean over; 0 is none.
        save_steps: steps from one saved state to the next.
        log_steps: steps that a line of the log is the mean over.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: str = "charbonnier"
    data: mixture.MixtureConfig = dataclasses.field(default_factory=mixture.MixtureConfig)
    dataset: str = ""
    read: ReadConfig = dataclasses.field(default_factory=ReadConfig)
    labelled: labelled.LabelledConfig | None = None
    dropout: float = 0.5
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
        if self.model.batch_norm:
            raise ValueError(
                "`batch_norm` is true, but its running statistics are not trained here; set it to "
                "false, as in the paper's models."
            )
        if self.labelled is None and self.model.n_inputs != mixture.N_INPUTS:
            raise ValueError(
                f"`n_inputs` is {self.model.n_inputs}, but training windows have "
                f"{mixture.N_INPUTS} inputs; set it to that."
            )


@dataclasses.dataclass(frozen=True)
class Places:
    """Where data lies on this machine.

    Attributes:
        clips: folder of .mp4 files, held on the device to cut windows from.
        source: folder of the recipe's data set, as downloaded or packed; or of labelled clips.
        training_list: of labelled clips, which to train on; all of them without one.
        validation_list: of labelled clips, which to validate on.
        evaluation: folder of a data set that is scored at every report.
        evaluation_set: its name.
    """

    clips: Path | None = None
    source: Path | None = None
    training_list: Path | None = None
    validation_list: Path | None = None
    evaluation: Path | None = None
    evaluation_set: str = "davis-2x"


def read(path: Path, changes: tuple[str, ...] = ()) -> Recipe:
    """The recipe in a TOML file, with some values changed (``"data.crop=224"``).

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no recipe; the message names the key.
    """
    values = configs.read_toml(path)
    for change in changes:
        try:
            merge(values, tomllib.loads(change))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"`--set {change}` is not TOML ({error}); write key=value.") from error
    limits = [key for change in changes for key in tomllib.loads(change)]
    if "steps" in limits:  # a change of limit replaces the recipe's
        values.pop("minutes", None)
    elif "minutes" in limits:
        values.pop("steps", None)
    return configs.build(Recipe, values, where=str(path))


def merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put nested changes into nested values."""
    for key, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(key), dict):
            merge(values[key], change)
        else:
            values[key] = change


def prepare(recipe: Recipe, places: Places, parallel: Parallel) -> tuple[Task, Inputs]:
    """What is learned, and where batches come from.

    Raises:
        OSError: data is missing.
        ValueError: places and recipe do not go together.
    """
    if recipe.labelled is not None:
        return _classification(recipe, recipe.labelled, places)
    scored = None
    if places.evaluation is not None:
        data_set(places.evaluation_set)  # an unknown name is better known now than at a report
        scored = (places.evaluation_set, places.evaluation)
    task = tasks.Interpolation(recipe.model, losses.parse(recipe.loss), recipe.remat, scored)
    n_outputs = recipe.model.n_outputs
    if not recipe.dataset:
        real = None if places.clips is None else _resident(places.clips, parallel)
        return task, inputs.Drawn(n_outputs, recipe.data, real)
    if places.source is None:
        raise ValueError(
            f"the recipe reads {recipe.dataset}; name its folder with --source "
            f"({data_set(recipe.dataset).layout})."
        )
    clips = {
        each.clip.name: each.clip for each in data_set(recipe.dataset).read(places.source)
    }  # windows of one clip are several sequences in some data sets
    chosen = tuple(clips.values())
    return task, inputs.Read(n_outputs, chosen, recipe.read, recipe.data, recipe.seed)


def _classification(
    recipe: Recipe, cut: labelled.LabelledConfig, places: Places
) -> tuple[Task, Inputs]:
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


def _resident(folder: Path, parallel: Parallel) -> mixture.RealClips:
    """Clips on every device."""
    bank = clip_bank.read_folder(folder)
    table = clip_bank.tabulate(bank)
    return mixture.RealClips(parallel.replicate(bank.frames), parallel.replicate(table))
