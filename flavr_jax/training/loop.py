# SPDX-License-Identifier: Apache-2.0
"""A training run from recipe to checkpoint, as long as it is allowed to last.

The run is limited by time, not by steps: the learning rate follows the share of the time that is
over, so it reaches zero when the time is up on whatever device. Compilation and evaluation do not
count. A run may be cut into legs, each resuming the last one's state.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from flavr_jax import checkpoint
from flavr_jax import evaluation as scoring
from flavr_jax.config import ModelConfig
from flavr_jax.data import clips as clip_bank
from flavr_jax.data import mixture
from flavr_jax.data.sources import data_set
from flavr_jax.models import flavr
from flavr_jax.training import state as states
from flavr_jax.training import step as steps

__all__ = ["Recipe", "learning_rate", "train"]

logger = logging.getLogger(__name__)

_IN_FLIGHT = 2  # steps handed to the device before the host waits for the oldest
_LOG_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on.

    Attributes:
        model: the network.
        data: what a batch is made of.
        optimizer: how parameters are updated.
        minutes: how long to train in all, over all legs.
        report_minutes: how often to evaluate and to save checkpoint and state.
        seed: of parameters and data.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: mixture.MixtureConfig = dataclasses.field(default_factory=mixture.MixtureConfig)
    optimizer: states.OptimizerConfig = dataclasses.field(default_factory=states.OptimizerConfig)
    minutes: float = 20.0
    report_minutes: float = 4.0
    seed: int = 0


def train(
    recipe: Recipe,
    *,
    output: Path,
    clips: Path | None = None,
    evaluation: Path | None = None,
    leg_minutes: float = math.inf,
    resume: bool = False,
) -> None:
    """Run a recipe; the averaged parameters go to ``output/checkpoint`` at every report.

    Args:
        recipe: what to train, on what, and for how long.
        output: folder for ``checkpoint``, ``state.npz`` and ``metrics.jsonl``.
        clips: folder of training clips (.mp4); without one, all clips are painted.
        evaluation: folder of the DAVIS evaluation clips, scored at every report.
        leg_minutes: stop after so many minutes, all included, and leave a state to resume.
        resume: go on from the state in the output folder, if there is one.

    Raises:
        ValueError: when the network does not suit the data, the resumed state is another
            network's, or gradients stop being finite for good.
    """
    leg_ends = time.monotonic() + 60 * leg_minutes
    if recipe.model.n_inputs != mixture.N_INPUTS:
        raise ValueError(
            f"`n_inputs` is {recipe.model.n_inputs}, but training windows have "
            f"{mixture.N_INPUTS} inputs; set it to that."
        )
    output.mkdir(parents=True, exist_ok=True)
    real = _read_clips(clips)
    state = states.create(flavr.init(recipe.model, jax.random.key(recipe.seed)), recipe.optimizer)
    trained = 0.0
    if resume and (output / "state.npz").exists():
        state, trained = states.restore(output / "state.npz", state)
        logger.info("resuming at step %d, after %.1f minutes", int(state.step), trained / 60)
    state = steps.replicate(state)
    step = steps.make_step(recipe.model, recipe.data, recipe.optimizer)
    device_keys = jax.random.split(jax.random.key(recipe.seed), jax.local_device_count())
    run = _Run(recipe, output, evaluation, step=int(state.step))

    first = run.step
    reported = logged = last = time.monotonic()
    while trained < 60 * recipe.minutes and last < leg_ends:
        rate = learning_rate(run.step, trained / (60 * recipe.minutes), recipe.optimizer)
        state, metrics = step(state, jnp.float32(rate), real, device_keys)
        run.add(metrics)
        if run.step == first + 1:
            jax.block_until_ready(metrics)
            reported = logged = last = time.monotonic()  # compilation does not count
            continue
        now = time.monotonic()
        trained += now - last
        last = now
        if now - logged > _LOG_SECONDS:
            run.log(trained, rate, now - logged)
            logged = now
        if now - reported > 60 * recipe.report_minutes:
            run.report(state, trained)
            reported = logged = last = time.monotonic()
    run.report(state, trained)


def learning_rate(step: int, progress: float, config: states.OptimizerConfig) -> float:
    """Linear warm-up over steps, times a cosine to zero over ``progress`` from 0 to 1."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


class _Run:
    """The run's bookkeeping on the host: steps in flight, and what is written down."""

    def __init__(
        self, recipe: Recipe, output: Path, evaluation_clips: Path | None, *, step: int
    ) -> None:
        self.step = step
        self._recipe = recipe
        self._output = output
        self._evaluation_clips = evaluation_clips
        self._pending: collections.deque[dict[str, Float[jax.Array, ""]]] = collections.deque()
        self._losses: list[float] = []
        self._since_log = 0
        self._predict = jax.jit(
            lambda params, windows: flavr.apply(recipe.model, _half(params), windows)
        )

    def add(self, metrics: dict[str, Float[jax.Array, ""]]) -> None:
        """Take note of a step, and wait for an older one so that the host does not run ahead."""
        self.step += 1
        self._since_log += 1
        self._pending.append(metrics)
        if len(self._pending) > _IN_FLIGHT:
            self._losses.append(float(self._pending.popleft()["loss"]))

    def log(self, trained: float, rate: float, seconds: float) -> None:
        """One line on loss and speed since the last one."""
        windows = self._since_log * self._recipe.data.batch_size * jax.local_device_count()
        finite = [loss for loss in self._losses if math.isfinite(loss)]
        if self._losses and not finite:
            raise ValueError(
                f"the loss was not finite in {len(self._losses)} steps running; "
                "lower `optimizer.learning_rate` and start from the last state."
            )
        self._write(
            minutes=trained / 60,
            loss=sum(finite) / max(len(finite), 1),
            learning_rate=rate,
            windows_per_second=windows / seconds,
        )
        self._losses, self._since_log = [], 0

    def report(self, state: states.TrainState, trained: float) -> None:
        """Evaluate the averaged parameters, and save them and the state."""
        while self._pending:
            self._losses.append(float(self._pending.popleft()["loss"]))
        recipe = self._recipe
        scores: dict[str, float] = {}
        if self._evaluation_clips is not None:
            method = scoring.method_of_network(
                lambda windows: self._predict(state.average, windows), recipe.model.n_outputs
            )
            davis = data_set("davis-2x")
            metrics = {"psnr_flavr": scoring.METRICS["psnr_flavr"]}
            samples = scoring.score(method, davis.read(self._evaluation_clips), metrics)
            scores = {"davis_2x_psnr": scoring.mean(samples, davis.average)["psnr_flavr"]}
        self._write(minutes=trained / 60, skipped=int(state.skipped), **scores)
        provenance = {
            "recipe": dataclasses.asdict(recipe),
            "steps": self.step,
            "minutes": trained / 60,
            "device": f"{jax.local_device_count()}× {jax.local_devices()[0].device_kind}",
            **scores,
        }
        checkpoint.save(
            self._output / "checkpoint",
            recipe.model,
            _half(jax.device_get(state.average)),
            provenance=provenance,
            overwrite=True,
        )
        states.save(self._output / "state.npz", state, elapsed=trained)

    def _write(self, **values: Any) -> None:
        logger.info(
            "step %d: %s",
            self.step,
            ", ".join(f"{key} {value:.5g}" for key, value in values.items()),
        )
        with (self._output / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, **values}) + "\n")


def _half(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)


def _read_clips(folder: Path | None) -> mixture.RealClips | None:
    if folder is None:
        return None
    bank = clip_bank.read_folder(folder)
    logger.info("%d clips, %d frames from %s", len(bank.start), len(bank.frames), folder)
    table = clip_bank.tabulate(bank)
    return mixture.RealClips(steps.replicate(bank.frames), steps.replicate(table))
