# SPDX-License-Identifier: Apache-2.0
"""What every script shares: options become flags, mistakes become one line, work shows progress.

A script is a frozen dataclass of options and a ``main(options)``. Mistakes reach this module as
``ValueError`` or ``OSError`` whose message already says what to do; a traceback would only bury
it. Nothing heavy is imported here, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from fractions import Fraction
from types import FrameType
from typing import NoReturn, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["run", "track"]

Options = TypeVar("Options")
Item = TypeVar("Item")

_registry = tyro.constructors.ConstructorRegistry()


@_registry.primitive_rule
def _fractions(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Fractions are written such as 60, 23.976 or 60000/1001."""
    if info.type is not Fraction:
        return None

    def read(words: list[str]) -> Fraction:
        try:
            return Fraction(words[0])
        except ZeroDivisionError as error:
            raise ValueError(f"{words[0]} divides by zero") from error

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, Fraction),
        str_from_instance=lambda value: [str(value)],
    )


# Python drops an exception that is raised inside a callback of its garbage collector, and JAX has
# such callbacks. So a Ctrl-C is also noted here, where `track` finds it.
_interrupted = threading.Event()


def run(main: Callable[[Options], int | None], options_type: type[Options]) -> NoReturn:
    """Parse the command line into ``options_type``, call ``main`` with it, and exit.

    The help text comes from the docstrings of the options and their fields. Exit codes: what
    ``main`` returns (``None`` is 0); 2 for a wrong command line, ``ValueError``, ``OSError`` or a
    missing package, reported as one line on stderr; 130 for Ctrl-C. ``FLAVR_DEBUG=1`` shows the
    traceback instead.
    """
    _interrupted.clear()
    handler = signal.signal(signal.SIGINT, _interrupt)
    try:
        configuration = (tyro.conf.FlagCreatePairsOff,)
        code = main(tyro.cli(options_type, config=configuration, registry=_registry))
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr, flush=True)
        sys.stdout.flush()
        # What main opened is closed by now, but computations may still run on other threads, and
        # tearing the interpreter down under them can crash.
        os._exit(130)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("FLAVR_DEBUG") == "1":
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    finally:
        signal.signal(signal.SIGINT, handler)
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def track(
    items: Iterable[Item], total: int | None, *, unit: str = "frames", interval: float = 10.0
) -> Generator[Item, None, None]:
    """Pass ``items`` on and show on stderr how many, how fast, and the time left.

    A terminal gets a progress bar; a log file a line every ``interval`` seconds.
    """
    console = Console(stderr=True)
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[speed]:.1f}} {unit}/s "),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    start = reported = time.monotonic()
    with bar:
        task = bar.add_task("", total=total, speed=0.0)
        for count, item in enumerate(items, 1):
            yield item
            if _interrupted.is_set():
                raise KeyboardInterrupt
            now = time.monotonic()
            speed = count / max(now - start, 1e-9)
            bar.update(task, completed=count, speed=speed)
            if bar.disable and now - reported >= interval:
                reported = now
                left = f" of {total}, {max(total - count, 0) / speed:.0f} s left" if total else ""
                print(f"{count}{left}, {speed:.1f} {unit}/s", file=sys.stderr, flush=True)


def _one_line(error: Exception) -> str:
    """The message without line breaks; the system's errors as ``path: what is wrong``."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        message = f"{error.filename}: {error.strerror}."
    return " ".join(message.split()) or type(error).__name__
