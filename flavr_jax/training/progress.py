# SPDX-License-Identifier: Apache-2.0
"""Progress of a run on the host: steps, time, and losses since the last log line and report.

The host runs a few steps ahead of the device, so it learns the result of a step a few steps later.
All values that decide how the run continues are results of the step, in which the devices have
agreed on them. So all processes make the same decision at the same step.
"""

from __future__ import annotations

import collections
import math
import time
from typing import Any

import jax

from flavr_jax.training.recipe import Recipe
from flavr_jax.training.run_log import RunLog
from flavr_jax.training.step import StepResult

__all__ = ["Clock", "Progress"]

_IN_FLIGHT = 2  # steps issued to the device before the host waits for the oldest
_HOPELESS = 20  # steps in a row without a finite gradient that end the run


class Clock:
    """Time spent on training steps of this leg; compilation and reports are left out.

    Attributes:
        seconds: training time since the leg began.
        lap_steps: steps since the last line of the log.
        lap_seconds: training time since the last line of the log.
    """

    def __init__(self, lap: tuple[int, float] = (0, 0.0)) -> None:
        """Start now; ``lap`` is an earlier leg's steps and seconds since its last log line."""
        self.seconds, self._last = 0.0, time.monotonic()
        self.lap_steps, self.lap_seconds = lap

    def count(self, *, steps: int = 0) -> None:
        """Count the time since the last call, in which ``steps`` were issued, as training time."""
        now = time.monotonic()
        self.seconds += now - self._last
        self.lap_seconds += now - self._last
        self.lap_steps += steps
        self._last = now

    def leave_out(self) -> None:
        """Do not count the time since the last call."""
        self._last = time.monotonic()

    def lap(self) -> tuple[int, float]:
        """Return the steps and seconds of this lap, and start the next one."""
        lap = self.lap_steps, self.lap_seconds
        self.lap_steps, self.lap_seconds = 0, 0.0
        return lap


class Progress:
    """Progress of a run; equal in all processes at the same step.

    Attributes:
        step: steps issued.
        elapsed: seconds of training over all legs, as of the newest step whose result is known.
        skipped: steps without a finite gradient.
        clock: the leg's time.
    """

    def __init__(
        self, recipe: Recipe, log: RunLog, batch_size: int, *, step: int, saved: dict[str, Any]
    ) -> None:
        """Start a leg.

        Args:
            recipe: how long the run is, and how often it logs and reports.
            log: receives the losses.
            batch_size: windows per step, over all devices.
            step: first step of the leg.
            saved: result of ``get_state`` in the previous leg; empty in the first leg.
        """
        self._recipe, self._log, self._batch_size = recipe, log, batch_size
        self.step = self._first_step = step
        self._earlier = self.elapsed = float(saved.get("elapsed", 0.0))
        self.skipped = int(saved.get("skipped", 0))
        self.clock = Clock(tuple(saved.get("lap", (0, 0.0))))
        self._reports = int(saved.get("reports", 0))
        # Sums since the last line of the log; "count" is the number of steps in them.
        self._sums: collections.Counter[str] = collections.Counter(saved.get("sums", {}))
        # The loss's sum since the last report, and the number of steps in it.
        self._losses: tuple[float, int] = tuple(saved.get("losses", (0.0, 0)))
        self._pending: collections.deque[StepResult] = collections.deque()
        self._stopped = False

    @property
    def fraction(self) -> float:
        """Completed fraction of the run, from 0 to 1."""
        if self._recipe.minutes is not None:
            return self.elapsed / (60 * self._recipe.minutes)
        assert self._recipe.steps is not None
        return self.step / self._recipe.steps

    @property
    def seconds(self) -> float:
        """Seconds of training over all legs, by this process's clock."""
        return self._earlier + self.clock.seconds

    def is_over(self, until: int | None) -> bool:
        """Return whether the run is complete, the leg is at ``until``, or a stop was requested."""
        at_the_end = until is not None and self.step >= until
        return self._stopped or self.fraction >= 1.0 or at_the_end

    def add(self, result: StepResult, rate: float) -> None:
        """Count a step that was issued, and read the result of an older one."""
        if self.step == self._first_step:
            # The leg's first step includes compilation, so neither its time nor the step itself is
            # counted: the step without its time would make the speed look far too high.
            jax.block_until_ready(result)
            self.clock.leave_out()
        else:
            self.clock.count(steps=1)
        self.step += 1
        self._pending.append(result)
        # Waiting for the newest result would leave the device idle between two steps.
        if len(self._pending) > _IN_FLIGHT:
            self._read(self._pending.popleft())
        if self.step % self._recipe.log_steps == 0:
            self._write_line(rate)

    def catch_up(self) -> None:
        """Wait for all steps in flight; the wait is training time."""
        while self._pending:
            self._read(self._pending.popleft())
        self.clock.count()

    def is_report_due(self) -> bool:
        """Return whether the next of the evenly spaced reports is due."""
        return self._reports_so_far() > self._reports

    def start_report(self) -> float:
        """Count a report, and return the mean loss since the previous one."""
        self._reports = self._reports_so_far()
        (total, count), self._losses = self._losses, (0.0, 0)
        return total / max(count, 1)

    def get_state(self) -> dict[str, Any]:
        """Return JSON values from which the next leg continues."""
        # Sums that are saved with a state include every step that led to it.
        self.catch_up()
        return {
            "elapsed": self.elapsed,
            "reports": self._reports,
            "lap": [self.clock.lap_steps, self.clock.lap_seconds],
            "sums": dict(self._sums),
            "losses": list(self._losses),
            "skipped": self.skipped,
        }

    def _read(self, result: StepResult) -> None:
        """Wait for a step's result, and add it to the sums."""
        found: StepResult = jax.device_get(result)
        # The maximum over all processes, so that they agree on the fraction of the run.
        self.elapsed = float(found.signals.elapsed)
        self._stopped = self._stopped or float(found.signals.stop) > 0
        self.skipped = int(found.skipped)
        if int(found.skipped_in_a_row) >= _HOPELESS:
            raise ValueError(
                f"{_HOPELESS} steps in a row had no finite gradient, up to step {self.step}; lower "
                "`optimizer.learning_rate`, or set `optimizer.clip_norm`, and go on with --resume."
            )
        means = {"loss": found.loss, **found.terms, "gradient_norm": found.gradient_norm}
        values = {name: float(value) for name, value in means.items()}
        if not math.isfinite(values["loss"]) or not math.isfinite(values["gradient_norm"]):
            return  # a skipped step changed nothing, and one NaN would spoil every mean
        self._sums.update({**values, "count": 1})
        # Reports come at other steps than lines of the log, so that they have a sum of their own.
        self._losses = (self._losses[0] + values["loss"], self._losses[1] + 1)
        self._log.live(self.step, self._end(), loss=values["loss"])

    def _write_line(self, rate: float) -> None:
        """Log the means since the last line, and the samples per second."""
        # Without this wait, the time of the steps in flight would count for the next line.
        self.catch_up()
        # Every step since the last line may have been skipped.
        count = max(self._sums.pop("count", 0), 1)
        values = {name: total / count for name, total in self._sums.items()}
        self._sums.clear()
        steps, seconds = self.clock.lap()
        # A coarse clock may not have moved.
        timed = steps and seconds
        speed = {"samples per second": steps * self._batch_size / seconds} if timed else {}
        self._log.scalars(self.step, **values, learning_rate=rate, **speed)

    def _reports_so_far(self) -> int:
        # The small number makes products that rounding put just below an integer count as it.
        return math.floor(self.fraction * self._recipe.reports + 1e-9)

    def _end(self) -> str:
        recipe = self._recipe
        return str(recipe.steps) if recipe.minutes is None else f"{recipe.minutes:g} minutes"
