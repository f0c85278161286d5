# SPDX-License-Identifier: Apache-2.0
"""The head of a farm: runs the steps of all clips, one task of each clip in turn.

The head keeps no state that cannot be computed again, and finished segments are on disk. If the
head is lost, the same command therefore continues from the finished segments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flavr_jax import cli
from flavr_jax.farm import plan
from flavr_jax.farm.clip import Clip, Plan, Setup
from flavr_jax.farm.cluster import Call, Cluster
from flavr_jax.farm.progress import Line
from flavr_jax.inference.stream import Summary
from flavr_jax.progress import Reporter
from flavr_jax.video.journal.journal import Journal

__all__ = ["Outcome", "render"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Final state of a clip.

    Attributes:
        path: the input.
        output: name of the output.
        code: 0, 1 if the input was damaged, 2 if there is no output.
        note: reason for the code, or another remark.
        summary: counts of frames.
        seconds: time from the first step to the last.
    """

    path: Path
    output: str
    code: int
    note: str = ""
    summary: Summary = dataclasses.field(default_factory=Summary)
    seconds: float = 0.0


def render(clips: Sequence[Clip], cluster: Cluster[Any], report: Reporter) -> list[Outcome]:
    """Render clips on a cluster, one task of each clip in turn, and return their outcomes.

    At most twice as many clips as workers are open at a time: enough to keep all workers busy, and
    few enough that the first clips are finished long before the last.
    """
    every = [_Run(clip) for clip in clips]
    waiting, opened, turns = deque(every), set[_Run](), _Turns()

    def settle(run: _Run) -> None:
        if run.outcome is None:
            turns.add(run)
            return
        opened.remove(run)
        if run.pending:
            cluster.cancel(run)
        _tell(run.outcome, report)

    with Line(report) as line, contextlib.ExitStack() as journals:
        while waiting or opened:
            cluster.hire()
            while waiting and len(opened) < 2 * cluster.count:
                run = waiting.popleft()
                opened.add(run)
                run.begin(journals)
                settle(run)
            while cluster.has_room and (call := turns.next()) is not None:
                cluster.start(call)
            if cluster.busy or turns:
                for call, result in cluster.ended():
                    for message in call.owner.take(call, result, cluster.count):
                        report.warn(f"{call.owner.clip.path}: {message}")
                    if call.owner in opened:
                        settle(call.owner)
            line.show(every, cluster.count, cluster.lost, last=not (waiting or opened))
    return [run.outcome for run in every if run.outcome is not None]


class _Turns:
    """Queue of clips that have tasks to start; each gives one task in turn."""

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque()
        self._waiting: set[_Run] = set()

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, run: _Run) -> None:
        """Append a clip to the queue if it has a task and is not in the queue yet."""
        if run.ready and run not in self._waiting:
            self._waiting.add(run)
            self._runs.append(run)

    def next(self) -> Call[_Run] | None:
        """Return the next task; None if no clip has one."""
        while self._runs:
            run = self._runs.popleft()
            self._waiting.remove(run)
            if run.ready:  # none is left if the clip has failed meanwhile
                run.pending += 1
                call = run.ready.popleft()
                self.add(run)
                return call
        return None


def _tell(outcome: Outcome | None, report: Reporter) -> None:
    """Report the outcome of a clip."""
    assert outcome is not None
    if outcome.code == 2:
        report.warn(f"{outcome.path} failed: {outcome.note}")
    else:
        note = f" ({outcome.note})" if outcome.note else ""
        report.say(f"{outcome.summary} in {outcome.output}, {outcome.seconds:.1f} s{note}")
    report.tell(
        "end", input=str(outcome.path), output=outcome.output, code=outcome.code,
        note=outcome.note, frames_out=outcome.summary.frames_out, seconds=outcome.seconds,
    )  # fmt: skip


class _Run:
    """A clip on its way through the farm.

    Attributes:
        clip: the clip.
        ready: tasks that can start.
        pending: number of tasks that the cluster has.
        frames: number of output frames; an estimate until the clip has been scanned.
        kept: number of output frames from earlier runs.
        made: number of output frames that this run has finished.
        outcome: final state; None until the clip has ended.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip, self.pending = clip, 0
        self.ready: deque[Call[_Run]] = deque()
        self.frames = self.kept = self.made = 0
        self.outcome: Outcome | None = None
        self._began = time.monotonic()
        self._setup: Setup | None = None
        self._plan: Plan | None = None
        self._journal: Journal | None = None
        self._journals = contextlib.ExitStack()

    def begin(self, journals: contextlib.ExitStack) -> None:
        """Make the first task ready unless the output exists; ``journals`` closes the journal."""
        self._began, self._journals = time.monotonic(), journals
        if Path(self.clip.output).exists() and not self.clip.overwrite:
            self._end(0, "it exists; use --overwrite to make it again")
        else:
            self._add("prepare")

    def take(self, call: Call[_Run], result: Any, workers: int) -> list[str]:
        """Take the result of a task, make the next tasks ready, and return its warnings.

        Args:
            call: the task.
            result: value or exception of the task; None if it has to be started again.
            workers: number of workers.
        """
        self.pending -= 1
        if self.outcome is not None:
            return []
        if result is None:
            self.ready.appendleft(call)
            return []
        if isinstance(result, Exception):
            self._end(2, cli.explanation(result) or f"{type(result).__name__}: {result}")
            return []
        value, warnings = result
        try:
            self._go_on(call, value, workers)
        except (OSError, ValueError) as error:
            self._end(2, str(error))
        return warnings

    def _go_on(self, call: Call[_Run], value: Any, workers: int) -> None:
        if call.step == "prepare":
            self._setup, self.frames = value, value.info.frame_count or 0
            self._add("scan" if value.splittable else "whole", value)
        elif call.step == "scan":
            self._scanned(value, workers)
        elif call.step == "render":
            self.made += value
            self._join_if_complete()
        elif call.step == "join":
            assert self._plan is not None
            note = f"{value} broken packets of sound or subtitles left out" if value else ""
            self._end(0, note, self._plan.summary)
        else:
            summary, damage = value
            self.made = self.frames = summary.frames_out
            self._end(int(bool(damage)), f"damaged: {damage}" if damage else "", summary)

    def _scanned(self, found: Plan, workers: int) -> None:
        """Make tasks ready for the segments that earlier runs have not finished."""
        assert self._setup is not None
        self._plan, self.frames = found, len(found.times)
        if found.damage:
            # The frames after a damaged place depend on where decoding began.
            self._add("whole", self._setup)
            return
        # The head holds the journal's lock until all segments are there.
        target = Path(os.path.realpath(self.clip.output))
        self._journal = Journal(target, self._setup.job(self.clip))
        self._journals.callback(self._journal.close, complete=False)
        missing = self._journal.missing(-(-self.frames // self.clip.segment))
        most = plan.longest(self.clip, self._setup, found, len(missing), workers)
        for stretch in plan.stretches(self.clip, self._setup, found, missing, most):
            self._add("render", self._setup, stretch, self._journal.folder)
        self.kept = self.frames - sum(len(call.arguments[2].times) for call in self.ready)
        self._join_if_complete()

    def _join_if_complete(self) -> None:
        if self.ready or self.pending:
            return
        assert self._journal is not None
        assert self._plan is not None
        self._journal.close(complete=False)  # the worker that joins opens it again
        self._add("join", self._setup, self._plan.times)

    def _add(self, step: Any, *arguments: Any) -> None:
        self.ready.append(Call(self, step, (self.clip, *arguments)))

    def _end(self, code: int, note: str = "", summary: Summary | None = None) -> None:
        self.ready.clear()
        if self._journal is not None:
            self._journal.close(complete=False)
        if code == 2:
            self.frames = self.kept + self.made
        seconds = time.monotonic() - self._began
        summary = summary or Summary()
        self.outcome = Outcome(self.clip.path, self.clip.output, code, note, summary, seconds)
