# SPDX-License-Identifier: Apache-2.0
"""The program of the child process: decodes one source into shared memory."""

from __future__ import annotations

import ctypes
import json
import logging
import mmap
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from flavr_jax.terminal import printable

__all__ = ["main"]

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # of Linux's prctl
_THREADS = "1"  # of NumPy's libraries, which have nothing to do here


def main() -> None:
    """Read a job from standard input, and answer on standard output, a line for each message."""
    job = json.loads(sys.stdin.readline())
    _give_up_rights(job["memory"])
    logging.getLogger("flavr_jax").addHandler(_Warnings())
    try:
        _decode(job)
    except (ValueError, OSError, MemoryError) as error:
        kind = "ValueError" if isinstance(error, ValueError) else "OSError"
        text = str(error) or "not enough memory"
        _tell(error=kind, message=text)


def _decode(job: dict[str, Any]) -> None:
    from flavr_jax.video.files.inputs import Input
    from flavr_jax.video.pixels.colour import repacked
    from flavr_jax.video.pixels.layout import Layout
    from flavr_jax.video.sandbox.slots import SLOTS, as_json, put

    source = Input(**job["input"]).open(Path(job["path"]))
    _tell(info=as_json(source.info))
    slot_size = int(sys.stdin.readline())
    memory = mmap.mmap(job["descriptor"], SLOTS * slot_size)
    for number, frame in enumerate(source):
        # The first frames have slots of their own; each later one waits until the parent frees one.
        if number >= SLOTS and not sys.stdin.readline():
            return  # the parent needs no more
        picture = frame.original
        assert picture is not None
        if picture.format.name == "pal8":
            picture = repacked(picture, Layout.of("pal8").planar)
        slot = number % SLOTS
        put(memory, slot * slot_size, picture)
        _tell(
            slot=slot, format=picture.format.name, pts=str(frame.pts), duration=str(frame.duration)
        )
    _tell(damage=source.damage)


def _tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


class _Warnings(logging.Handler):
    """Sends log messages to the parent."""

    def emit(self, record: logging.LogRecord) -> None:
        _tell(warning=printable(record.getMessage()))


def _give_up_rights(memory: int) -> None:
    """Limit memory in bytes; write no file; end with the parent; gain no rights from programs."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing to a file is an error instead
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


if __name__ == "__main__":
    # Before the imports in `_decode`: libraries read it once, when they are loaded.
    os.environ.setdefault("OMP_NUM_THREADS", _THREADS)
    main()
