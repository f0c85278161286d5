# SPDX-License-Identifier: Apache-2.0
"""The warps as the Hopper kernels see them: matrices with a row for each pixel.

Gradients are those of the definition, with the kernels of :func:`pallas_kernels.sample`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from pallas_kernels.core import device
from pallas_kernels.hopper.image_tiles import TILE
from pallas_kernels.hopper.warp import kernel
from pallas_kernels.hopper.warp.problem import FIELDS, WarpProblem
from pallas_kernels.hopper.warp.refine import RefineProblem
from pallas_kernels.hopper.warp.refine import refine as kernel_of_refine
from pallas_kernels.sample import mosaic_gpu as look_up
from pallas_kernels.warp import reference
from pallas_kernels.warp.arguments import (
    Convolved,
    RefineArguments,
    WarpAndMixArguments,
    WarpArguments,
)

__all__ = ["refine", "warp", "warp_and_mix", "why_not", "why_not_in_16_bits", "why_not_to_refine"]

Some = TypeVar("Some", WarpArguments, WarpAndMixArguments, RefineArguments)

_LARGEST = 2**31  # rows are numbered in 32 bits
_CHUNK = 32  # channels that a convolution reads at once; with 16 it takes more than twice as long


def why_not(arguments: WarpArguments) -> str | None:
    """Reason why the kernels cannot run here on these arguments; None if they can."""
    return _why_not(arguments.fields, arguments.enlarged, arguments.images)


def why_not_to_refine(arguments: RefineArguments) -> str | None:
    """The same for :func:`refine`."""
    return _why_not(arguments.maps, 1, *arguments.corrections)


def _why_not(fields: Array, enlarged: int, *others: Array) -> str | None:
    reason = device.why_not(wgmma=False)
    if reason is not None:
        return reason
    dtypes = {each.dtype.name for each in (fields, *others)}
    if dtypes != {"float32"}:
        return f"it needs float32 throughout, and got {' and '.join(sorted(dtypes))}"
    if fields.size * enlarged**2 >= _LARGEST:
        return f"it needs fewer than 2³¹ values, and got {fields.shape}"
    return None


def why_not_in_16_bits(arguments: WarpArguments) -> str | None:
    """The same for :func:`warp`, whose kernel writes 16 bits."""
    reason = why_not(arguments)
    if reason is None and arguments.dtype.name not in ("bfloat16", "float16"):
        return f"it writes bfloat16 or float16, and was asked for {arguments.dtype.name}"
    return reason


def warp(arguments: WarpArguments) -> Float[Array, "batch output _height _width place channel"]:
    """See :func:`pallas_kernels.warp`."""
    return _with_gradient(_warp, _warp_defined, arguments)


def warp_and_mix(arguments: WarpAndMixArguments) -> Float32[Array, "batch output height width 3"]:
    """See :func:`pallas_kernels.warp_and_mix`."""
    return _with_gradient(_warp_and_mix, reference.warp_and_mix, arguments)


def refine(arguments: RefineArguments) -> Float32[Array, "batch output height width values"]:
    """See :func:`pallas_kernels.refine`."""
    return _with_gradient(_refine, reference.refine, arguments)


def _refine(arguments: RefineArguments) -> Array:
    maps = arguments.maps
    batch, outputs, height, width, _ = maps.shape
    problem = RefineProblem(
        count=batch * outputs,
        height=height,
        width=width,
        times=arguments.times,
        interpret=device.interpreting(),
    )
    if problem.pixels < TILE:
        return reference.refine(arguments)
    refined = kernel_of_refine(problem, _rows(maps), tuple(map(_rows, arguments.corrections)))
    return refined.reshape(maps.shape)


def _with_gradient(
    run: Callable[[Some], Array], definition: Callable[[Some], Array], arguments: Some
) -> Array:
    """``run(arguments)``, or ``definition(arguments)`` where a gradient is computed."""
    values = {each.name: getattr(arguments, each.name) for each in dataclasses.fields(arguments)}
    arrays = {name: value for name, value in values.items() if isinstance(value, Array | tuple)}

    def with_arrays(function: Callable[[Some], Array], arrays: dict[str, Any]) -> Array:
        return function(dataclasses.replace(arguments, **arrays))

    @jax.custom_vjp
    def call(arrays: dict[str, Any]) -> Array:
        return with_arrays(run, arrays)

    def forward(arrays: dict[str, Any]) -> tuple[Array, Any]:
        return jax.vjp(lambda arrays: with_arrays(definition, arrays), arrays)

    call.defvjp(forward, lambda pull_back, gradient: pull_back(gradient))
    return call(arrays)


def _warp(arguments: WarpArguments) -> Array:
    height = arguments.fields.shape[2] * arguments.enlarged
    problem = dataclasses.replace(_problem(arguments, height), rows=2)
    if problem.pixels < TILE:
        return _warp_defined(arguments)
    columns = _columns(arguments)
    written = kernel.warp(
        problem,
        look_up.stored(arguments.images),
        _rows(arguments.fields),
        _settings(arguments),
        columns,
        arguments.dtype,
    )
    fold = arguments.fold
    size = problem.height // fold, problem.width // fold
    return written.reshape(problem.batch, problem.outputs, *size, fold * fold, columns)


def _warp_defined(arguments: WarpArguments) -> Array:
    """The definition, with zeros in the channels that the kernel adds."""
    made = reference.warp(arguments)
    return jnp.pad(made, (*((0, 0),) * 5, (0, _columns(arguments) - made.shape[-1])))


def _columns(arguments: WarpArguments) -> int:
    """Values per pixel: the fewest of which all pixels of a position fill whole chunks."""
    places = arguments.fold**2
    return next(n for n in (16, 32) if n * places % _CHUNK == 0)


def _warp_and_mix(arguments: WarpAndMixArguments) -> Array:
    # As a rule the largest array of all. 16 bits change a displacement by at most 1/2048 of its
    # correction, and gradients, which float16 could not hold, are those of the definition.
    given = arguments.correction
    half = isinstance(given, Convolved) and given.images.dtype.itemsize == 2
    arguments = arguments.with_correction(jnp.float16 if half else jnp.float32)
    correction, keep = arguments.correction, arguments.keep
    assert not isinstance(correction, Convolved)
    problem = dataclasses.replace(
        _problem(arguments, arguments.height),
        fold=1 if correction is None else round(correction.shape[4] ** 0.5),
        corrected=correction is not None,
        values=arguments.values,
        kept=keep is not None,
        cubic=arguments.cubic,
        # With further displacements, a second pixel would take too many registers.
        rows=2 if arguments.values == FIELDS else 1,
    )
    if problem.pixels < TILE:
        return reference.warp_and_mix(arguments)
    mixed = kernel.warp_and_mix(
        problem,
        look_up.stored(arguments.images),
        _rows(arguments.fields),
        _settings(arguments, arguments.top),
        None if correction is None else _rows(correction),
        None if keep is None else keep.reshape(-1, 1),
    )
    return mixed.reshape(problem.batch, problem.outputs, problem.height, problem.width, 3)


def _problem(arguments: WarpArguments, height: int) -> WarpProblem:
    batch, outputs, field_height, field_width, _ = arguments.fields.shape
    return WarpProblem(
        batch=batch,
        outputs=outputs,
        image_height=arguments.images.shape[2],
        image_width=arguments.images.shape[3],
        field_height=field_height,
        field_width=field_width,
        enlarged=arguments.enlarged,
        height=height,
        width=field_width * arguments.enlarged,
        fold=arguments.fold,
        middle=arguments.middle,
        interpret=device.interpreting(),
    )


def _settings(arguments: WarpArguments, top: Array | int = 0) -> Float32[Array, "outputs 8"]:
    """A row for each output image, in the order of the kernel's settings."""
    samples = arguments.times.shape
    rows = [
        arguments.reach[..., 0],
        arguments.reach[..., 1],
        arguments.logits,
        arguments.times,
        *(jnp.broadcast_to(jnp.float32(n), samples) for n in (arguments.first_row, top)),
    ]
    rows += [jnp.zeros(samples)] * (8 - len(rows))
    shape = (*arguments.fields.shape[:2], 8)
    return _rows(jnp.broadcast_to(jnp.stack(rows, axis=-1), shape))


def _rows(x: Float[Array, "*places values"]) -> Float[Array, "rows values"]:
    return x.reshape(-1, x.shape[-1])
