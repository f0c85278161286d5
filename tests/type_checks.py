# SPDX-License-Identifier: Apache-2.0
"""Types are checked while tests run, and shapes too where there are arrays.

For shapes, jaxtyping binds the arguments of each call to the function's signature and compiles
three checks for each definition. Functions and dataclasses without arrays need neither: beartype
alone checks the same types in a tenth of the time. The checks of a function are built when it is
first called, because a worker calls few of those that it imports.
"""

import functools
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
    if not inspect.isfunction(fn) or _runs_later(fn):
        return _with_shapes(fn, **options)
    checked = None

    @functools.wraps(fn)
    def check_and_call(*arguments, **named):
        nonlocal checked
        if checked is None:
            checked = _types_alone(fn) if _is_without_arrays(fn) else _with_shapes(fn, **options)
        return checked(*arguments, **named)

    return check_and_call


def _is_without_arrays(fn):
    try:
        hints = typing.get_type_hints(fn, include_extras=True)
    except Exception:  # names for pyright alone
        return False
    return not any(map(_has_arrays, hints.values()))


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
