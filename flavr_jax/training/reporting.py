# SPDX-License-Identifier: Apache-2.0
"""Reports of a run: validation, scores, and the averaged parameters released as a checkpoint."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from flavr_jax.training import parallel, step
from flavr_jax.training.inputs import Inputs
from flavr_jax.training.parallel import Parallel
from flavr_jax.training.progress import Progress
from flavr_jax.training.recipe import Recipe
from flavr_jax.training.run_log import RunLog
from flavr_jax.training.step import BatchNumber, DeviceInputs
from flavr_jax.training.tasks import Task

__all__ = ["Reporter"]


@dataclasses.dataclass
class Reporter:
    """Validates, scores and releases the averaged parameters of a run.

    Attributes:
        recipe: how the run is trained.
        task: the network and its loss.
        inputs: source of the batches.
        mapping: the devices.
        output: folder of the run; the checkpoint goes into its folder ``checkpoint``.
        log: receives the values.
    """

    recipe: Recipe
    task: Task
    inputs: Inputs
    mapping: Parallel
    output: Path
    log: RunLog
    released_at: int | None = None
    """The step whose checkpoint is in ``output``; None if unknown."""

    def report(self, average: PyTree, progress: Progress) -> float:
        """Validate and score the averaged parameters, and write them as a checkpoint.

        Returns:
            The validation loss, or without validation the mean training loss since the last report.
        """
        progress.catch_up()
        # After `catch_up`, so that the mean has the steps that were in flight.
        loss = progress.start_report()
        values, picture = self._validate(average)
        loss = values.get("validation loss", loss)
        if jax.process_index() == 0:
            # One process evaluates; the others continue to the next step and wait there.
            values |= self.task.scores(parallel.to_host(average))
            times = {"minutes": progress.elapsed / 60, "skipped": progress.skipped}
            self.log.scalars(progress.step, **times, **values)
            if picture is not None:
                self.log.picture(progress.step, np.asarray(picture, np.float32))
        self.release(average, progress, values)
        return loss

    def release(
        self, average: PyTree, progress: Progress, scores: dict[str, float] | None = None
    ) -> None:
        """Write the averaged parameters as a checkpoint, unless that of this step is written."""
        # At the end of a run, the last report has usually written it.
        if self.released_at == progress.step or jax.process_index() > 0:
            return
        self.released_at = progress.step
        provenance = {
            "recipe": dataclasses.asdict(self.recipe),
            "steps": progress.step,
            "minutes": progress.elapsed / 60,
            "devices": f"{self.mapping.size}× {jax.local_devices()[0].device_kind}",
            "jax": jax.__version__,
            **(scores or {}),
        }
        self.task.release(self.output / "checkpoint", parallel.to_host(average), provenance)

    def _validate(self, average: PyTree) -> tuple[dict[str, float], Any]:
        """Return means over the validation batches, and a preview image of the first batch."""
        count = self.recipe.validation_batches
        if count == 0:
            return {}, None
        validate = step.make_validation(self.task, self.inputs, self.mapping, self.recipe.compute)
        # From its beginning in each report, so that reports are comparable.
        feed = self.inputs.feed(self.mapping, validation=True)
        totals: collections.Counter[str] = collections.Counter()
        pictures = []
        for number in range(count):
            shared = BatchNumber(np.int32(number), self.inputs.resident)
            own = DeviceInputs(next(feed), step.make_signals(self.mapping))
            metrics, picture = validate(average, shared, own)
            totals.update({name: float(value) for name, value in metrics.items()})
            pictures.append(picture)
        return {f"validation {name}": total / count for name, total in totals.items()}, pictures[0]
