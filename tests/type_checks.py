# SPDX-License-Identifier: Apache-2.0
"""Types are checked while tests run, and shapes too where there are arrays.

For shapes, jaxtyping binds the arguments of each call to the function's signature and compiles
three checks for each definition. Functions and dataclasses without arrays need neither: beartype
alone checks the same types in a tenth of the time.
"""

import inspect
import typing

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _decorator

_with_shapes = _decorator.jaxtyped
_types_alone = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def install():
    """Let jaxtyping's import hook, which pytest installed, check types alone where it can."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = _checked


def _checked(fn=_decorator._sentinel, **options):
    if inspect.isfunction(fn) and not _runs_later(fn):
        try:
            hints = typing.get_type_hints(fn, include_extras=True)
        except Exception:  # names that are defined later, or for pyright alone
            return _with_shapes(fn, **options)
        if not any(map(_has_arrays, hints.values())):
            return _types_alone(fn)
    return _with_shapes(fn, **options)


def _runs_later(fn):
    """Generators and coroutines, whose arguments beartype would check when they begin to run."""
    kinds = inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction
    return any(kind(fn) for kind in kinds)


def _has_arrays(hint):
    if isinstance(hint, (list, tuple)):  # the arguments of Callable
        return any(map(_has_arrays, hint))
    if getattr(hint, "__module__", "").startswith("jaxtyping"):
        return True
    return _has_arrays(typing.get_args(hint))
