# SPDX-License-Identifier: Apache-2.0
"""Profiles of a compiled program: an XLA trace, and the times of its kernels and layers.

The trace can be opened in XProf or Perfetto. Each event names the operation for which XLA launched
it. The text of the compiled program gives the named scope of each operation, and so its layer.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

__all__ = ["Kernel", "by_scope", "profile"]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Time of one kernel of a program.

    Attributes:
        name: name on the device.
        scope: named scopes that contain it, outermost first, or "".
        milliseconds: time per call of the program.
        launches: launches per call of the program.
    """

    name: str
    scope: str
    milliseconds: float
    launches: float


def profile(
    compiled: Any, run: Callable[[], Any], folder: Path, *, calls: int = 10
) -> list[Kernel]:
    """Trace a compiled program, and return its kernels, the most expensive first.

    Args:
        compiled: the result of ``jax.jit(…).lower(…).compile()``; its text holds the scopes.
        run: calls the program and waits for the result.
        folder: folder for the trace.
        calls: number of traced calls, after one that is not traced.
    """
    run()
    with jax.profiler.trace(str(folder)):
        for _ in range(calls):
            run()
    scopes = _scopes(compiled.as_text())
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    times: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    # The planes point into this object, so it must stay alive while they are used.
    data = jax.profiler.ProfileData.from_file(str(newest))
    # Kernels of a GPU are on the planes of its devices, those of a CPU on the host's planes.
    for plane in data.planes:
        if "/device:" not in plane.name and jax.default_backend() != "cpu":
            continue
        for line in plane.lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation is not None:
                    scope = scopes.get(str(operation).lstrip("%"), "")
                    times[event.name, scope].append(event.duration_ns / 1e6)
    kernels = [
        Kernel(name, scope, sum(durations) / calls, len(durations) / calls)
        for (name, scope), durations in times.items()
    ]
    return sorted(kernels, key=lambda kernel: -kernel.milliseconds)


def by_scope(kernels: list[Kernel], scopes: list[str]) -> dict[str, float]:
    """Sum the milliseconds per call of each scope and all scopes inside it; "" is the rest."""
    totals = dict.fromkeys([*scopes, ""], 0.0)
    for kernel in kernels:
        inside = (scope for scope in scopes if f"/{scope}/" in f"/{kernel.scope}/")
        totals[next(inside, "")] += kernel.milliseconds
    return totals


def _scopes(text: str) -> dict[str, str]:
    """Map the operations of a compiled program to the named scopes in their metadata."""
    found = re.findall(r'^\s*(?:ROOT )?%([\w.\-]+) = .*?op_name="([^"]*)"', text, re.MULTILINE)
    return {name: scope.rpartition("/")[0] for name, scope in found}
