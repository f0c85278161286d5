# SPDX-License-Identifier: Apache-2.0
"""Command-line programs: options as flags, user errors as one line, progress on stderr.

A script is a frozen dataclass of options and a ``main(options)``. User errors reach this module as
``ValueError`` or ``OSError`` whose message already says what to do; a traceback would only bury
it. Nothing heavy is imported here, to keep ``--help`` quick.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar, Union

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from flavr_jax.extras import install_command
from flavr_jax.terminal import harmless_outputs, lasting_outputs, printable

__all__ = [
    "Once",
    "explanation",
    "print_completion",
    "run",
    "show_logs",
    "track",
]

Options = TypeVar("Options")
Item = TypeVar("Item")

GPU_DEVICE = Path("/dev/nvidia0")  # created by NVIDIA's driver on Linux

_registry = tyro.constructors.ConstructorRegistry()
_MARKERS = (tyro.conf.FlagCreatePairsOff,)


@_registry.primitive_rule
def _fractions(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Return how tyro reads and shows a Fraction (60, 23.976, 60000/1001); None for other types."""
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


# Python drops an exception that is raised inside a callback of its garbage collector, and JAX
# registers such callbacks. The signal that stops a run is therefore also recorded here, where
# `track` checks it.
_stopped_by: list[int] = []

# All in seconds. An item with a shorter wait was computed in the same batch as the one before.
_SAME_BATCH = 0.05
# A speed is shown only after it was measured for this long.
_LEAST_TIME = 2.0
# Speed is measured over this time; a longer one would be slow to follow a change.
_REMEMBERED = 30.0


def run(main: Callable[[Options], int | None], options_type: type[Options]) -> NoReturn:
    """Parse the command line into ``options_type``, call ``main`` with it, and exit.

    The help text comes from the docstrings of the options and their fields. The exit code is
    ``main``'s return value (``None`` is 0); 2 for a wrong command line, ``ValueError``,
    ``OSError``, a missing package, a kernel that cannot run here or too little memory, each
    reported as one line on stderr; 130 for Ctrl-C and 143 for SIGTERM, which both remove partial
    outputs. ``FLAVR_DEBUG=1`` shows the traceback instead of the line. Logged warnings are shown
    on stderr, unless ``main`` sets up logging itself.
    """
    _stopped_by.clear()
    show_logs()
    stops = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, _interrupt) for number in stops]
    try:
        with lasting_outputs():
            with harmless_outputs():
                options = tyro.cli(options_type, config=_MARKERS, registry=_registry)
            if hint := _unused_gpu():
                print(f"warning: {hint}", file=sys.stderr)
            code = main(options)
    except KeyboardInterrupt as error:
        _leave(error)
    except Exception as error:
        if _stopped_by:
            _leave(error)  # libraries that are being imported turn an interrupt into ImportError
        message = explanation(error)
        if message is None or os.environ.get("FLAVR_DEBUG") == "1":
            raise
        with lasting_outputs():
            print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    finally:
        for number, handler in zip(stops, handlers):
            signal.signal(number, handler)
    sys.exit(code)


def _leave(error: BaseException) -> NoReturn:
    """Say that the run was interrupted, and exit."""
    with lasting_outputs():
        print(" ".join(["interrupted.", *_notes(error)]), file=sys.stderr)
    # Files that main opened are closed by now, but computations may still run on other threads,
    # and shutting the interpreter down under them can crash.
    os._exit(128 + (_stopped_by[0] if _stopped_by else signal.SIGINT))


class _Log(logging.Handler):
    """Shows logged messages on stderr, like warnings and errors of the program itself."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Line())
        self.addFilter(Once())

    def emit(self, record: logging.LogRecord) -> None:
        # Looked up now, because a progress bar replaces sys.stderr. In one piece, because other
        # threads write too.
        print(f"{self.format(record)}\n", end="", file=sys.stderr)


class Once(logging.Filter):
    """Lets each warning pass once, because a run may open a file several times."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for a warning that has passed; errors may repeat."""
        message = record.getMessage()
        new = message not in self._seen
        self._seen.add(message)
        return new or record.levelno != logging.WARNING


class _Line(logging.Formatter):
    """Formats a message as one line without control characters, and its traceback below."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {printable(record.message)}"


def show_logs() -> None:
    """Show logged warnings on stderr, unless logging is set up; call it before JAX is imported.

    Libraries that find no handler add one that shows names of modules and does not escape messages.
    """
    logging.basicConfig(handlers=[_Log()])


def explanation(error: Exception) -> str | None:
    """Return an error's message as one line; None if it is no error of the user but a bug."""
    return _one_line(error) if _is_users(error) else None


def print_completion(program: str, subcommands: Mapping[str, type], shell: str) -> NoReturn:
    """Print the script by which a shell completes a program's subcommands and options, and exit.

    Args:
        program: name of the program.
        subcommands: the options of each subcommand, by its name.
        shell: ``bash``, ``zsh``, ``fish`` or ``tcsh``.
    """
    kinds = tuple(
        Annotated[options, tyro.conf.subcommand(name)] for name, options in subcommands.items()
    )
    any_of_them: Any = Union[kinds]  # noqa: UP007 - built at run time
    tyro.cli(
        any_of_them,
        prog=program,
        args=["--tyro-print-completion", shell],
        config=_MARKERS,
        registry=_registry,
    )
    sys.exit(0)


def _is_users(error: Exception) -> bool:
    """Return whether an error is about a file, an option or the machine, and so no bug of ours."""
    if isinstance(error, ValueError | OSError | ModuleNotFoundError | MemoryError):
        return True
    if isinstance(error, NotImplementedError) and error.args:
        return True  # a kernel that cannot run on this machine; without a message, a gap of ours
    # PyAV derives only some of FFmpeg's errors from ValueError or OSError. PyAV is not imported
    # here, because --help must be quick; while it is not loaded, it cannot have raised an error.
    av = sys.modules.get("av")
    return av is not None and isinstance(error, av.FFmpegError)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _stopped_by.append(number)
    raise KeyboardInterrupt(number)


def _unused_gpu() -> str | None:
    """Return a warning if the machine has an NVIDIA GPU that the installed JAX cannot use."""
    if not GPU_DEVICE.exists():
        return None
    if os.environ.get("JAX_PLATFORMS", "").lower() not in ("", "cuda", "gpu"):
        return None  # the user chose another device
    plugins = ("xla_cuda12", "xla_cuda13")
    if importlib.util.find_spec("jax_plugins") is not None and any(
        importlib.util.find_spec(f"jax_plugins.{plugin}") is not None for plugin in plugins
    ):
        return None
    return (
        "this machine has an NVIDIA GPU, but JAX is installed without CUDA and will compute on the "
        f"CPU. Run {install_command('cuda12')} (or cuda13), or set JAX_PLATFORMS=cpu."
    )


def track(
    items: Iterable[Item],
    total: int | None,
    *,
    unit: str = "frames",
    interval: float = 10.0,
    before_first: str = "",
    report: Callable[[int, float | None], None] | None = None,
) -> Generator[Item, None, None]:
    """Yield ``items``, and show on stderr how many are done, how fast, and the time left.

    A terminal gets a progress bar; a log file gets a line every ``interval`` seconds after the
    first item.

    Args:
        items: the items to yield.
        total: how many there will be, if known.
        unit: what an item is called, in the plural.
        interval: seconds between lines of a log.
        before_first: what happens before the first item arrives, such as compiling; that time is
            left out of the speed.
        report: called after every item with the number of items done and the items per second,
            None while that is unknown; nothing is shown then.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[pace]}}"),
        console=console,
        disable=not console.is_terminal or report is not None,
    )
    if bar.disable and before_first:
        print(f"{before_first} …", file=sys.stderr, flush=True)
    pace = _Pace(time.monotonic())
    reported = -math.inf if interval == 0 else None
    with bar:
        task = bar.add_task(before_first, total=total, pace="")
        for count, item in enumerate(items, 1):
            pace.arrived(count, time.monotonic())
            yield item
            if _stopped_by:
                raise KeyboardInterrupt(_stopped_by[0])
            now = time.monotonic()
            speed = pace.speed(count, now)
            left = f"{max(total - count, 0) / speed:.0f} s left" if total else ""
            shown = f"{speed:.1f} {unit}/s  {left}" if pace.known else ""
            bar.update(task, completed=count, description="", pace=shown)
            if report is not None:
                report(count, speed if pace.known else None)
                continue
            reported = now if reported is None else reported
            if bar.disable and now - reported >= interval:
                reported = now
                of_total = f" of {total}, {left}" if total else ""
                print(f"{count}{of_total}, {speed:.1f} {unit}/s", file=sys.stderr, flush=True)


class _Pace:
    """Items per second over the last half minute, without the wait for the first item.

    The first item waits for compilation, which says nothing about the others. A network returns
    several frames at once, so time is measured from the beginning of one batch to that of another.

    Attributes:
        known: False until the speed was measured for long enough to show it.
    """

    def __init__(self, start: float) -> None:
        self.known = False
        self._start = self._asked = start
        self._batches: deque[tuple[float, int]] = deque()  # start time, number of items before

    def arrived(self, count: int, now: float) -> None:
        """Record that item number ``count`` arrived; ``speed`` was called when it was requested."""
        waited = now - self._asked
        if not self._batches or waited > _SAME_BATCH or now - self._batches[-1][0] > _LEAST_TIME:
            self._batches.append((now, count - 1))
        while len(self._batches) > 2 and now - self._batches[1][0] > _REMEMBERED:
            self._batches.popleft()

    def speed(self, count: int, now: float) -> float:
        """Return the items per second when ``count`` items are done and the next is asked for."""
        self._asked = now
        (began, before), (last, until) = self._batches[0], self._batches[-1]
        self.known = last - began >= _LEAST_TIME
        if not self.known:
            return count / max(now - self._start, 1e-9)
        return (until - before) / (last - began)


def _one_line(error: Exception) -> str:
    """Return an error's message as one short line; system errors as ``path: reason``."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        name = str(error.filename).removeprefix("file:")  # as FFmpeg was given it
        message = f"{name}: {error.strerror}."
    if isinstance(error, MemoryError):
        message = f"not enough memory ({message or 'no details'}). Use a smaller input."
    return printable(" ".join([message or type(error).__name__, *_notes(error)]))


def _notes(error: BaseException) -> list[str]:
    """Return what was added to an error with ``add_note``, without JAX's and grain's own notes."""
    notes: list[str] = getattr(error, "__notes__", [])
    return [note for note in notes if "internal frames from the traceback" not in note]
