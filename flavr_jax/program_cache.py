# SPDX-License-Identifier: Apache-2.0
"""Compiled programs, kept between runs.

Compiling the network takes seconds to minutes, and longer than that for its gradient on a CPU. With
JAX's compilation cache, only the first run pays: a training that is resumed loads the step that was
compiled when it began.

JAX's cache still traces and lowers a program to find out which one it is, which takes many seconds
for the GPU kernels of a network. ``compiled`` therefore keeps whole programs too, by what they
depend on: arguments, versions, device, and the source code that they are made from.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import pickle
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from flavr_jax.kernel_compilation import compile_kernels

__all__ = ["compile_lowered", "compiled", "enable", "remembered", "usual_seconds"]

logger = logging.getLogger(__name__)

_TIMES = "seconds.json"
_REMEMBERED = 5  # times of compilation, for the estimate of the next
_changing = threading.Lock()
_outside, _least_seconds = 0, 0.0  # threads outside of JAX's cache, and its setting before


def enable() -> None:
    """Keep compiled programs under ``~/.cache/flavr_jax``, unless the user chose a folder.

    The user's choice is ``JAX_COMPILATION_CACHE_DIR``; ``XDG_CACHE_HOME`` takes the place of
    ``~/.cache``. Without either, a user without a home directory has no cache.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    root = os.environ.get("XDG_CACHE_HOME")
    if not root:
        try:
            root = Path.home() / ".cache"
        except RuntimeError:  # neither HOME nor an entry in the password database
            return
    jax.config.update("jax_compilation_cache_dir", str(Path(root) / "flavr_jax" / "compiled"))


def compiled(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    name: str,
    sources: Iterable[Path],
    on_compile: Callable[[float | None], None] | None = None,
    lowering: contextlib.AbstractContextManager[Any] | None = None,
) -> Callable[..., Any]:
    """Return a function compiled for arguments like these: kept from an earlier run, or now.

    Whatever else the function depends on has to be in ``name``.

    Args:
        function: takes ``arguments``, trees of arrays, and returns a tree; may be jitted or mapped.
        arguments: as the program will be called with, all on one device.
        name: tells it from other functions, and from itself with other settings.
        sources: folders of source code and data that the program is made from.
        on_compile: called before it is compiled, with the usual number of seconds if that is known.
            Programs without it are small, and do not count for the usual number.
        lowering: entered while the function is traced and lowered, which takes all of Python's
            time; such as a lock that threads for several devices share. They compile in parallel.
    """
    device = next(iter(jax.tree.leaves(arguments)[0].devices()))
    path = _path(name, arguments, device, tuple(sources))
    if path is not None and (found := _read(path, arguments, device)) is not None:
        return found
    if on_compile is not None:
        on_compile(usual_seconds(device))
    began = time.monotonic()
    with lowering or contextlib.nullcontext():
        lowered = getattr(function, "lower", jax.jit(function).lower)(*arguments)
    with _outside_of_jax_cache() if path is not None else contextlib.nullcontext():
        program = compile_lowered(lowered, device)
    if path is None:
        return program
    seconds = None if on_compile is None else time.monotonic() - began
    _write(path, program, device, seconds)
    return program


def compile_lowered(lowered: jax.stages.Lowered, device: Any) -> jax.stages.Compiled:
    """Compile a lowered program for a device; the kernels of a GPU are compiled in parallel."""
    if device.platform == "gpu":
        compile_kernels(lowered, device)
    return lowered.compile()


def remembered(compute: Callable[[], Any], *, name: str, sources: Iterable[Path]) -> Any:
    """Return ``compute()``, or what it returned in an earlier run on this kind of device.

    Args:
        compute: returns a plain JSON value; called if there is none of an earlier run.
        name: tells the value from others, and from itself with other settings.
        sources: folders of source code and data that it depends on.
    """
    path = _path(name, (), jax.local_devices()[0], tuple(sources))
    if path is None:
        return compute()
    path = path.with_suffix(".json")
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        value = compute()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps(value).encode())
    return value


@contextlib.contextmanager
def _outside_of_jax_cache() -> Iterator[None]:
    """Keep programs that are compiled inside out of JAX's cache.

    XLA cannot store a program for the CPU a second time once it comes from a cache: functions are
    missing when it is run (jax 0.12).
    """
    global _outside, _least_seconds
    setting = "jax_persistent_cache_min_compile_time_secs"
    # Other threads may compile, too; the setting holds for all.
    with _changing:
        if not _outside:
            _least_seconds = getattr(jax.config, setting)
            jax.config.update(setting, math.inf)
        _outside += 1
    try:
        yield
    finally:
        with _changing:
            _outside -= 1
            if not _outside:
                jax.config.update(setting, _least_seconds)


def usual_seconds(device: jax.Device) -> float | None:  # pyright: ignore[reportInvalidTypeForm]
    """Return how long programs took to compile for such a device; None if none was compiled."""
    folder = _folder()
    times = _times(folder).get(device.device_kind, []) if folder is not None else []
    return statistics.median(times) if times else None


def _folder() -> Path | None:
    """Return the folder of whole programs; None if the user has no cache."""
    cache = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    # The cache may also be a bucket, such as gs://…, which only JAX's own cache can use.
    return None if not cache or "://" in cache else Path(cache) / "whole"


def _path(name: str, arguments: Any, device: Any, sources: tuple[Path, ...]) -> Path | None:
    """Return the file of a program, whose name is a hash of all that it depends on."""
    folder = _folder()
    if folder is None:
        return None
    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments)]
    facts = [
        name, shapes, str(jax.tree.structure(arguments)), device.device_kind, device.id,
        device.client.platform_version, _host() if device.platform == "cpu" else "",
        jax.__version__, sys.version_info[:2], os.environ.get("XLA_FLAGS", ""),
        str(jax.config.jax_default_matmul_precision),  # pyright: ignore[reportAttributeAccessIssue]
        _digest(sources),
    ]  # fmt: skip
    return folder / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.program"


@functools.cache
def _digest(sources: tuple[Path, ...]) -> str:
    """Return a hash of the source code and data in folders."""
    total = hashlib.sha256()
    for source in sources:
        for file in sorted(source.rglob("*")):
            if file.suffix in (".py", ".json", ".txtpb"):
                total.update(str(file.relative_to(source)).encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


@functools.cache
def _host() -> str:
    """Return what programs for the CPU depend on: its instructions and the number of its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{flags} {os.cpu_count()}"


def _read(path: Path, arguments: tuple[Any, ...], device: Any) -> Callable[..., Any] | None:
    """Load a program; None if there is none that can be used."""
    try:
        # Loading a program means trusting it, so it has to be the user's own.
        if hasattr(os, "getuid") and path.stat().st_uid not in (os.getuid(), 0):
            return None
        length, _, data = path.read_bytes().partition(b"\n")
        in_tree = jax.tree.structure((arguments, {}))
        out_tree = pickle.loads(data[: int(length)])
        return serialize_executable.deserialize_and_load(
            data[int(length) :], in_tree, out_tree, device.client, [device]
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged, or of a driver or a processor that is not here any more
        logger.debug("%s is compiled again: %r", path, error)
        return None


def _write(path: Path, program: Any, device: Any, seconds: float | None) -> None:
    """Keep a program, and the time that it took if any is given.

    A cache that cannot be written is no error.
    """
    try:
        data, _, out_tree = serialize_executable.serialize(program)
        path.parent.mkdir(parents=True, exist_ok=True)
        tree = pickle.dumps(out_tree)
        _replace(path, b"%d\n" % len(tree) + tree + data)
        if seconds is None:
            return
        times = _times(path.parent)
        kind = device.device_kind
        times[kind] = [*times.get(kind, []), round(seconds, 1)][-_REMEMBERED:]
        _replace(path.parent / _TIMES, json.dumps(times).encode())
    except Exception as error:  # some programs cannot be stored, or the disk is full
        logger.debug("%s is not kept: %r", path, error)


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that no other process sees a part of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _times(folder: Path) -> dict[str, list[float]]:
    try:
        return json.loads((folder / _TIMES).read_text())
    except (OSError, ValueError):
        return {}
