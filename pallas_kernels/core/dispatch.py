# SPDX-License-Identifier: Apache-2.0
"""Choice of an implementation: the named one or an error; without a name, the first that can run.

:func:`explain` lists the choices and their reasons, for one operation or a whole network.
"""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import jax

__all__ = ["Arguments", "Candidate", "Choice", "Implementation", "call", "explain"]

Implementation: TypeAlias = Literal["mosaic_gpu", "xla", "reference"]
"""``mosaic_gpu``: Pallas kernels for Hopper GPUs; ``xla``: written for XLA's fast paths, runs on
any device; ``reference``: the definition in plain lax, which the others are tested against."""


@runtime_checkable
class Arguments(Protocol):
    """Arguments of an operation: a frozen dataclass with a field for each argument."""

    @property
    def operands(self) -> tuple[Any, Any]:
        """The first input and the kernel, arrays or trees of arrays, for :func:`explain`."""
        ...


SomeArguments = TypeVar("SomeArguments", bound=Arguments)
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Candidate(Generic[SomeArguments, Result]):
    """One implementation of an operation.

    Attributes:
        run: computes the operation.
        why_not: returns the reason why it cannot run here on these arguments, or None if it can.
        only_named: returns the reason why it is not chosen here unless it is named, or None.
    """

    run: Callable[[SomeArguments], Result]
    why_not: Callable[[SomeArguments], str | None] | None = None
    only_named: Callable[[], str | None] | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """The implementation chosen for one call of an operation.

    Attributes:
        operation: name of the operation.
        shapes: dtypes and shapes of the first input and the kernel, as text.
        implementation: the chosen implementation.
        refused: the reason why each faster one could not run.
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
    implementations: Mapping[Implementation, Candidate[SomeArguments, Result]],
    name: Implementation | None,
    arguments: SomeArguments,
) -> Result:
    """Run ``operation`` with the implementation called ``name``.

    Args:
        operation: name of the operation, for messages.
        implementations: its implementations, the fastest first.
        name: name of one of them, or None for the first that can run and need not be named.
        arguments: arguments of the call.

    Raises:
        ValueError: no implementation has that name.
        NotImplementedError: the named implementation cannot run here or on these arguments.
    """
    if name is not None and name not in implementations:
        raise ValueError(
            f"`implementation` is {name!r}, but {operation} has only "
            f"{' and '.join(implementations)}; use one of these, or None for the fastest."
        )
    # Reasons for the error message and for `explain`.
    refused: dict[Implementation, str] = {}
    names: Iterable[Implementation] = implementations if name is None else [name]
    for candidate_name in names:
        candidate = implementations[candidate_name]
        why_not = candidate.why_not(arguments) if candidate.why_not else None
        if why_not is None and name is None and candidate.only_named:
            why_not = candidate.only_named()
        if why_not is None:
            # The list exists only inside `explain`; otherwise nothing is recorded.
            choices = _choices.get()
            if choices is not None:
                shapes = _shapes(arguments.operands)
                choices.append(Choice(operation, shapes, candidate_name, refused))
            return candidate.run(arguments)
        refused[candidate_name] = why_not
    reasons = "; ".join(f"{refusing}: {why}" for refusing, why in refused.items())
    raise NotImplementedError(
        f"{operation} cannot run as asked ({reasons}). Use implementation=None for the fastest "
        "that can."
    )


def explain(function: Callable[..., object], *arguments: Any, **options: Any) -> tuple[Choice, ...]:
    """List which implementation each operation inside ``function(*arguments)`` takes, and why.

    The function is only traced: arrays may be ``jax.ShapeDtypeStruct``.
    """
    # A context variable, so that threads that trace at the same time do not mix their choices.
    token = _choices.set([])
    try:
        jax.eval_shape(lambda *arrays: function(*arrays, **options), *arguments)
        return tuple(_choices.get() or ())
    finally:
        _choices.reset(token)


def _shapes(operands: tuple[Any, Any]) -> str:
    """Dtype and shape of the first array of each operand, as text."""
    arrays = (jax.tree.leaves(operand)[0] for operand in operands)
    return " ".join(f"{array.dtype}[{','.join(map(str, array.shape))}]" for array in arrays)
