# SPDX-License-Identifier: Apache-2.0
"""Where the time goes: an XLA profiler trace, and tables of its kernels and of the layers.

The trace itself can be opened in XProf or Perfetto. Kernels are found in it by the operation that
XLA launched them for, and layers by the named scopes that the compiled program kept.
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
    """One kernel of the program.

    Attributes:
        name: as the device knows it.
        scope: the named scopes it belongs to, outermost first, or "".
        milliseconds: a call.
        launches: a call.
    """

    name: str
    scope: str
    milliseconds: float
    launches: float


def profile(
    compiled: Any, run: Callable[[], Any], folder: Path, *, calls: int = 10
) -> list[Kernel]:
    """Trace ``calls`` runs of a compiled program; the kernels, the most expensive first.

    Args:
        compiled: what ``jax.jit(…).lower(…).compile()`` returned; its text holds the scopes.
        run: calls it and waits for the result.
        folder: where the trace goes.
        calls: how many runs are traced, after one that is not.
    """
    run()
    with jax.profiler.trace(str(folder)):
        for _ in range(calls):
            run()
    scopes = _scopes(compiled.as_text())
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    times: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    data = jax.profiler.ProfileData.from_file(str(newest))  # owns what its planes point into
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
    """Milliseconds a call of each scope and of what lies inside it; "" takes the rest."""
    totals = dict.fromkeys([*scopes, ""], 0.0)
    for kernel in kernels:
        inside = (scope for scope in scopes if f"/{scope}/" in f"/{kernel.scope}/")
        totals[next(inside, "")] += kernel.milliseconds
    return totals


def _scopes(text: str) -> dict[str, str]:
    """From the operations of a compiled program to the named scopes in their metadata."""
    found = re.findall(r'^\s*(?:ROOT )?%([\w.\-]+) = .*?op_name="([^"]*)"', text, re.MULTILINE)
    return {name: scope.rpartition("/")[0] for name, scope in found}
