# SPDX-License-Identifier: Apache-2.0
"""The program of the child process: decodes one source into shared memory."""

from __future__ import annotations

import ctypes
import json
import logging
import mmap
import os
import queue
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flavr_jax.terminal import printable

if TYPE_CHECKING:
    import numpy as np

    from flavr_jax.video.frames import FrameSource, TimedFrame

__all__ = ["main"]

Item = TypeVar("Item")

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # of Linux's prctl
_THREADS = "1"  # of NumPy's libraries, which have nothing to do here
_DECODED = 4  # frames that wait until they are compared with those around them


def main() -> None:
    """Read a job from standard input, and answer on standard output, a line for each message."""
    job = json.loads(sys.stdin.readline())
    _end_with_parent()
    if job["memory"] is not None:
        _give_up_rights(job["memory"])
    try:
        _decode(job)
    except (ValueError, OSError, MemoryError) as error:
        kind = "ValueError" if isinstance(error, ValueError) else "OSError"
        text = str(error) or "not enough memory"
        _tell(error=kind, message=text)


def _decode(job: dict[str, Any]) -> None:
    import numpy as np

    from flavr_jax.reading.inputs import Input
    from flavr_jax.reading.slots import SLOTS, as_json
    from flavr_jax.timeline import keys

    warnings = _Warnings()
    logger = logging.getLogger("flavr_jax")
    if job["warn"]:
        logger.addHandler(warnings)
    # In a sandbox, the frames that they hold would count towards the limit of memory.
    source = Input(**job["input"]).open(Path(job["path"]), threads=job["memory"] is None)
    logger.addHandler(warnings)
    _tell(info=as_json(source.info))
    wanted = json.loads(sys.stdin.readline())
    memory = np.frombuffer(mmap.mmap(job["descriptor"], SLOTS * wanted["slot"]), np.uint8)
    # One thread decodes while the other compares what is in the shared memory already.
    facts: deque[dict[str, Any]] = deque()
    placed = _ahead(_placed(source, memory.reshape(SLOTS, -1), facts))
    for frame, link in keys.links(placed, wanted["cuts"], wanted["repeats"]):
        _tell(**facts.popleft(), pts=str(frame.pts), duration=str(frame.duration), link=link)
    _tell(damage=source.damage)


def _placed(
    source: FrameSource, slots: np.ndarray, facts: deque[dict[str, Any]]
) -> Iterator[TimedFrame]:
    """Put the frames of a source into slots in turn, and yield them from there.

    What the parent has to know about each goes into ``facts``.
    """
    from flavr_jax.reading.slots import put, timed
    from flavr_jax.video.frames import Origin
    from flavr_jax.video.pixels.colour import repacked
    from flavr_jax.video.pixels.layout import Layout

    for number, frame in enumerate(source):
        # The first frames have slots of their own; each later one waits until the parent frees one.
        if number >= len(slots) and not sys.stdin.readline():
            os._exit(0)  # the parent needs no more
        picture, slot = frame.original, number % len(slots)
        assert picture is not None
        path = getattr(picture.opaque, "path", None)
        if picture.format.name == "pal8":
            picture = repacked(picture, Layout.of("pal8").planar)
        name, times = picture.format.name, (frame.pts, frame.duration)
        used = put(slots[slot], picture)
        facts.append({"slot": slot, "format": name, "path": None if path is None else str(path)})
        yield timed(used, name, source.info, times, Origin(number))


def _ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items that a thread takes from an iterable."""
    taken: queue.Queue[Callable[[], Item] | None] = queue.Queue(_DECODED)

    def fill() -> None:
        try:
            for item in items:
                taken.put(lambda item=item: item)
            taken.put(None)
        # Raised again by the thread that reads.
        except BaseException as error:
            taken.put(lambda error=error: _raise(error))

    # A daemon: if no more frames are needed, it waits for room for ever.
    threading.Thread(target=fill, daemon=True, name="decode").start()
    while (item := taken.get()) is not None:
        yield item()


def _raise(error: BaseException) -> Any:
    raise error


def _tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


class _Warnings(logging.Handler):
    """Sends log messages to the parent."""

    def emit(self, record: logging.LogRecord) -> None:
        _tell(warning=printable(record.getMessage()))


def _end_with_parent() -> None:
    """Ask Linux to end this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _give_up_rights(memory: int) -> None:
    """Limit memory in bytes; write no file; gain no rights from programs."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing to a file is an error instead
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


if __name__ == "__main__":
    # Before the imports in `_decode`: libraries read it once, when they are loaded.
    os.environ.setdefault("OMP_NUM_THREADS", _THREADS)
    main()
