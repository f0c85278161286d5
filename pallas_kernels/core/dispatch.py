# SPDX-License-Identifier: Apache-2.0
"""How a call finds its implementation: a name is that one or an error, None the first that works.

:func:`explain` tells what the choice was and why, for one operation or a whole network.
"""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import jax

__all__ = ["Candidate", "Choice", "Implementation", "Implementations", "call", "explain"]

Implementation: TypeAlias = Literal["mosaic_gpu", "xla", "reference"]
"""``mosaic_gpu``: Pallas kernels for Hopper GPUs; ``xla``: formulated for XLA's fast paths, runs
everywhere; ``reference``: the definition, one lax call each."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One implementation of an operation.

    Attributes:
        run: takes the operation's arguments in its own order.
        why_not: of the same arguments; why it cannot run them, or None if it can.
    """

    run: Callable[..., Any]
    why_not: Callable[..., str | None] | None = None


Implementations: TypeAlias = Mapping[Implementation, Candidate]
"""An operation's implementations, the fastest first."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What one call of an operation ran on.

    Attributes:
        operation: its name.
        shapes: of the first input and the kernel, in short.
        implementation: what was chosen.
        refused: why each faster one was not.
    """

    operation: str
    shapes: str
    implementation: Implementation
    refused: dict[Implementation, str]

    def __str__(self) -> str:
        reasons = "".join(f"; not {name}: {why}" for name, why in self.refused.items())
        return f"{self.operation} {self.shapes}: {self.implementation}{reasons}"


_choices: contextvars.ContextVar[list[Choice] | None] = contextvars.ContextVar(
    "choices", default=None
)


def call(
    operation: str,
    implementations: Implementations,
    name: Implementation | None,
    *arguments: Any,
) -> Any:
    """Run ``operation`` on ``arguments`` with the implementation called ``name``.

    Raises:
        ValueError: no implementation has that name.
        NotImplementedError: it has, but cannot run here or on these arguments.
    """
    if name is not None and name not in implementations:
        raise ValueError(
            f"`implementation` is {name!r}, but {operation} has {', '.join(implementations)}; "
            "use one of these or None."
        )
    refused: dict[Implementation, str] = {}
    names: Iterable[Implementation] = implementations if name is None else [name]
    for candidate_name in names:
        candidate = implementations[candidate_name]
        why_not = candidate.why_not(*arguments) if candidate.why_not else None
        if why_not is None:
            choices = _choices.get()
            if choices is not None:
                choices.append(Choice(operation, _shapes(arguments), candidate_name, refused))
            return candidate.run(*arguments)
        refused[candidate_name] = why_not
    reasons = "; ".join(f"{refusing}: {why}" for refusing, why in refused.items())
    raise NotImplementedError(
        f"{operation} cannot run as asked ({reasons}). Use implementation=None for the fastest "
        "that can."
    )


def explain(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Choice, ...]:
    """Which implementation each operation inside ``function(*arguments)`` takes here, and why.

    Nothing is computed; arrays may be ``jax.ShapeDtypeStruct``.
    """
    token = _choices.set([])
    try:
        jax.eval_shape(lambda *arrays: function(*arrays, **options), *arguments)
        return tuple(_choices.get() or ())
    finally:
        _choices.reset(token)


def _shapes(arguments: tuple[Any, ...]) -> str:
    """Of the first input and of the kernel."""
    first, kernel, *_ = (jax.tree.leaves(argument)[0] for argument in arguments[:2])
    return " ".join(
        f"{array.dtype}[{','.join(map(str, array.shape))}]" for array in (first, kernel)
    )
