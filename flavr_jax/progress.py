# SPDX-License-Identifier: Apache-2.0
"""Messages and progress of a run: as text for people, as JSON lines for programs, or not at all."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Literal, TextIO, TypeAlias, TypeVar

from flavr_jax import cli
from flavr_jax.terminal import printable

__all__ = ["Mode", "Reporter"]

Item = TypeVar("Item")
Mode: TypeAlias = Literal["text", "json", "quiet"]
_INTERVAL = 0.5  # seconds between two events of progress


class Reporter:
    """Where a run's messages go.

    In the mode ``json``, every line is an object with the key ``event``. In the mode ``quiet``
    nothing is shown; warnings and errors go to stderr in every mode.
    """

    def __init__(self, mode: Mode = "text", output: TextIO | None = None) -> None:
        """Write to ``output``, or to ``sys.stdout`` if that is None."""
        self.mode: Mode = mode
        self._output = output

    def say(self, text: str) -> None:
        """Show a line of text to people."""
        if self.mode == "text":
            print(printable(text), file=self._output or sys.stdout, flush=True)

    def tell(self, event: str, **values: Any) -> None:
        """Tell a program about an event; ``values`` must be plain JSON values."""
        if self.mode == "json":
            line = json.dumps({"event": event, **values}, ensure_ascii=False)
            # In one piece, because a warning may come from another thread.
            print(f"{line}\n", end="", file=self._output or sys.stdout, flush=True)

    def warn(self, text: str) -> None:
        """Show a warning on stderr, and tell programs about it."""
        print(f"warning: {printable(text)}", file=sys.stderr)
        self.tell("warning", message=text)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, tell programs about warnings that this package logs."""
        told = _Told(self)
        logger = logging.getLogger("flavr_jax")
        logger.addHandler(told)
        try:
            yield
        finally:
            logger.removeHandler(told)

    def track(
        self, items: Iterable[Item], total: int | None, *, before_first: str = ""
    ) -> Generator[Item, None, None]:
        """Yield ``items``, and show how many are done, how fast, and the time left."""
        last = -_INTERVAL

        def report(done: int, speed: float | None) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < _INTERVAL and done != total:
                return
            last = now
            left = None if total is None or not speed else max(total - done, 0) / speed
            self.tell("progress", done=done, total=total, per_second=speed, seconds_left=left)

        yield from cli.track(
            items,
            total,
            before_first=before_first if self.mode == "text" else "",
            report=None if self.mode == "text" else report,
        )


class _Told(logging.Handler):
    """Turns logged warnings into events."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.WARNING)
        self._reporter = reporter
        self.addFilter(cli.Once())

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.tell("warning", message=printable(record.getMessage()))
