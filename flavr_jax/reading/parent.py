# SPDX-License-Identifier: Apache-2.0
"""A frame source whose file is decoded in a child process."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from flavr_jax.reading.inputs import Input
from flavr_jax.reading.slots import SLOTS, info_of, size_of, size_of_slot, timed
from flavr_jax.terminal import printable
from flavr_jax.timeline.keys import LINKS, Link
from flavr_jax.video.files.names import is_pipe
from flavr_jax.video.frames import ClipInfo, Origin, TimedFrame
from flavr_jax.video.pixels.layout import Layout

__all__ = ["ChildSource", "Limits"]

logger = logging.getLogger(__name__)

PROGRAM = ("-m", "flavr_jax.reading.child")
_LONGEST_LINE = 1 << 24  # bytes; a colour profile may take megabytes
_READ = 1 << 16  # bytes at a time


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a child process that decodes files from strangers.

    Attributes:
        memory: most memory of the child in gigabytes.
        patience: most seconds that it may work on a frame.
    """

    memory: float = 4.0
    patience: float = 60.0


class ChildSource:
    """A source that a child process decodes; the child is ended with the iteration.

    It also finds cuts and repeats, as :class:`flavr_jax.timeline.keys.LinkedFrames`.

    Attributes:
        info: as of the source.
        damage: after an iteration, why it could not be read completely; None if it was.
    """

    def __init__(
        self,
        path: Path,
        source: Input,
        limits: Limits | None = None,
        info: ClipInfo | None = None,
    ) -> None:
        """Start the child process.

        Args:
            path: a file or a folder of images.
            source: what to read of it, without a sandbox.
            limits: of the child, which is then a sandbox; None trusts the file.
            info: as of the source, if it has been opened already; then the child opens it again
                while the caller does something else.

        Raises:
            OSError: the source cannot be read, or the child crashed or took too long.
            ValueError: it is no video and no folder of images, or takes more memory.
        """
        if not ChildSource.works(path):
            raise ValueError("`sandbox` is for files and folders, and needs Linux or macOS.")
        self.damage: str | None = None
        self._path, self._source, self._limits = path.resolve(), source, limits
        self._opened = info
        self._child: _Child | None = self._start()
        self.info = self._child.info if info is None else info

    @staticmethod
    def works(path: Path) -> bool:
        """Return whether a child process can read a source on this system."""
        return sys.platform != "win32" and not is_pipe(path)

    def __iter__(self) -> Iterator[TimedFrame]:
        return (frame for frame, _ in self.linked(cuts=False, repeats=False))

    def linked(self, cuts: bool, repeats: bool) -> Iterator[tuple[TimedFrame, Link]]:
        """Yield each frame with its link to the one before.

        Args:
            cuts: whether to look for cuts; otherwise the clip counts as one shot.
            repeats: whether to look for frames that repeat the one before them.
        """
        child = self._child or self._start()
        self._child, self.damage = None, None
        last: Fraction | None = None
        with contextlib.closing(child):
            child.begin(self.info, cuts, repeats)
            for index, message in enumerate(child.messages()):
                if "damage" in message:
                    damage = message["damage"]
                    self.damage = None if damage is None else printable(damage)
                    return
                try:
                    frame, link = self._frame(child, message, last, index)
                except (KeyError, TypeError, ArithmeticError, ValueError) as error:
                    raise ValueError(
                        f"{self._path}: the {child.name} breaks its rules ({error!r}). "
                        "The file may be hostile."
                    ) from error
                last = frame.pts
                yield frame, link
            self.damage = child.ending
            if self._limits is None:
                raise OSError(f"{self._path}: {child.ending}. Run the same command again.")

    def wait(self) -> None:
        """Wait until the child has opened the source."""
        if self._child is not None:
            _ = self._child.info

    def close(self) -> None:
        """End the child of a source that will not be iterated."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _start(self) -> _Child:
        child = _Child(self._path, self._source, self._limits, warn=self._opened is None)
        # For a source that is never iterated, because the caller has met an error.
        weakref.finalize(self, child.close)
        return child

    def _frame(
        self, child: _Child, message: dict[str, Any], last: Fraction | None, index: int
    ) -> tuple[TimedFrame, Link]:
        """Check a message and return its frame and link."""
        form, kind = (Layout.of(name) for name in (str(message["format"]), self.info.pixel_format))
        pts, duration = Fraction(message["pts"]), Fraction(message["duration"])
        # As VideoReader guarantees; the child's word is not taken for it.
        if (form.pixel_bits, form.alpha) != (kind.pixel_bits, kind.alpha):
            raise ValueError("another depth")
        if duration <= 0 or (last is not None and pts <= last):
            raise ValueError("times that do not increase")
        link, path = message["link"], message["path"]
        if link not in LINKS:
            raise ValueError("an unknown link")
        # A sandbox may not choose files for the output to be copied from.
        origin = Origin(index, None if path is None or self._limits is not None else Path(path))
        planes = child.planes(message, self.info.width, self.info.height)
        frame = timed(planes, message["format"], self.info, (pts, duration), origin)
        return frame, link


class _Child:
    """The child process and the memory that it shares.

    Attributes:
        name: what messages call it.
        ending: why it ended early, once :meth:`messages` has ended.
    """

    def __init__(self, path: Path, source: Input, limits: Limits | None, *, warn: bool) -> None:
        self.name = "decoding process" if limits is None else "decoder in the sandbox"
        self.ending: str | None = None
        self._path, self._limits = path, limits
        self._buffer, self._free = b"", 0
        self._undo = contextlib.ExitStack()
        self._file = self._undo.enter_context(_memory_file())
        self._process = subprocess.Popen(
            [sys.executable, *PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if limits is None else subprocess.DEVNULL,
            pass_fds=[self._file],
            # Secrets in the environment are none of the child's business.
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu"},
            start_new_session=True,  # Ctrl-C is for the parent, which ends the child
        )
        self._undo.callback(self._end)
        assert self._process.stdout is not None
        self._poll = select.poll()
        self._poll.register(self._process.stdout, select.POLLIN)
        memory = None if limits is None else int(limits.memory * 1e9)
        job = {"path": str(path), "memory": memory, "descriptor": self._file, "warn": warn}
        self._send({**job, "input": dataclasses.asdict(source)})

    @functools.cached_property
    def info(self) -> ClipInfo:
        """The clip's properties, which are the child's first message."""
        with contextlib.ExitStack() as failed:
            failed.push(self._undo)
            first = next(self.messages(), None)
            if first is None:
                raise OSError(f"{self._path} was not opened: {self.ending}.")
            info = info_of(first.get("info", {}))
            size = SLOTS * size_of(info.pixel_format, info.width, info.height)
            if self._limits is not None and size > self._limits.memory * 1e9:
                raise ValueError(
                    f"{self._path} has frames of {size / SLOTS / 1e9:.2f} GB; {SLOTS} of them "
                    f"exceed the sandbox's {self._limits.memory:g} GB. Use a larger "
                    "--sandbox-memory."
                )
            failed.pop_all()
        return info

    def begin(self, info: ClipInfo, cuts: bool, repeats: bool) -> None:
        """Let the child send frames with their links; ``info`` is what the source was before."""
        if self.info != info:
            raise ValueError(f"{self._path} has changed since it was opened. Run this again.")
        self._slot = size_of_slot(info)
        os.ftruncate(self._file, self._slot * SLOTS)
        self._memory = np.frombuffer(mmap.mmap(self._file, self._slot * SLOTS), np.uint8)
        self._send({"slot": self._slot, "cuts": cuts, "repeats": repeats})

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the child's messages; ``ending`` says why if they stop early.

        Raises:
            TimeoutError: the child took too long.
            OSError: the child reported an error of the system.
            ValueError: the child reported an error, or its message is broken.
        """
        while line := self._line():
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError(f"{self._path}: the {self.name} breaks its rules.")
            if "warning" in message:
                logger.warning("%s", printable(message["warning"]))
            elif "error" in message:
                kind = ValueError if message["error"] == "ValueError" else OSError
                raise kind(printable(message.get("message", "")))
            else:
                yield message
        self.ending = self._reason()

    def planes(self, message: dict[str, Any], width: int, height: int) -> np.ndarray:
        """Copy a frame's planes out of the shared memory, and give their place back."""
        slot, size = int(message["slot"]), size_of(str(message["format"]), width, height)
        if not 0 <= slot < SLOTS or size > self._slot:
            raise ValueError("a frame outside the shared memory")
        planes = self._memory[slot * self._slot :][:size].copy()
        self._free += 1
        return planes

    def close(self) -> None:
        """End the process; more calls change nothing."""
        self._undo.close()

    def _send(self, value: Any) -> None:
        self._write(json.dumps(value).encode() + b"\n")

    def _write(self, lines: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the child has ended; `messages` says why
            self._process.stdin.write(lines)
            self._process.stdin.flush()

    def _line(self) -> bytes:
        """Return the child's next line; nothing at the end."""
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            # At once for all frames that were taken: each call gives Python's lock away.
            if self._free:
                self._write(b"\n" * self._free)
                self._free = 0
            if self._limits is not None and not self._poll.poll(1000 * self._limits.patience):
                raise TimeoutError(
                    f"{self._path}: the {self.name} has worked on one frame for "
                    f"{self._limits.patience:.0f} s. The file may be damaged or hostile."
                )
            part = os.read(self._process.stdout.fileno(), _READ)
            if not part or len(self._buffer) > _LONGEST_LINE:
                return self._buffer
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _reason(self) -> str:
        code = self._process.wait(10)
        if code < 0:
            return f"the {self.name} ended by {signal.Signals(-code).name}"
        return f"the {self.name} ended with exit code {code}"

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()


@contextlib.contextmanager
def _memory_file() -> Iterator[int]:
    """Yield the descriptor of a file in memory; elsewhere, frames might be written to a disk."""
    if hasattr(os, "memfd_create"):
        # Containers limit the size of /dev/shm, often to 64 MB, but not this one's.
        descriptor = os.memfd_create("flavr-frames")
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryFile() as file:
            yield file.fileno()
