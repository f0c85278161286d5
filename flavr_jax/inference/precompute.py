# SPDX-License-Identifier: Apache-2.0
"""Split a program into what depends on the weights alone, and the rest.

A network's program rearranges weights: it transposes them for the tensor cores, fills their
channels with zeros, and stacks scales and offsets. On a GPU, each of these is a kernel that runs in
every call, although its result is always the same. :func:`split` moves them to a program of their
own, which runs once for each set of weights.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import jax
from jax import Array
from jax.extend import core as jax_core

__all__ = ["Halves", "Made", "joined", "split", "unsplit"]

Made: TypeAlias = dict[tuple[int, int], Array | None]
"""The output of the first half: arrays by their place among the second half's arguments, and −1.

A weight that needs no preparation has its index instead of −1, and None instead of an array. Keys
are part of the tree's structure, so a compiled program returns them too.
"""

core: Any = jax_core  # only parts of it have types
_Jaxpr: TypeAlias = Any  # a closed one
_Atom: TypeAlias = Any  # a variable or a literal of a jaxpr
_Equation: TypeAlias = Any
# Ahead: once for each set of weights. View: likewise, but at no cost. Anytime: depends on no
# argument. Late: in every call.
_When: TypeAlias = Literal["ahead", "view", "anytime", "late"]

_VIEWS = {"reshape", "squeeze", "expand_dims", "broadcast_in_dim"}  # if they keep the size
_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}

# An array of more than _SMALL bytes that is more than _GROWTH times as large as its inputs is made
# in every call, because reading it from memory would take longer than making it.
_SMALL, _GROWTH = 2**16, 4


@dataclasses.dataclass(frozen=True)
class Halves:
    """Two functions that together compute one of weights and other arguments, without a gradient.

    ``run(joined(prepare(weights), weights), *others)`` is what the whole function returns.

    Attributes:
        prepare: takes the weights; see :func:`joined` for what it returns.
        run: takes the list of arrays from :func:`joined`, and the other arguments.
        compiled: whether ``prepare`` computes anything, so that it should be compiled.
    """

    prepare: Callable[[Any], Made]
    run: Callable[..., Any]
    compiled: bool = True


def split(function: Callable[..., Any], weights: Any, *others: Any) -> Halves:
    """Split ``function(weights, *others)``, which is traced when a half is called.

    Args:
        function: takes and returns trees of arrays.
        weights: as the function will be called with; shapes and dtypes are enough.
        others: its other arguments, likewise.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (weights, *others))
    parts = functools.cache(lambda: _split(function, *shapes))

    def prepare(weights: Any) -> Made:
        places, first, _, _ = parts()
        made = iter(core.jaxpr_as_fun(first)(*jax.tree.leaves(weights)))
        return {place: next(made) if place[1] < 0 else None for place in places}

    def run(prepared: list[Array], *others: Any) -> Any:
        _, _, second, results = parts()
        found = core.jaxpr_as_fun(second)(*prepared, *jax.tree.leaves(others))
        return jax.tree.unflatten(results, found)

    return Halves(prepare, run)


def unsplit(function: Callable[..., Any], weights: Any) -> Halves:
    """Leave ``function(weights, *others)`` whole, as the second half; the first does nothing."""
    leaves, tree = jax.tree.flatten(weights)
    count = len(leaves)

    def prepare(_: Any) -> Made:
        return dict.fromkeys((leaf, leaf) for leaf in range(count))

    def run(leaves: list[Array], *others: Any) -> Any:
        return function(jax.tree.unflatten(tree, leaves), *others)

    return Halves(prepare, run, compiled=False)


def joined(made: Made, weights: Any) -> list[Array]:
    """Return the arrays that :attr:`Halves.run` takes, given what ``prepare`` made of the weights.

    Weights that need no preparation are not copied.
    """
    leaves = jax.tree.leaves(weights)
    return [leaves[leaf] if array is None else array for (_, leaf), array in sorted(made.items())]


def _split(
    function: Callable[..., Any], weights: Any, *others: Any
) -> tuple[list[tuple[int, int]], _Jaxpr, _Jaxpr, Any]:
    """Keys of what the first half makes, both halves as jaxprs, and the tree of the results."""
    whole, shapes = jax.make_jaxpr(function, return_shape=True)(weights, *others)
    count = len(jax.tree.leaves(weights))
    given, rest = whole.jaxpr.invars[:count], whole.jaxpr.invars[count:]
    steps = _Steps(given)
    outputs = steps.add(whole, {})
    # Views of weights cost nothing; made ahead, they would be copies.
    second = _needed(outputs, steps.of("view", "anytime", "late"))
    read = _variables(outputs, *(step.invars for step in second))
    read -= _variables(*(step.outvars for step in second))
    kept = [variable for variable in steps.ahead if variable in read]
    leaves = {variable: leaf for leaf, variable in enumerate(given)}
    made = [variable for variable in kept if variable not in leaves]
    first = _needed(made, steps.of("ahead", "view", "anytime"))
    return (
        [(place, leaves.get(variable, -1)) for place, variable in enumerate(kept)],
        _program(whole, steps.constants, given, made, first),
        _program(whole, steps.constants, [*kept, *rest], outputs, second),
        jax.tree.structure(shapes),
    )


class _Steps:
    """The equations of a program, in order, and when each can be computed.

    A call is replaced by the equations inside it if some of these can be computed ahead.

    Attributes:
        ahead: variables that depend on the weights alone, in order.
        constants: values of variables that depend on no argument.
    """

    def __init__(self, weights: Iterable[_Atom]) -> None:
        self.ahead: dict[_Atom, None] = dict.fromkeys(weights)
        self.constants: dict[_Atom, Any] = {}
        self._anytime: set[_Atom] = set()  # variables that depend on no argument
        self._all: list[tuple[_When, _Equation]] = []

    def of(self, *kinds: _When) -> list[_Equation]:
        """The equations of these kinds, in order."""
        return [step for when, step in self._all if when in kinds]

    def add(self, program: _Jaxpr, names: dict[_Atom, _Atom], stack: Any = None) -> Any:
        """Append the equations of a program, and return its outputs.

        Args:
            program: the program.
            names: variables of the whole program by those of this one, where they differ.
            stack: named scopes of the call that the program is in.
        """
        constants = dict(zip(program.jaxpr.constvars, program.consts))
        self.constants |= constants
        self._anytime |= set(constants)

        def named(atoms: Iterable[_Atom]) -> list[_Atom]:
            return [names.get(atom, atom) if _is_variable(atom) else atom for atom in atoms]

        for equation in program.jaxpr.eqns:
            source = equation.source_info
            if stack is not None:
                source = source.replace(name_stack=stack + source.name_stack)
                # A program may be called twice, so its variables get new names.
                names |= {variable: core.Var(variable.aval) for variable in equation.outvars}
            step = equation.replace(
                invars=named(equation.invars), outvars=named(equation.outvars), source_info=source
            )
            if (inner := self._opened(step)) is None:
                self._append(step)
            else:
                names |= dict(zip(equation.outvars, inner))
        return named(program.jaxpr.outvars)

    def _opened(self, step: _Equation) -> list[_Atom] | None:
        """Append the equations inside a call, and return its outputs; None if it stays a call."""
        if step.primitive.name not in _CALLS or self._when(step) != "late":
            return None
        inner = step.params.get("jaxpr") or step.params["call_jaxpr"]
        made, ahead = len(self._all), len(self.ahead)
        names = dict(zip(inner.jaxpr.invars, step.invars))
        outputs = self.add(inner, names, step.source_info.name_stack)
        if len(self.ahead) > ahead:
            return outputs
        # Keep the call, because a program that is called twice is then compiled once.
        del self._all[made:]
        return None

    def _append(self, step: _Equation) -> None:
        when = self._when(step)
        self._all.append((when, step))
        if when in ("ahead", "view"):
            self.ahead |= dict.fromkeys(step.outvars)
        elif when == "anytime":
            self._anytime |= set(step.outvars)

    def _when(self, step: _Equation) -> _When:
        read = _variables(step.invars)
        if step.effects or not all(v in self.ahead or v in self._anytime for v in read):
            return "late"
        if not any(v in self.ahead for v in read):
            return "anytime"
        before, after = _bytes(read), _bytes(step.outvars)
        if step.primitive.name in _VIEWS and after == before:
            return "view"
        return "late" if after > max(_SMALL, _GROWTH * before) else "ahead"


def _needed(outputs: list[_Atom], steps: list[_Equation]) -> list[_Equation]:
    """The steps of a program that its outputs depend on, or that have effects."""
    wanted, found = _variables(outputs), []
    for step in reversed(steps):
        if step.effects or not wanted.isdisjoint(step.outvars):
            found.append(step)
            wanted |= _variables(step.invars)
    return found[::-1]


def _program(
    like: _Jaxpr,
    constants: dict[_Atom, Any],
    inputs: list[_Atom],
    outputs: list[_Atom],
    steps: list[_Equation],
) -> _Jaxpr:
    """A program of some of the steps of another."""
    read = _variables(outputs, *(step.invars for step in steps))
    constants = {variable: value for variable, value in constants.items() if variable in read}
    jaxpr = like.jaxpr.replace(
        constvars=list(constants), invars=inputs, outvars=outputs, eqns=steps,
        debug_info=like.jaxpr.debug_info.with_unknown_names(),
    )  # fmt: skip
    return core.ClosedJaxpr(jaxpr, list(constants.values()))


def _is_variable(atom: _Atom) -> bool:
    return not isinstance(atom, core.Literal)


def _variables(*atoms: Iterable[_Atom]) -> set[_Atom]:
    return {atom for group in atoms for atom in group if _is_variable(atom)}


def _bytes(variables: Iterable[_Atom]) -> int:
    return sum(variable.aval.size * variable.aval.dtype.itemsize for variable in variables)
