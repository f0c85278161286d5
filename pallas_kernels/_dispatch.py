# SPDX-License-Identifier: Apache-2.0
"""How a call finds its implementation: a name is that one or an error, None is the fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

__all__ = ["Implementation", "Implementations", "choose"]

Implementation: TypeAlias = Literal["xla", "reference"]
"""``xla``: formulated for XLA's fast paths; ``reference``: the definition, one lax call each."""

Implementations: TypeAlias = Mapping[Implementation, Callable[..., Any]]
"""An operation's implementations, the fastest first."""


def choose(
    operation: str,
    implementations: Implementations,
    name: Implementation | None,
) -> Callable[..., Any]:
    """The implementation called ``name``; None takes the first, the fastest.

    Raises:
        ValueError: no implementation of ``operation`` has that name.
    """
    if name is None:
        return next(iter(implementations.values()))
    if name not in implementations:
        raise ValueError(
            f"`implementation` is {name!r}, but {operation} has {', '.join(implementations)}; "
            "use one of these or None."
        )
    return implementations[name]
