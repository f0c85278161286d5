# SPDX-License-Identifier: Apache-2.0
"""A training run from recipe to checkpoint: read ``train`` from top to bottom.

A run is limited by steps, or by time: then the learning rate follows the share of the time that is
over and reaches zero when the time is up, on whatever device. Compilation and reports do not count.
Either kind may be cut into legs. A run limited by steps depends on nothing but its recipe and data;
resumed on the same devices it ends in the same state, bit for bit.

The host is a few steps ahead of the device, so whatever is decided by what a step found is decided
a few steps later; by all processes at the same step, because the devices agreed on it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flavr_jax.training import compact, parallel, report, state, step, warm_start
from flavr_jax.training.checkpoints import Checkpoints
from flavr_jax.training.inputs import Feed, Inputs
from flavr_jax.training.optimizers import Schedule
from flavr_jax.training.parallel import Parallel
from flavr_jax.training.recipe import Recipe
from flavr_jax.training.state import TrainState
from flavr_jax.training.tasks import Task

__all__ = ["Leg", "train"]

logger = logging.getLogger(__name__)

_IN_FLIGHT = 2  # steps handed to the device before the host waits for the oldest
_HOPELESS = 20  # steps in a row without a finite gradient


@dataclasses.dataclass(frozen=True)
class Leg:
    """One stretch of a run.

    Attributes:
        resume: go on from the newest state in the output folder, if there is one.
        resume_from: go on from a folder that ``export_state`` wrote on another machine.
        init_from: start from what fits of a checkpoint's parameters.
        export_state: write the compact state there at the end.
        until: stop after this step.
        minutes: stop after so long, all included.
    """

    resume: bool = False
    resume_from: Path | None = None
    init_from: Path | None = None
    export_state: Path | None = None
    until: int | None = None
    minutes: float = math.inf


def train(
    recipe: Recipe,
    task: Task,
    inputs: Inputs,
    output: Path,
    leg: Leg = Leg(),
    mapping: Parallel | None = None,
) -> bool:
    """Run a recipe, or a leg of it, and tell whether it came to its end.

    The averaged parameters go to ``output/checkpoint`` at every report; states, the log and a plot
    go beside it. SIGTERM ends the leg after the step that is under way, with its state saved.

    Args:
        recipe: how to train, and for how long.
        task: what is learned.
        inputs: where batches come from.
        output: folder of the run.
        leg: where to begin and where to stop.
        mapping: the devices; by default all, by the recipe's strategy.

    Raises:
        ValueError: when devices and batch do not divide, the output folder holds a run that is not
            to be resumed or is another network's, or gradients stop being finite for good.
    """
    mapping = mapping or Parallel(recipe.strategy)
    _check_division(recipe, inputs, mapping)
    output.mkdir(parents=True, exist_ok=True)
    run_step = step.make_step(task, inputs, recipe.optimizer, mapping, recipe.compute)
    schedule = Schedule(recipe.schedule, recipe.optimizer.learning_rate)
    feed = inputs.feed(mapping)
    ends = time.monotonic() + 60 * leg.minutes
    with Checkpoints(output / "state") as saved, _stop_signal() as stop:
        current, host = _begin(recipe, task, saved, leg)
        if host:
            schedule.set_state(host["schedule"])
            feed.set_state(host["feed"])
        run = _Run(recipe, task, inputs, mapping, output, at=int(current.step), host=host)
        current = mapping.replicate(current)
        with report.Report(output, step=run.step) as log:
            clock = _Clock()
            while not run.finished(leg):
                rate = schedule.rate(run.step, run.progress)
                stopping = stop.is_set() or time.monotonic() > ends
                shared = {"learning_rate": np.float32(rate), "resident": inputs.resident}
                own = {"fetched": next(feed), "signals": run.signals(clock.seconds, stopping)}
                current, metrics = run_step(current, shared, own)
                if run.is_first:
                    jax.block_until_ready(metrics)
                    clock.skip()
                clock.tick()
                run.add(metrics, log, rate)
                if run.is_report_due():
                    run.report(current, schedule, log)
                    clock.skip()
                if run.step % recipe.save_steps == 0:
                    saved.save(run.step, current, run.host(schedule, feed, log))
            run.catch_up(log)
            if run.is_report_due():
                run.report(current, schedule, log)
            run.release(current)
            host = run.host(schedule, feed, log)
            if saved.last != run.step:
                saved.save(run.step, current, host)
            _hand_over(leg, output, current, host)
    return run.progress >= 1.0


def _hand_over(leg: Leg, output: Path, current: TrainState, host: dict[str, Any]) -> None:
    """What a leg leaves beside its state: the compact one if asked for, and the plot."""
    if jax.process_index() > 0:
        return
    if leg.export_state is not None:
        size = compact.export(leg.export_state, current, host)
        logger.info("state of %.1f MB in %s", size / 1e6, leg.export_state)
    report.plot(output)


def _begin(
    recipe: Recipe, task: Task, saved: Checkpoints, leg: Leg
) -> tuple[TrainState, dict[str, Any]]:
    """The state to go on from, and the plain values that belong to it; none at a new start."""
    latest = saved.latest()
    if latest is not None and not leg.resume:
        raise ValueError(
            f"the output folder holds a run at step {latest}; go on with it by --resume, or choose "
            "another folder."
        )
    params = task.init(jax.random.key(recipe.seed))
    if leg.init_from is not None and latest is None:
        found = warm_start.warm_start(params, leg.init_from)
        logger.info("from %s: %s", leg.init_from, found.summary())
        params = found.params
    fresh = state.create(params, recipe.optimizer, recipe.seed)
    if latest is not None:
        logger.info("resuming at step %d", latest)
        return saved.restore(fresh)
    if leg.resume_from is not None:
        current, host = compact.load(leg.resume_from, fresh)
        logger.info("resuming at step %d from %s", int(current.step), leg.resume_from)
        return current, host
    return fresh, {}


class _Run:
    """The run's bookkeeping on the host; the same in all processes at the same step."""

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        inputs: Inputs,
        mapping: Parallel,
        output: Path,
        *,
        at: int,
        host: dict[str, Any],
    ) -> None:
        self.step = self._started = at
        self._recipe, self._task, self._inputs = recipe, task, inputs
        self._mapping, self._output = mapping, output
        self._pending: collections.deque[dict[str, jax.Array]] = collections.deque()
        self._earlier = self._elapsed = float(host.get("elapsed", 0.0))
        self._reports = int(host.get("reports", 0))
        # Sums since the last line of the log, and since the last report.
        self._sums: collections.Counter[str] = collections.Counter(host.get("sums", {}))
        self._losses: tuple[float, int] = tuple(host.get("losses", (0.0, 0)))
        self._logged: tuple[int, float] = tuple(host.get("logged", (at, self._elapsed)))
        self._skipped = int(host.get("skipped", 0))
        self._released_at = at if host else -1
        self._stopped = False

    @property
    def progress(self) -> float:
        """How much of the run is over, from 0 to 1."""
        if self._recipe.minutes is not None:
            return self._elapsed / (60 * self._recipe.minutes)
        assert self._recipe.steps is not None
        return self.step / self._recipe.steps

    @property
    def is_first(self) -> bool:
        """Whether the next step is the leg's first one, which has to be compiled."""
        return self.step == self._started

    def finished(self, leg: Leg) -> bool:
        """Whether the run or its leg is over."""
        until = math.inf if leg.until is None else leg.until
        return self._stopped or self.progress >= 1.0 or self.step >= until

    def signals(self, seconds: float, stopping: bool) -> dict[str, Any]:
        """What this process tells the others with the next step."""
        count = len(self._mapping.local)
        values = {"elapsed": self._earlier + seconds, "stop": float(stopping)}
        return self._mapping.distribute(
            {name: np.full(count, value, np.float32) for name, value in values.items()}
        )

    def add(self, metrics: dict[str, jax.Array], log: report.Report, rate: float) -> None:
        """Take note of a step, and of what an older one found."""
        self.step += 1
        self._pending.append(metrics)
        if len(self._pending) > _IN_FLIGHT:
            self._digest(self._pending.popleft(), log)
        if self.step % self._recipe.log_steps == 0:
            self._write_line(log, rate)

    def is_report_due(self) -> bool:
        """Whether the next of the evenly spaced reports is reached."""
        return self._reports_so_far() > self._reports

    def report(self, current: TrainState, schedule: Schedule, log: report.Report) -> None:
        """Validate and score the averaged parameters, and release them as a checkpoint."""
        self.catch_up(log)
        self._reports = self._reports_so_far()
        values, picture = self._validate(current)
        total, count = self._losses
        self._losses = (0.0, 0)
        schedule.report(values.get("validation loss", total / max(count, 1)))
        if jax.process_index() == 0:
            values |= self._task.scores(parallel.to_host(current.average))
            log.scalars(self.step, minutes=self._elapsed / 60, skipped=self._skipped, **values)
            if picture is not None:
                log.picture(self.step, np.asarray(picture, np.float32))
        self.release(current, values)

    def release(self, current: TrainState, scores: dict[str, float] | None = None) -> None:
        """Write the averaged parameters as a checkpoint, once a step."""
        if self._released_at == self.step or jax.process_index() > 0:
            return
        self._released_at = self.step
        provenance = {
            "recipe": dataclasses.asdict(self._recipe),
            "steps": self.step,
            "minutes": self._elapsed / 60,
            "devices": f"{self._mapping.size}× {jax.local_devices()[0].device_kind}",
            "jax": jax.__version__,
            **(scores or {}),
        }
        average = parallel.to_host(current.average)
        self._task.release(self._output / "checkpoint", average, provenance)

    def host(self, schedule: Schedule, feed: Feed, log: report.Report) -> dict[str, Any]:
        """The plain values that are saved with the state."""
        self.catch_up(log)
        return {
            "elapsed": self._elapsed,
            "reports": self._reports,
            "logged": self._logged,
            "sums": dict(self._sums),
            "losses": list(self._losses),
            "skipped": self._skipped,
            "schedule": schedule.get_state(),
            "feed": feed.get_state(),
        }

    def catch_up(self, log: report.Report) -> None:
        """Wait for all steps that are under way."""
        while self._pending:
            self._digest(self._pending.popleft(), log)

    def _digest(self, metrics: dict[str, jax.Array], log: report.Report) -> None:
        """What a step found: waits for it."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._elapsed = values.pop("elapsed")
        self._stopped = self._stopped or values.pop("stop") > 0
        self._skipped = int(values.pop("skipped"))
        if values.pop("skipped_in_a_row") >= _HOPELESS:
            raise ValueError(
                f"{_HOPELESS} steps in a row had no finite gradient, up to step {self.step}; lower "
                "`optimizer.learning_rate`, or set `optimizer.clip_norm`, and go on with --resume."
            )
        if not math.isfinite(values["loss"]) or not math.isfinite(values["gradient_norm"]):
            return
        self._sums.update({**values, "count": 1})
        self._losses = (self._losses[0] + values["loss"], self._losses[1] + 1)
        log.live(self.step, self._end(), loss=values["loss"])

    def _write_line(self, log: report.Report, rate: float) -> None:
        """The means since the last line."""
        self.catch_up(log)
        count = max(self._sums.pop("count", 0), 1)
        step, elapsed = self._logged
        seconds = max(self._elapsed - elapsed, 1e-9)
        speed = (self.step - step) * self._inputs.batch_size / seconds
        values = {name: total / count for name, total in self._sums.items()}
        log.scalars(self.step, **values, learning_rate=rate, **{"samples per second": speed})
        self._sums.clear()
        self._logged = (self.step, self._elapsed)

    def _validate(self, current: TrainState) -> tuple[dict[str, float], Any]:
        """Means over the validation's batches, and a picture of the first."""
        count = self._recipe.validation_batches
        if count == 0:
            return {}, None
        validate = step.make_validation(
            self._task, self._inputs, self._mapping, self._recipe.compute
        )
        feed = self._inputs.feed(self._mapping, validation=True)
        totals: collections.Counter[str] = collections.Counter()
        pictures = []
        for number in range(count):
            shared = {"number": np.int32(number), "resident": self._inputs.resident}
            own = {"fetched": next(feed), "signals": self.signals(0.0, False)}
            metrics, picture = validate(current.average, shared, own)
            totals.update({name: float(value) for name, value in metrics.items()})
            pictures.append(picture)
        return {f"validation {name}": total / count for name, total in totals.items()}, pictures[0]

    def _reports_so_far(self) -> int:
        return math.floor(self.progress * self._recipe.reports + 1e-9)

    def _end(self) -> str:
        recipe = self._recipe
        return str(recipe.steps) if recipe.minutes is None else f"{recipe.minutes:g} minutes"


class _Clock:
    """Seconds spent on training, without compilation and reports."""

    def __init__(self) -> None:
        self.seconds, self._last = 0.0, time.monotonic()

    def tick(self) -> None:
        """What passed since the last call was training."""
        now = time.monotonic()
        self.seconds, self._last = self.seconds + now - self._last, now

    def skip(self) -> None:
        """It was not."""
        self._last = time.monotonic()


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, as a batch system sends it some time before the end."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_division(recipe: Recipe, inputs: Inputs, mapping: Parallel) -> None:
    parts = mapping.size * recipe.optimizer.accumulate
    if inputs.batch_size % parts:
        raise ValueError(
            f"`batch_size` is {inputs.batch_size}, but {mapping.size} devices with "
            f"{recipe.optimizer.accumulate} parts each share it; use a multiple of {parts}."
        )
