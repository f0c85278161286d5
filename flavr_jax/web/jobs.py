# SPDX-License-Identifier: Apache-2.0
"""A queue of clips. Each is interpolated by a child process, ``flavr interpolate --json``.

A child can be ended at any time, with all of its memory, and a crash of FFmpeg or of a GPU's driver
ends one clip only. Its events become the state that the page shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import re
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from flavr_jax.terminal import printable
from flavr_jax.web.choices import Choices
from flavr_jax.web.limits import Limits, Refused

__all__ = ["Clip", "Queue", "State", "engine"]

logger = logging.getLogger(__name__)

State: TypeAlias = Literal["uploading", "waiting", "running", "done", "failed", "cancelled"]

_LINE = 1 << 20  # bytes of an event; warnings quote FFmpeg's messages
_SWEEP = 30.0  # seconds between two looks for clips to delete
_LONGEST_NAME = 300  # characters; file systems end at 255
_STEPS = {"compare": "preparing the comparison", "report": "looking for weak moments"}
_SECRET = "FLAVR_PASSWORD"


def engine(checkpoint: Path | None, extra: Sequence[str], *, sandbox: bool) -> list[str]:
    """Return the command that interpolates, without input, output and choices."""
    command = [sys.executable, "-m", "flavr_jax", "interpolate", "--json", *extra]
    command += [] if checkpoint is None else ["--checkpoint", str(checkpoint.resolve())]
    return command + ["--sandbox"] * sandbox


@dataclasses.dataclass(eq=False)
class Clip:
    """An upload and what becomes of it.

    Attributes:
        owner: session of the visitor, who alone sees it.
        name: of the upload.
        choices: what to make of it.
        folder: holds all of its files.
        id: part of its addresses, hard to guess.
        state: where it stands.
        step: what the child does at the moment.
        progress: the newest event of progress.
        message: why it failed.
        warnings: what the visitor should know.
        facts: of the finished run: counts of frames, times of cuts, device.
        weakest: the weakest moments of the report.
        files: paths of the result, the comparison and the report.
        ended: when it ended, on the clock ``time.monotonic``.
    """

    owner: str
    name: str
    choices: Choices
    folder: Path
    id: str
    state: State = "uploading"
    step: str = ""
    progress: dict[str, Any] = dataclasses.field(default_factory=dict)
    message: str = ""
    warnings: list[str] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    weakest: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    files: dict[str, Path] = dataclasses.field(default_factory=dict)
    ended: float | None = None

    @property
    def upload(self) -> Path:
        """The uploaded file, under a harmless form of its name."""
        stem, dot, suffix = self.name.rpartition(".")
        safe = re.sub(r"[^\w-]+", "_", stem if dot else suffix).strip("_-")[:60] or "clip"
        ending = re.sub(r"[^a-z0-9]", "", suffix.lower())[:8] if dot else ""
        return self.folder / "upload" / (f"{safe}.{ending}" if ending else safe)

    @property
    def output(self) -> Path:
        """The result."""
        choices = self.choices
        words = [] if choices.mode == "rate" else [f"{choices.factor}x"]
        words += [] if choices.fps is None else [f"{float(choices.fps):.5g}fps"]
        return self.folder / f"{'_'.join([self.upload.stem, *words])}{choices.suffix}"

    def take(self, event: dict[str, Any]) -> None:
        """Change the state by an event of the child."""
        kind = event.pop("event", None)
        if kind == "start":
            self.step, self.facts = "loading the network", _without_paths(event)
        elif kind == "compile":
            self.step, self.progress = "compiling the network for this size", {}
            if event.get("seconds"):
                self.step += f", about {event['seconds']:.0f} s"
        elif kind == "progress":
            self.progress = event
            self.step = self.step if self.step in _STEPS.values() else "making frames"
        elif kind == "stage":
            self.step, self.progress = _STEPS.get(event["what"], ""), {}
        elif kind == "weakest":
            self.weakest = event["moments"]
        elif kind == "file":
            self.files[event["what"]] = Path(event["path"])
        elif kind == "warning":
            self.warnings.append(self.named(event["message"]))
        elif kind == "error":
            self.message = self.named(event["message"])
        elif kind == "end":
            self.facts |= _without_paths(event)

    def named(self, message: str) -> str:
        """Return a message with the names that the visitor knows instead of paths."""
        message = message.replace(str(self.upload), self.name)
        return printable(message.replace(f"{self.folder}{os.sep}", ""))


def _without_paths(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event without the names of the server's files."""
    return {key: value for key, value in event.items() if key not in ("input", "output")}


class Queue:
    """Clips that wait, run or are kept. All methods belong to one event loop."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        limits: Limits,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare an empty queue.

        Args:
            command: the command of :func:`engine`.
            folder: for all files; it exists and is empty.
            limits: of the server.
            now: the clock, in seconds.
        """
        self.clips: dict[str, Clip] = {}
        self.limits = limits
        self._command, self._folder, self._now = list(command), folder, now
        self._wake = asyncio.Event()
        self._running: tuple[Clip, asyncio.Task[None]] | None = None

    def add(self, owner: str, name: str, choices: Choices) -> Clip:
        """Make room for an upload.

        Raises:
            Refused: the server holds as many clips as it may.
        """
        if len(self.clips) >= self.limits.clips:
            raise Refused(
                f"This server holds {len(self.clips)} clips, its limit. Remove one of yours, or "
                "try again later.",
                503,
            )
        number = secrets.token_urlsafe(12)
        name = printable(name.replace("\\", "/").rpartition("/")[2], _LONGEST_NAME)
        clip = Clip(owner, name, choices, self._folder / number, number)
        clip.upload.parent.mkdir(parents=True)
        self.clips[number] = clip
        return clip

    def start(self, clip: Clip) -> None:
        """Put a complete upload at the end of the queue."""
        clip.state = "waiting"
        self._wake.set()

    def ahead(self, clip: Clip) -> int:
        """Return how many clips run before a waiting one."""
        busy = [each for each in self.clips.values() if each.state in ("running", "waiting")]
        return busy.index(clip) if clip in busy else 0

    async def cancel(self, clip: Clip) -> None:
        """End a clip that waits or runs, and delete its files; its card stays."""
        if clip.state in ("waiting", "running"):
            # First the state, so that `_interpolate` does not take the child's end for a failure.
            clip.state = "cancelled"
            if self._running and self._running[0] is clip:
                await _ended(self._running[1])
            self._finish(clip)

    async def remove(self, clip: Clip) -> None:
        """End a clip, and forget it."""
        await self.cancel(clip)
        self.clips.pop(clip.id, None)
        shutil.rmtree(clip.folder, ignore_errors=True)

    async def run(self) -> None:
        """Run clips one after the other, and delete old ones, until cancelled."""
        sweeping = asyncio.create_task(self._sweep())
        try:
            while True:
                clip = next((c for c in self.clips.values() if c.state == "waiting"), None)
                if clip is None:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                task = asyncio.create_task(self._interpolate(clip))
                self._running = clip, task
                await asyncio.wait([task])
                self._running = None
        finally:
            sweeping.cancel()
            if self._running:
                await _ended(self._running[1])

    async def expire(self) -> None:
        """Delete the clips that ended long enough ago."""
        keep = self.limits.keep_hours * 3600
        for clip in list(self.clips.values()):
            if clip.ended is not None and self._now() - clip.ended >= keep:
                await self.remove(clip)

    def seconds_kept(self, clip: Clip) -> float | None:
        """Return the seconds until a clip is deleted; None before it has ended."""
        if clip.ended is None:
            return None
        return max(clip.ended + self.limits.keep_hours * 3600 - self._now(), 0)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            await self.expire()

    async def _interpolate(self, clip: Clip) -> None:
        clip.state, clip.step = "running", "starting"
        try:
            async with asyncio.timeout(self.limits.hours * 3600):
                code = await self._child(clip)
        except TimeoutError:
            code = -1
            clip.message = f"The run took longer than {self.limits.hours:g} hours, the limit here."
        except Exception:
            code = -1
            logger.exception("A clip ended by an error of the server.")
        if clip.state == "cancelled":
            return
        # Code 1: the input is damaged, and what can be read of it was processed.
        clip.state = "done" if code in (0, 1) and clip.output.exists() else "failed"
        if clip.state == "done":
            clip.files["result"] = clip.output
        elif not clip.message:
            # Linux ends processes by SIGKILL when memory runs out.
            reason = " It may lack memory." if code in (-signal.SIGKILL, -signal.SIGSEGV) else ""
            clip.message = f"The program ended unexpectedly (code {code}).{reason}"
        self._finish(clip)

    def _finish(self, clip: Clip) -> None:
        """Note that a clip has ended; keep only what its owner can still ask for."""
        clip.ended, clip.step, clip.progress = self._now(), "", {}
        if clip.state != "done":
            shutil.rmtree(clip.folder, ignore_errors=True)
        else:
            shutil.rmtree(clip.upload.parent, ignore_errors=True)

    async def _child(self, clip: Clip) -> int:
        """Run the child, and return its exit code."""
        part = ["--range", f"0-{self.limits.seconds:f}"]  # a header may state too short a duration
        names = [str(clip.upload), "--output", str(clip.output)]
        # A file, because a pipe that nobody reads would fill up and stop the child.
        with (clip.folder / "messages").open("wb") as messages:
            process = await asyncio.create_subprocess_exec(
                *self._command, *names, *part, *clip.choices.arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=messages,
                # The child has no use for the password.
                env={key: value for key, value in os.environ.items() if key != _SECRET},
                # A process group of its own: `killpg` below also ends what the child started.
                limit=_LINE, start_new_session=True,
            )  # fmt: skip
        try:
            assert process.stdout is not None
            async for line in process.stdout:
                with contextlib.suppress(json.JSONDecodeError):  # other lines are not for us
                    clip.take(json.loads(line))
            return await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                # Its files are deleted next, so that it has to end even if this is cancelled again.
                await asyncio.shield(process.wait())


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait until it has ended."""
    task.cancel()
    # Unlike `await task`, this raises no error of the task.
    await asyncio.wait([task])
