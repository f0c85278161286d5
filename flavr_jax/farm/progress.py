# SPDX-License-Identifier: Apache-2.0
"""One line with the progress of all clips of a farm."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from flavr_jax.progress import Reporter

__all__ = ["Line"]

_IN_LOG, _IN_EVENTS = 10.0, 0.5  # seconds between two lines


@runtime_checkable
class _Clip(Protocol):
    """The part of a clip's state that is shown, in output frames."""

    frames: int
    kept: int
    made: int

    @property
    def outcome(self) -> object: ...


class Line:
    """A bar on a terminal, a line every 10 seconds in a log, or events for programs."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        console = Console(stderr=True)
        self._in_log = report.mode == "text" and not console.is_terminal
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=report.mode != "text" or self._in_log,
        )
        self._task = self._bar.add_task("frames", total=None)
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Line:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, clips: Sequence[_Clip], workers: int, lost: int, *, last: bool = False) -> None:
        """Show the progress of all clips.

        Args:
            clips: all clips; those that have not begun count no frames.
            workers: number of workers.
            lost: number of workers that were lost so far.
            last: whether all clips have ended; then the line is shown at once.
        """
        now = time.monotonic()
        if now - self._shown < (_IN_LOG if self._in_log else _IN_EVENTS) and not last:
            return
        self._shown = now
        ended = sum(clip.outcome is not None for clip in clips)
        made, total = sum(clip.made for clip in clips), sum(clip.frames for clip in clips)
        done = made + sum(clip.kept for clip in clips)
        speed = made / max(now - self._began, 1e-9)
        left = (total - done) / speed if made else None
        words = f"frames  {ended} of {len(clips)} clips  {workers} workers"
        words += f", {lost} lost" if lost else ""
        words += f"  {speed:.1f} frames/s" if made else ""
        words += f"  {left:.0f} s left" if left else ""
        self._bar.update(self._task, completed=done, total=total or None, description=words)
        if self._in_log:
            print(f"{done} of {total} {words}", file=sys.stderr, flush=True)
        self._report.tell(
            "progress", done=done, total=total, clips_done=ended, clips=len(clips),
            workers=workers, lost=lost, per_second=speed, seconds_left=left,
        )  # fmt: skip
