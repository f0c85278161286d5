# SPDX-License-Identifier: Apache-2.0
"""A frame source whose file is decoded in a child process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import mmap
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from flavr_jax.terminal import printable
from flavr_jax.video.files.inputs import Input
from flavr_jax.video.files.names import is_pipe
from flavr_jax.video.frames import Origin, TimedFrame
from flavr_jax.video.pixels.colour import picture
from flavr_jax.video.pixels.layout import Layout
from flavr_jax.video.sandbox.slots import SLOTS, info_of, size_of, taken

__all__ = ["Sandboxed"]

logger = logging.getLogger(__name__)

PROGRAM = ("-m", "flavr_jax.video.sandbox.child")
_LONGEST_LINE = 1 << 24  # bytes; a colour profile may take megabytes


class Sandboxed:
    """A source that a child process decodes; the child is ended with the iteration.

    Attributes:
        info: as of the source.
        damage: after an iteration, why it could not be read completely; None if it was.
    """

    def __init__(
        self, path: Path, source: Input, *, memory: float = 4.0, patience: float = 60.0
    ) -> None:
        """Open the source in a child process.

        Args:
            path: a file or a folder of images.
            source: what to read of it.
            memory: most memory of the child in gigabytes.
            patience: most seconds that it may work on a frame.

        Raises:
            OSError: the source cannot be read, or the child crashed or took too long.
            ValueError: it is no video and no folder of images, or takes more memory.
        """
        if is_pipe(path) or sys.platform == "win32":
            raise ValueError("`sandbox` is for files and folders, and needs Linux or macOS.")
        self.damage: str | None = None
        self._path, self._source = path.resolve(), source
        self._memory, self._patience = int(memory * 1e9), patience
        self._child: _Child | None = _Child(self._path, source, self._memory, patience)
        self.info = self._child.info

    def __iter__(self) -> Iterator[TimedFrame]:
        child = self._child or _Child(self._path, self._source, self._memory, self._patience)
        self._child, self.damage = None, None
        last: Fraction | None = None
        with child:
            for index, message in enumerate(child.messages()):
                if "damage" in message:
                    damage = message["damage"]
                    self.damage = None if damage is None else printable(damage)
                    return
                try:
                    frame = self._frame(child, message, last)
                except (KeyError, TypeError, ArithmeticError, ValueError) as error:
                    raise ValueError(
                        f"{self._path}: the decoder in the sandbox breaks its rules ({error!r}). "
                        "The file may be hostile."
                    ) from error
                last = frame.pts
                if frame.original is not None:
                    frame.original.opaque = Origin(index)
                yield frame
            self.damage = child.ending

    def close(self) -> None:
        """End the child of a source that will not be iterated."""
        if self._child is not None:
            with self._child:
                self._child = None

    def _frame(self, child: _Child, message: dict[str, Any], last: Fraction | None) -> TimedFrame:
        """Check a message and return its frame."""
        form, kind = (Layout.of(name) for name in (str(message["format"]), self.info.pixel_format))
        pts, duration = Fraction(message["pts"]), Fraction(message["duration"])
        # As VideoReader guarantees; the child's word is not taken for it.
        if (form.pixel_bits, form.alpha) != (kind.pixel_bits, kind.alpha):
            raise ValueError("another depth")
        if duration <= 0 or (last is not None and pts <= last):
            raise ValueError("times that do not increase")
        frame = child.frame(message, self.info.width, self.info.height)
        return TimedFrame(picture(frame, self.info.colour), pts, duration, frame)


class _Child:
    """The child process and the memory that it shares."""

    def __init__(self, path: Path, source: Input, memory: int, patience: float) -> None:
        self._path, self._patience = path, patience
        self.ending: str | None = None
        self._undo = contextlib.ExitStack()
        # A file system in memory: elsewhere, every frame might be written to a disk.
        shared = Path("/dev/shm")
        file = tempfile.TemporaryFile(dir=shared if shared.is_dir() else None)  # noqa: SIM115
        self._undo.enter_context(file)
        self._process = subprocess.Popen(
            [sys.executable, *PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[file.fileno()],
            # Secrets in the environment are none of the child's business.
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu"},
            start_new_session=True,  # Ctrl-C is for the parent, which ends the child
        )
        self._undo.callback(self._end)
        # Bounded, so that a hostile child cannot fill this process's memory with messages.
        self._lines: queue.Queue[bytes] = queue.Queue(SLOTS + 2)
        threading.Thread(target=self._listen, daemon=True, name="sandbox").start()
        with contextlib.ExitStack() as failed:
            failed.push(self._undo)
            job = {"path": str(path), "memory": memory, "descriptor": file.fileno()}
            self._send(json.dumps({**job, "input": dataclasses.asdict(source)}))
            first = next(self.messages(), None)
            if first is None:
                raise OSError(f"{path} was not opened: {self.ending}.")
            self.info = info_of(first.get("info", {}))
            self._slot = size_of(self.info.pixel_format, self.info.width, self.info.height)
            if self._slot * SLOTS > memory:
                raise ValueError(
                    f"{path} has frames of {self._slot / 1e9:.2f} GB; {SLOTS} of them exceed the "
                    f"sandbox's {memory / 1e9:g} GB. Use a larger --sandbox-memory."
                )
            os.ftruncate(file.fileno(), self._slot * SLOTS)
            self._shared = self._undo.enter_context(mmap.mmap(file.fileno(), self._slot * SLOTS))
            self._send(str(self._slot))
            failed.pop_all()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the child's messages; ``ending`` says why if they stop early.

        Raises:
            TimeoutError: the child took too long.
            OSError: the child reported an error of the system.
            ValueError: the child reported an error, or its message is broken.
        """
        while True:
            try:
                line = self._lines.get(timeout=self._patience)
            except queue.Empty:
                raise TimeoutError(
                    f"{self._path}: the decoder in the sandbox has worked on one frame for "
                    f"{self._patience:.0f} s. The file may be damaged or hostile."
                ) from None
            if not line:
                self.ending = self._reason()
                return
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError(f"{self._path}: the decoder in the sandbox breaks its rules.")
            if "warning" in message:
                logger.warning("%s", printable(message["warning"]))
            elif "error" in message:
                kind = ValueError if message["error"] == "ValueError" else OSError
                raise kind(printable(message.get("message", "")))
            else:
                yield message

    def frame(self, message: dict[str, Any], width: int, height: int) -> Any:
        """Copy a frame out of the shared memory, and give its place back."""
        slot, form = int(message["slot"]), str(message["format"])
        if not 0 <= slot < SLOTS or size_of(form, width, height) > self._slot:
            raise ValueError("a frame outside the shared memory")
        frame = taken(self._shared, slot * self._slot, form, width, height)
        self._send("next")
        return frame

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the child has ended; `messages` says why
            self._process.stdin.write(f"{text}\n".encode())
            self._process.stdin.flush()

    def _listen(self) -> None:
        """Put the child's lines into the queue, and an empty one at the end."""
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed by the other thread
            while line := self._process.stdout.readline(_LONGEST_LINE):
                self._lines.put(line)
        self._lines.put(b"")

    def _reason(self) -> str:
        code = self._process.wait(10)
        if code < 0:
            return f"the decoder in the sandbox ended by {signal.Signals(-code).name}"
        return f"the decoder in the sandbox ended with exit code {code}"

    def _end(self) -> None:
        self._process.kill()
        while not self._lines.empty():  # the listening thread may wait for room
            self._lines.get_nowait()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
