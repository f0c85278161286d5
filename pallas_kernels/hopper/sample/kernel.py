# SPDX-License-Identifier: Apache-2.0
"""Bilinear look-up of several images, mixed and added up in registers, and its gradients.

A thread computes whole output pixels. It reads a displacement and a weight, loads the four
neighbours with one 16-byte access each, interpolates, mixes and adds the residual. No warped image
is stored. The gradients of displacements and weights need the same neighbours, so their kernel
looks them up again instead of keeping them.

Neighbouring threads have neighbouring pixels. Displacement fields are mostly smooth, so a warp
reads a few cache lines.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Float32, Int32, Shaped

from pallas_kernels.core import jax_versions
from pallas_kernels.hopper.image_tiles import Place
from pallas_kernels.hopper.primitives import Ref, Scalar, divide
from pallas_kernels.hopper.rows import read_rows, write_rows
from pallas_kernels.hopper.sample.bilinear import (
    Axis,
    Neighbours,
    Pixel,
    Values,
    axis_at,
    between,
    neighbours,
    rows_at,
)
from pallas_kernels.hopper.sample.problem import SampleProblem

__all__ = ["differentiate", "mix"]

_plgpu: Any = plgpu


class _Tile(NamedTuple):
    """A tile of one output image: its pixels, and the numbers of sample and output."""

    place: Place
    sample: Scalar
    output: Scalar


class _Inputs(NamedTuple):
    """A tile's displacement and weight for each source, and its residual or gradient, if any."""

    sources: tuple[tuple[Pixel, Values], ...]
    image: Pixel


def mix(
    problem: SampleProblem,
    images: Float32[Array, "images_x_pixels 4"],
    displacements: Float32[Array, "pairs_x_pixels 2"],
    weights: Float32[Array, "pairs_x_pixels 1"],
    residual: Float32[Array, "outputs_x_pixels channel"] | None,
) -> Float32[Array, "outputs_x_pixels channel"]:
    """Look up, mix and add.

    Rows are ordered by sample, output, source and pixel, as far as an argument has these axes; a
    pair is an output and a source.
    """
    rows = problem.batch * problem.outputs * problem.pixels

    def body(
        images: Shaped[Ref, "images_x_pixels 4"],
        displacements: Shaped[Ref, "pairs_x_pixels 2"],
        weights: Shaped[Ref, "pairs_x_pixels 1"],
        *others: Ref,
    ) -> None:
        *residuals, mixed, exchange = others
        read = functools.partial(_read, problem, displacements, weights, residuals)

        def compute(tile: _Tile, inputs: _Inputs) -> None:
            total = inputs.image or (jnp.float32(0),) * problem.channels
            for source, (displacement, weight) in enumerate(inputs.sources):
                across, down = _axes(problem, tile, displacement)
                around = _around(problem, images, tile, source, across, down)
                upper, lower = rows_at(around, across.share)
                found = between(upper, lower, down.share)
                total = tuple(t + weight * f for t, f in zip(total, found))
            # Rows of 3 values cannot be stored at once.
            through = exchange if problem.channels == 3 else None
            place = _image_place(problem, tile)
            write_rows(mixed, place, total, exchange=through, interpret=problem.interpret)

        _each_output(problem, read, compute)

    operands = [images, displacements, weights, *([] if residual is None else [residual])]
    kernel = _launch(
        problem,
        body,
        "sample",
        out_type=[jax.ShapeDtypeStruct((rows, problem.channels), jnp.float32)],
        scratch_types=[plgpu.SMEM((128 * problem.channels,), jnp.float32)],
    )
    return kernel(*operands)[0]


def differentiate(
    problem: SampleProblem,
    images: Float32[Array, "images_x_pixels 4"],
    displacements: Float32[Array, "pairs_x_pixels 2"],
    weights: Float32[Array, "pairs_x_pixels 1"],
    gradient: Float32[Array, "outputs_x_pixels channel"],
) -> tuple[Float32[Array, "pairs_x_pixels 2"], Float32[Array, "pairs_x_pixels 1"]]:
    """Gradients of displacements and weights, from the gradient of the mixed images."""

    def body(
        images: Shaped[Ref, "images_x_pixels 4"],
        displacements: Shaped[Ref, "pairs_x_pixels 2"],
        weights: Shaped[Ref, "pairs_x_pixels 1"],
        gradient: Shaped[Ref, "outputs_x_pixels channel"],
        of_displacements: Shaped[Ref, "pairs_x_pixels 2"],
        of_weights: Shaped[Ref, "pairs_x_pixels 1"],
    ) -> None:
        read = functools.partial(_read, problem, displacements, weights, [gradient])
        write = functools.partial(write_rows, interpret=problem.interpret)

        def compute(tile: _Tile, inputs: _Inputs) -> None:
            slope = inputs.image
            for source, (displacement, weight) in enumerate(inputs.sources):
                across, down = _axes(problem, tile, displacement)
                around = _around(problem, images, tile, source, across, down)
                upper, lower = rows_at(around, across.share)
                found = between(upper, lower, down.share)
                # The derivative in x interpolates the horizontal differences of both rows.
                wide = between(
                    _minus(around.upper_right, around.upper_left),
                    _minus(around.lower_right, around.lower_left),
                    down.share,
                )
                of_x = weight * across.slope * _dot(slope, wide)
                of_y = weight * down.slope * _dot(slope, _minus(lower, upper))
                place = _source_place(problem, tile, source)
                write(of_displacements, place, (of_x, of_y))
                write(of_weights, place, (_dot(slope, found),))

        _each_output(problem, read, compute)

    like = (displacements, weights)
    kernel = _launch(
        problem,
        body,
        "sample_gradient",
        out_type=[jax.ShapeDtypeStruct(each.shape, jnp.float32) for each in like],
        scratch_types=[],
    )
    of_displacements, of_weights = kernel(images, displacements, weights, gradient)
    return of_displacements, of_weights


def _launch(
    problem: SampleProblem, body: Callable[..., None], name: str, **options: Any
) -> Callable[..., list[Array]]:
    """Build a kernel whose thread blocks have one warpgroup."""
    body.__name__ = problem.name(name)
    kernel: Any = plgpu.kernel(
        body,
        grid=(problem.blocks,),
        grid_names=("block",),
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        interpret=jax_versions.interpreter() if problem.interpret else None,
        **options,
    )
    return kernel


def _each_output(
    problem: SampleProblem,
    read: Callable[[_Tile], _Inputs],
    compute: Callable[[_Tile, _Inputs], None],
) -> None:
    """Call ``compute`` for each output of this thread block's tile.

    The inputs of the next output are read before an output is computed, so that reads from memory
    overlap the look-ups, which wait for the caches.
    """
    groups = problem.outputs // problem.outputs_per_block
    place, group = divide(lax.axis_index("block"), groups)
    sample, tile = divide(place, problem.tiles.count)
    pixels = problem.tiles.at(tile)
    last = problem.outputs_per_block - 1

    def tile_of(number: Scalar) -> _Tile:
        output = group * problem.outputs_per_block + number
        return _Tile(pixels, sample, output)

    def compute_output(number: Scalar, inputs: _Inputs) -> _Inputs:
        following = read(tile_of(number + 1))
        compute(tile_of(number), inputs)
        return following

    inputs = lax.fori_loop(0, last, compute_output, read(tile_of(jnp.int32(0))))
    compute(tile_of(jnp.int32(last)), inputs)


def _read(
    problem: SampleProblem,
    displacements: Shaped[Ref, "pairs_x_pixels 2"],
    weights: Shaped[Ref, "pairs_x_pixels 1"],
    images: list[Ref],
    tile: _Tile,
) -> _Inputs:
    """Read a tile of every array that has output pixels; ``images`` has at most one."""
    read = functools.partial(read_rows, interpret=problem.interpret)
    sources = []
    for source in range(problem.sources):
        at = _source_place(problem, tile, source)
        sources.append((read(displacements, at), *read(weights, at)))
    return _Inputs(tuple(sources), read(images[0], _image_place(problem, tile)) if images else ())


def _image_place(problem: SampleProblem, tile: _Tile) -> Int32[Array, " tile"]:
    """Rows of a tile in residual, gradient and result."""
    return (tile.sample * problem.outputs + tile.output) * problem.pixels + tile.place.pixel


def _source_place(problem: SampleProblem, tile: _Tile, source: int) -> Int32[Array, " tile"]:
    """Rows of a tile in displacements and weights."""
    image = (tile.sample * problem.outputs + tile.output) * problem.sources + source
    return image * problem.pixels + tile.place.pixel


def _axes(problem: SampleProblem, tile: _Tile, displacement: Pixel) -> tuple[Axis, Axis]:
    x, y = displacement
    return (
        axis_at(tile.place.column.astype(jnp.float32) + x, problem.image_width),
        axis_at(tile.place.row.astype(jnp.float32) + y, problem.image_height),
    )


def _around(
    problem: SampleProblem,
    images: Shaped[Ref, "images_x_pixels 4"],
    tile: _Tile,
    source: int,
    across: Axis,
    down: Axis,
) -> Neighbours:
    image = tile.sample * problem.sources + source
    found = neighbours(
        images,
        image * problem.image_height,
        problem.image_width,
        across,
        down,
        interpret=problem.interpret,
    )
    return Neighbours(*(pixel[: problem.channels] for pixel in found))


def _minus(first: Pixel, second: Pixel) -> Pixel:
    return tuple(a - b for a, b in zip(first, second))


def _dot(first: Pixel, second: Pixel) -> Values:
    """Sum over channels."""
    return functools.reduce(jnp.add, (a * b for a, b in zip(first, second)))
