# SPDX-License-Identifier: Apache-2.0
"""Damage small videos, images and weights at random, and check that the programs cope.

python scripts/fuzz.py                            for a minute, from a random seed that is printed
python scripts/fuzz.py --seed 7 --seconds 3600    for an hour, with the same cases in every run
python scripts/fuzz.py --seed 7 --first 123 --count 1 --keep /tmp/bad    repeat one case

A case passes if the program

- ends by itself within the limits of time and memory,
- with exit code 0, 1 or 2 and without a traceback,
- prints no overlong message and no terminal escape,
- leaves its input unchanged, and writes nothing outside the folder of its output.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import resource
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_inputs import Program, make_originals

from flavr_jax import cli
from flavr_jax.terminal import MESSAGE_LIMIT

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)


@dataclasses.dataclass(frozen=True)
class Options:
    """Run the reader, the converter and the command lines on damaged files."""

    seed: int | None = None
    """Seed of the damage; by default a random one, which is printed."""
    seconds: float = 60.0
    """Time in seconds after which no new case begins."""
    first: int = 0
    """Number of the first case; use it to repeat a case that failed."""
    count: int | None = None
    """Number of cases; by default as many as the time allows."""
    limit: float = 30.0
    """Most seconds that a case may take."""
    memory: float = 1.5
    """Most memory in gigabytes that a case may take."""
    keep: Path | None = None
    """Folder that receives the files of each case that fails."""


def main(options: Options) -> int:
    """Run cases until the time is up; return 1 if any of them failed, otherwise 0."""
    if not hasattr(os, "fork"):
        raise ValueError("each case runs in a forked process, which this system lacks; use Linux.")
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    results: Counter[str] = Counter()
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        originals = make_originals(Path(folder) / "originals")
        check_undamaged(Path(folder) / "case", originals, options)
        number = options.first
        while time.monotonic() < end and number - options.first != options.count:
            name = sorted(originals)[number % len(originals)]
            case = Path(folder) / "case"
            faults = run_case(case, originals[name], random.Random(f"{seed} {number}"), options)
            for fault in faults:
                print(f"FAIL case {number} ({name}): {fault}", flush=True)
            if faults and options.keep is not None:
                shutil.copytree(case, options.keep / f"{seed}-{number}", symlinks=True)
            results["failed" if faults else "passed"] += 1
            shutil.rmtree(case)
            number += 1
    print(f"{results['passed']} cases passed, {results['failed']} failed")
    return int(results["failed"] > 0)


def check_undamaged(
    case: Path, originals: dict[str, tuple[Path, Program]], options: Options
) -> None:
    """Raise an error unless every program succeeds on its undamaged file."""
    for name, (source, program) in originals.items():
        path = copied(source, case)
        code, faults = supervised(lambda: program(path, case / "output"), case, options)  # noqa: B023
        if code != 0 or faults or not (any((case / "output").iterdir()) or name == "checkpoint"):
            text = (case / "messages").read_text()
            raise ValueError(f"{name} fails without any damage: {faults or code}, {text!r}.")
        shutil.rmtree(case)


def copied(source: Path, case: Path) -> Path:
    """Copy a file or folder into a new folder that also has an empty one for the output."""
    case.mkdir()
    (case / "output").mkdir()
    if source.is_dir():
        return Path(shutil.copytree(source, case / source.name))
    return Path(shutil.copyfile(source, case / source.name))


def run_case(
    case: Path, original: tuple[Path, Program], generator: random.Random, options: Options
) -> list[str]:
    """Damage a copy of one file, run its program on it, and return its faults in words."""
    source, program = original
    path = copied(source, case)
    files = sorted(
        file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()
    )
    for file in generator.sample(files, min(len(files), generator.choice((1, 1, 2)))):
        file.write_bytes(damaged(file.read_bytes(), generator))
    before = content(case)
    _, faults = supervised(lambda: program(path, case / "output"), case, options)
    after = content(case)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            faults.append(f"{name} was changed, made or removed")
    return faults


def damaged(data: bytes, generator: random.Random) -> bytes:
    """Change bytes; cut, repeat or drop pieces; or write numbers at the limits of integer types."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        # Headers matter most, so half of the damage is done to the first kilobyte.
        at = generator.randrange(
            max(1, min(len(changed), generator.choice((1024, len(changed) or 1))))
        )
        size = generator.choice((1, 2, 4, 8, 64, 1024))
        match generator.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([generator.randrange(256)])
            case 1:
                changed[at:] = b""
            case 2:
                changed[at : at + size] = b""
            case 3:
                changed[at:at] = changed[at : at + size]
            case 4:
                changed[at : at + size] = generator.randbytes(size)
            case _:
                number = generator.choice(NUMBERS)
                width = max(1, (number.bit_length() + 7) // 8)
                order = generator.choice(("little", "big"))
                changed[at : at + width] = number.to_bytes(width, order)
    return bytes(changed)


def content(case: Path) -> dict[str, str]:
    """Return the digest of each file that a program must not touch, by name."""
    kept = [path for path in case.rglob("*") if path.is_file() and path.name != "messages"]
    return {
        str(path.relative_to(case)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in kept
        if case / "output" not in path.parents
    }


def supervised(program: Callable[[], None], case: Path, options: Options) -> tuple[int, list[str]]:
    """Run a program in a forked process with limits; return its exit code and its faults."""
    messages = case / "messages"
    child = os.fork()
    if child == 0:
        run_and_exit(program, messages, case, options)
    start, peak, late = time.monotonic(), 0.0, False
    while (ended := os.wait4(child, os.WNOHANG))[0] == 0:
        peak = max(peak, resident(child))
        if time.monotonic() - start > options.limit or peak > options.memory:
            late = True
            os.kill(child, signal.SIGKILL)
            ended = os.wait4(child, 0)
            break
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(ended[1])
    text = messages.read_text(errors="replace") if messages.exists() else ""
    faults = []
    if late:
        faults.append(f"killed after {time.monotonic() - start:.0f} s with {peak:.2f} GB")
    elif code not in (0, 1, 2):
        faults.append(f"exit code {code}: {text.strip()[-300:]}")
    if "Traceback" in text or "Fatal Python" in text:
        faults.append(f"a traceback: {text.strip().splitlines()[-1][:300]}")
    if len(text) > 2 * MESSAGE_LIMIT or "\x1b" in text:
        faults.append(f"{len(text)} characters of messages, or terminal escapes among them")
    return code, faults


def run_and_exit(program: Callable[[], None], messages: Path, case: Path, options: Options) -> None:
    """Run a program inside the forked process, which it ends without returning to the caller.

    Its exit code is that of the program, or 1 after an unexpected error.
    """
    code: Any = 3
    try:
        for descriptor, path in ((0, os.devnull), (1, os.devnull), (2, messages)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), descriptor)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(case / "output")
        # The supervisor samples memory and can miss a single huge allocation; this limit refuses it
        # at once.
        size = int(4e9 + 1e9 * options.memory)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
        seconds = int(2 * options.limit)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        program()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def resident(process: int) -> float:
    """Return the resident memory of a process in gigabytes, or 0 if the system does not tell."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * resource.getpagesize() / 1e9


if __name__ == "__main__":
    cli.run(main, Options)
