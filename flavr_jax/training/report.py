# SPDX-License-Identifier: Apache-2.0
"""What a run tells: a live line, a line a report in ``metrics.jsonl``, TensorBoard, one plot.

``metrics.jsonl`` is always written; TensorBoard and the plot where their packages are installed
(the extra ``train``). Of several processes only the first one writes.
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

from flavr_jax.partial import written_whole

__all__ = ["Report", "plot", "read_metrics"]

logger = logging.getLogger(__name__)

_LIVE_SECONDS = 1.0
_COLUMNS = 3


class Report:
    """A run's log in one folder; use it as a context."""

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        """Open the log, and forget what was written after ``step``: it is going to happen again."""
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
            logger.info("no TensorBoard: it needs tensorboardX, pip install 'flavr-jax[train]'")
        else:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live_line:
            sys.stderr.write("\n")
        if self._board is not None:
            self._board.close()

    def live(self, step: int, of: str, **values: float | int) -> None:
        """Renew the line on a terminal, at most once a second."""
        now = time.monotonic()
        if self._live_line and now - self._shown > _LIVE_SECONDS:
            self._shown = now
            sys.stderr.write(f"\r\x1b[2Kstep {step} of {of}: {_spell(values)}")
            sys.stderr.flush()

    def scalars(self, step: int, **values: float | int) -> None:
        """Write values of a step everywhere."""
        if not self._writes:
            return
        with (self._folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._live_line:
            sys.stderr.write("\r\x1b[2K")
        logger.info("step %d: %s", step, _spell(values))
        for name, value in values.items():
            if self._board is not None:
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, frame: Float[np.ndarray, "height width 3"]) -> None:
        """Show a sample, in [0, 1]."""
        if self._board is not None:
            self._board.add_image("sample", np.asarray(frame), step, dataformats="HWC")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; one that was cut off by a crash is left out."""
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
    """Draw every value of the log over the steps into ``training.png``; None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        logger.info("no plot: it needs matplotlib, pip install 'flavr-jax[train]'")
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


def _spell(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.5g}" for name, value in values.items())
