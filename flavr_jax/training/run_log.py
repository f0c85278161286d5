# SPDX-License-Identifier: Apache-2.0
"""The log of a run: a live line on the terminal, ``metrics.jsonl``, TensorBoard, and a plot.

``metrics.jsonl`` is always written. TensorBoard and the plot need the packages of the extra
``train`` and are skipped without them. If there are several processes, only the first one writes.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from flavr_jax.extras import install_command
from flavr_jax.partial import written_whole

__all__ = ["RunLog", "plot", "read_metrics"]

logger = logging.getLogger(__name__)

_LIVE_SECONDS = 1.0  # between two updates of the live line
_COLUMNS = 3  # in the plot


class RunLog:
    """The log of a run, in one folder; a context manager."""

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        """Open the log of a run that continues at ``step``, and remove the lines of later steps.

        A killed run may have logged steps after its last saved state, which are run again.
        """
        self._folder = folder
        self._writes = jax.process_index() == 0
        self._live_line = self._writes and sys.stderr.isatty()
        self._shown = 0.0
        self._board: Any = None
        if not self._writes:
            return
        path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        with written_whole(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        if importlib.util.find_spec("tensorboardX") is None:
            logger.info("no TensorBoard log: it needs tensorboardX, %s", install_command("train"))
        else:
            from tensorboardX import SummaryWriter

            # Events of the steps that are run again are hidden, as their lines were dropped above.
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live_line:
            sys.stderr.write("\n")
        if self._board is not None:
            self._board.close()

    def live(self, step: int, of: str, **values: float | int) -> None:
        """Update the line on the terminal, at most once a second; ``of`` is the end of the run."""
        now = time.monotonic()
        if self._live_line and now - self._shown > _LIVE_SECONDS:
            self._shown = now
            sys.stderr.write(f"\r\x1b[2Kstep {step} of {of}: {_format(values)}")
            sys.stderr.flush()

    def scalars(self, step: int, **values: float | int) -> None:
        """Write a step's values to the file, the terminal and TensorBoard."""
        if not self._writes:
            return
        with (self._folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        # Erases the live line, after which the log line would be appended.
        if self._live_line:
            sys.stderr.write("\r\x1b[2K")
        logger.info("step %d: %s", step, _format(values))
        for name, value in values.items():
            if self._board is not None:
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, frame: Float[np.ndarray, "height width 3"]) -> None:
        """Show an image with values in [0, 1] in TensorBoard."""
        if self._board is not None:
            self._board.add_image("sample", np.asarray(frame), step, dataformats="HWC")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's log; a line that a crash truncated is skipped."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def plot(folder: Path) -> Path | None:
    """Plot each value of the log over the steps into ``training.png``, and return its path.

    Returns None if matplotlib is not installed or the log is empty.
    """
    if importlib.util.find_spec("matplotlib") is None:
        logger.info("no plot: it needs matplotlib, %s", install_command("train"))
        return None
    from matplotlib.figure import Figure

    lines = read_metrics(folder)
    names = list(dict.fromkeys(name for line in lines for name in line if name != "step"))
    if not names:
        return None
    rows = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 2.6 * rows), layout="constrained")
    for number, name in enumerate(names, 1):
        axes = figure.add_subplot(rows, _COLUMNS, number)
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points), marker="." if len(points) < 50 else "")
        axes.set_title(name)
        axes.grid(alpha=0.3)
    path = folder / "training.png"
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=100)
    return path


def _format(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.5g}" for name, value in values.items())
