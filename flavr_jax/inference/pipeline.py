# SPDX-License-Identifier: Apache-2.0
"""Stages of work that overlap in time, each in a thread of its own.

A stage is an iterable. Its thread runs it ahead of whoever reads its items, until a bounded queue
is full. FFmpeg, NumPy and XLA release Python's lock while they work, so one frame is decoded while
another is computed and a third is encoded.

>>> with Pipeline("encode") as pipeline:
...     decoded = pipeline.stage("decode", source)
...     for frame in pipeline.stage("network", stream.interpolate(decoded, network)):
...         sink.write(frame)
"""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Generic, TypeVar

__all__ = ["Pipeline", "Times", "Worker"]

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_END = object()
_running = threading.local()  # .stage is the stage whose thread it is, if it is one's
_JOIN = 5.0
"""Seconds to wait for a thread when a pipeline is closed; one that hangs in FFmpeg is left."""


@dataclasses.dataclass(frozen=True)
class Times:
    """Where the time of a stage went, in seconds.

    Attributes:
        name: of the stage.
        items: how many it has delivered; the last stage: how many it has taken.
        working: it did its own work.
        starved: it waited for the stage before it.
        blocked: it waited for the stage after it to take an item.
    """

    name: str
    items: int
    working: float
    starved: float
    blocked: float


class Pipeline:
    """Threads that run stages ahead of their consumer; leaving its ``with`` block ends them."""

    def __init__(self, consumer: str = "consumer") -> None:
        """Begin a pipeline whose last stage, ``consumer``, runs in the calling thread."""
        self._consumer = consumer
        self._stages: list[_Stage] = []
        self._workers: list[tuple[int, Worker]] = []  # with the number of the stage after it
        self._began = time.monotonic()
        self._closed = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def stage(
        self,
        name: str,
        items: Iterable[Item],
        *,
        capacity: int = 4,
        patience: float = 60.0,
        limit: float | None = None,
    ) -> Iterator[Item]:
        """Run ``items`` in a thread, and return an iterator of what it yields, in order.

        An exception in the thread is raised in place of the item that it prevented. The thread
        begins when the first item is asked for.

        Args:
            name: what messages and tables call the stage.
            items: an iterable that only this thread uses.
            capacity: most items that wait to be taken.
            patience: after so many seconds at one item, a warning names the stage.
            limit: after so many seconds at one item, a ``TimeoutError`` is raised instead of it.
        """
        stage = _Stage(name, items, capacity, patience, limit)
        self._stages.append(stage)
        return stage.read()

    def worker(self, name: str) -> Worker:
        """Return a thread that makes calls for the next stage until the pipeline is closed."""
        worker = Worker(name)
        self._workers.append((len(self._stages), worker))
        return worker

    @property
    def times(self) -> list[Times]:
        """Time that each worker and each stage has spent so far; the consumer comes last."""
        total, starved = time.monotonic() - self._began, 0.0
        found = []
        for place, stage in enumerate(self._stages):
            for number, each in self._workers:
                if number == place:
                    idle = total - each.working
                    found.append(Times(each.name, each.made, each.working, idle, 0.0))
            # `producing` includes the wait for the stage before. Both are read without a lock while
            # threads run, so the difference can be slightly negative.
            working = max(0.0, stage.producing - starved)
            found.append(Times(stage.name, stage.made, working, starved, stage.blocked))
            starved = stage.waited
        taken = self._stages[-1].taken if self._stages else 0
        return [*found, Times(self._consumer, taken, total - starved, starved, 0.0)]

    def __enter__(self) -> Pipeline:
        self._began = time.monotonic()
        self._watchdog.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed.set()
        # All are told before one is waited for: a stage may be waiting for the one before it.
        workers = [worker for _, worker in self._workers]
        for worker in workers:
            worker.close()
        for stage in self._stages:
            stage.close(_Cancelled())
        for each in (*self._stages, *workers):
            each.join()
        self._watchdog.join()

    def _watch(self) -> None:
        """Warn of a stage that stays at one item; end it if that takes longer than its limit."""
        warned: set[tuple[str, int]] = set()
        while not self._closed.wait(1.0):
            for stage in self._stages:
                waits, place = stage.waits, (stage.name, stage.made)
                what = f"The stage {stage.name} has worked on item {stage.made + 1}"
                if waits > stage.patience and place not in warned:
                    warned.add(place)
                    logger.warning("%s for %.0f s.", what, waits)
                if stage.limit is not None and waits > stage.limit:
                    stage.close(
                        TimeoutError(
                            f"{what} for {waits:.0f} s; the limit is {stage.limit:.0f} s. Look "
                            "whether the input is damaged, or on a disk that does not answer."
                        )
                    )


# Not an Exception: a stage's own `except Exception` must not take it for an error of a frame.
class _Cancelled(BaseException):
    """The pipeline was closed while a stage waited; ends the stage's generators."""


class Worker:
    """A thread that makes calls one after another.

    Attributes:
        name: of the thread.
        made: number of calls that it has made.
        working: seconds that they took.
    """

    def __init__(self, name: str) -> None:
        self.name, self.made, self.working = name, 0, 0.0
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._calls = queue.SimpleQueue()
        self._closed = threading.Event()
        # As for a stage: the context's settings hold here too, and a call that hangs does not keep
        # the process from ending.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Item]) -> Future[Item]:
        """Make a call after those before it; the future has its result, or its exception."""
        future: Future[Item] = Future()
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        """Cancel the calls that have not begun, and end the thread."""
        self._closed.set()
        self._calls.put(None)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join(_JOIN)

    def _run(self) -> None:
        while (task := self._calls.get()) is not None:
            future, call = task
            if self._closed.is_set():
                future.cancel()
                continue
            began = time.monotonic()
            try:
                future.set_result(call())
            # Whoever waits for the result gets the error.
            except BaseException as error:
                future.set_exception(error)
            self.made += 1
            self.working += time.monotonic() - began
            del task, future, call  # they hold frames


class _Stage(Generic[Item]):
    """A thread that fills a queue, and the iterator that empties it.

    Attributes:
        name: of the stage.
        patience: see :meth:`Pipeline.stage`.
        limit: likewise.
        made: items put into the queue.
        taken: items taken from it.
        producing: seconds spent on making items, with the wait for the stage before.
        blocked: seconds that the thread waited for room in the queue.
        waited: seconds that the reader waited for an item.
    """

    def __init__(
        self, name: str, items: Iterable[Item], capacity: int, patience: float, limit: float | None
    ) -> None:
        self.name, self.patience, self.limit = name, patience, limit
        self.made = self.taken = 0
        self.producing = self.blocked = self.waited = 0.0
        self._items, self._capacity = items, capacity
        self._condition = threading.Condition()
        self._queue: deque[Item] = deque()
        self._ended = False
        self._closed_by: BaseException | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._since: float | None = None

    @property
    def waits(self) -> float:
        """Seconds that the thread has spent on the present item; 0 while it waits for others."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def read(self) -> Iterator[Item]:
        """Yield the items; starts the thread."""
        # Settings that hold for this thread's context hold for the stage's too.
        run = contextvars.copy_context().run
        # A daemon, because a thread that hangs in FFmpeg must not keep the process from ending.
        self._thread = threading.Thread(target=run, args=(self._run,), name=self.name, daemon=True)
        self._thread.start()
        while items := self._take():
            for item in items:
                self.taken += 1
                yield item
        if self._error is not None:
            raise self._error

    def close(self, reason: BaseException) -> None:
        """End the thread at its next item; a reader that waits gets ``reason``."""
        with self._condition:
            self._closed_by = self._closed_by or reason
            self._condition.notify_all()

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN)

    def _take(self) -> list[Item]:
        """Wait for items and take all that are there; none at the end."""
        began = time.monotonic()
        reader: _Stage | None = getattr(_running, "stage", None)
        if reader is not None:
            reader._since = None  # it waits, and does not work
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._ended or self._closed_by)
            if self._closed_by is not None:
                raise self._closed_by
            items = list(self._queue)
            self._queue.clear()
            self._condition.notify_all()
        now = time.monotonic()
        self.waited += now - began
        if reader is not None:
            reader._since = now
        return items

    def _run(self) -> None:
        """Fill the queue until the items end."""
        _running.stage = self
        try:
            items = iter(self._items)
            try:
                while True:
                    began = self._since = time.monotonic()
                    item = next(items, _END)
                    self.producing += time.monotonic() - began
                    self._since = None
                    if item is _END:
                        break
                    self._put(item)  # pyright: ignore[reportArgumentType]
            finally:
                # A generator must be closed by the thread that ran it.
                getattr(items, "close", lambda: None)()
        except _Cancelled:
            pass
        # Whatever ends the thread is passed on: its reader would wait for ever otherwise.
        except BaseException as error:
            self._error = error
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def _put(self, item: Item) -> None:
        """Wait for room in the queue and append an item."""
        began = time.monotonic()
        with self._condition:
            self._condition.wait_for(
                lambda: len(self._queue) < self._capacity or self._closed_by is not None
            )
            if self._closed_by is not None:
                raise _Cancelled
            self._queue.append(item)
            self.made += 1
            self._condition.notify_all()
        self.blocked += time.monotonic() - began
