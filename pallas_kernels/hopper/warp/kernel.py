# SPDX-License-Identifier: Apache-2.0
"""Two images warped by fields, for the input of a convolution or mixed to output images.

A thread computes one pixel, or two below each other. It interpolates the fields, which may be
stored several times smaller, adds a correction, looks up both images at the displaced positions,
and writes the pixel once. No enlarged field, displacement, weight or warped image is stored on the
way. All of these are far larger than the fields and the images, so that a pass for each would take
longer than the look-ups.

Reads from the L1 cache take most of the time. If a field is enlarged by an even factor, two pixels
below each other lie between the same four of its pixels, which are read once for both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike
from jaxtyping import Float, Float32, Int32, Shaped

from pallas_kernels.core import jax_versions
from pallas_kernels.hopper.image_tiles import TILE, Place
from pallas_kernels.hopper.primitives import Ref, Scalar, divide
from pallas_kernels.hopper.rows import read_rows, write_halves, write_rows
from pallas_kernels.hopper.sample import cubic
from pallas_kernels.hopper.sample.bilinear import (
    Pixel,
    Values,
    axis_at,
    between,
    neighbours,
    rows_at,
)
from pallas_kernels.hopper.warp.problem import FIELDS, PAIR, WarpProblem
from pallas_kernels.hopper.warp.refine import Stored, axis_of, enlarged, lines_around

__all__ = ["warp", "warp_and_mix"]

_plgpu: Any = plgpu


class _Tile(NamedTuple):
    """A tile of one output image: its pixels, and the numbers of sample and output image."""

    place: Place
    sample: Scalar
    image: Scalar


class _Settings(NamedTuple):
    """Settings of an output image, the same for all of its pixels.

    Attributes:
        reach: factors of the displacements into the first and the second image.
        shift: added to the logit.
        share: weight of the second image in the blend that is kept.
        first_row: row of the images at the fields' first row.
        top: row of the enlarged fields at which the output begins.
    """

    reach: tuple[Values, Values]
    shift: Values
    share: Values
    first_row: Values
    top: Values


def warp(
    problem: WarpProblem,
    images: Float32[Array, "images_x_pixels 4"],
    fields: Float32[Array, "fields_x_pixels values"],
    settings: Float32[Array, "outputs 8"],
    columns: int,
    dtype: DTypeLike,
) -> Shaped[Array, "outputs_x_pixels columns"]:
    """Both images warped, then the fields, and zeros up to ``columns`` values of 16 bits a pixel.

    Rows of the result are ordered by output image, position, and place in the position, of which
    each has ``fold × fold``.
    """

    def body(
        images: Shaped[Ref, "images_x_pixels 4"],
        fields: Shaped[Ref, "fields_x_pixels values"],
        settings: Shaped[Ref, "outputs 8"],
        output: Shaped[Ref, "outputs_x_pixels columns"],
    ) -> None:
        def compute(tile: _Tile, given: _Settings, field: Pixel) -> None:
            colours = tuple(
                value - problem.middle
                for source, reach in enumerate(given.reach)
                for value in _warped(
                    problem, images, tile, source, _scaled(field, source, reach), given
                )
            )
            place = _folded_place(problem, tile, given.top)
            write_halves(output, place, (*colours, *field), interpret=problem.interpret)

        _each_pixel(problem, fields, settings, compute)

    rows = problem.images * problem.pixels
    kernel = _launch(
        problem, body, "warp", jax.ShapeDtypeStruct((rows, columns), jnp.dtype(dtype)), []
    )
    return kernel(images, fields, settings)


def warp_and_mix(
    problem: WarpProblem,
    images: Float32[Array, "images_x_pixels 4"],
    fields: Float32[Array, "fields_x_pixels values"],
    settings: Float32[Array, "outputs 8"],
    correction: Float[Array, "corrections_x_pixels _values"] | None,
    keep: Float32[Array, "samples_x_pixels 1"] | None,
) -> Float32[Array, "outputs_x_pixels 3"]:
    """Mix both warped images, add the fields' colours, and keep pixels as far as ``keep`` says."""

    def body(
        images: Shaped[Ref, "images_x_pixels 4"],
        fields: Shaped[Ref, "fields_x_pixels values"],
        settings: Shaped[Ref, "outputs 8"],
        *others: Ref,
    ) -> None:
        *maps, output, exchange = others
        correction = maps.pop(0) if problem.corrected else None
        keep = maps.pop(0) if problem.kept else None

        def compute(tile: _Tile, given: _Settings, field: Pixel) -> None:
            if correction is not None:
                place = _folded_place(problem, tile, given.top)
                more = read_rows(correction, place, interpret=problem.interpret)
                # Only the correction may have further pairs of displacements.
                added = tuple(a + b for a, b in zip(field, more))
                field = (*added, *more[len(field) :])[: problem.values]
            weights = _weights(field, given.shift)

            def add_source(source: Scalar, mixed: Pixel) -> Pixel:
                reach = _either(source, *given.reach)
                for pair in range(len(weights) // 2):
                    moved = _scaled(_of_pair(field, pair), source, reach)
                    found = _warped(problem, images, tile, source, moved, given, problem.cubic)
                    weight = _either(source, *weights[2 * pair : 2 * pair + 2])
                    mixed = tuple(total + weight * value for total, value in zip(mixed, found))
                return mixed

            # A loop takes half the registers, so that more threads hide the latency of reads. Cubic
            # look-ups have enough reads in flight without it.
            mixed = lax.fori_loop(0, 2, add_source, field[:3], unroll=problem.cubic)
            if keep is not None:
                mixed = _kept(problem, images, keep, tile, given, mixed)
            place = tile.image * problem.pixels + tile.place.pixel
            write_rows(output, place, mixed, exchange=exchange, interpret=problem.interpret)

        _each_pixel(problem, fields, settings, compute)

    rows = problem.images * problem.pixels
    result = jax.ShapeDtypeStruct((rows, 3), jnp.float32)
    kernel = _launch(problem, body, "warp_and_mix", result, [plgpu.SMEM((TILE * 3,), jnp.float32)])
    return kernel(*(x for x in (images, fields, settings, correction, keep) if x is not None))


def _launch(
    problem: WarpProblem,
    body: Callable[..., None],
    name: str,
    result: jax.ShapeDtypeStruct,
    scratch: Sequence[Any],
) -> Callable[..., Array]:
    """Build a kernel whose thread blocks have one warpgroup and compute one tile."""
    body.__name__ = problem.name(name)
    kernel: Any = plgpu.kernel(
        body,
        out_type=result,
        scratch_types=list(scratch),
        grid=(problem.images * problem.tiles.count,),
        grid_names=("block",),
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        interpret=jax_versions.interpreter() if problem.interpret else None,
    )
    return kernel


def _each_pixel(
    problem: WarpProblem,
    fields: Shaped[Ref, "fields_x_pixels values"],
    settings: Shaped[Ref, "outputs 8"],
    compute: Callable[[_Tile, _Settings, Pixel], None],
) -> None:
    """Call ``compute`` for each pixel of a thread, with the settings and the enlarged field.

    Blocks with neighbouring numbers have the same pixels of different outputs, which read nearby
    pixels of the images, so that these come from the L2 cache.
    """
    place, output = divide(lax.axis_index("block"), problem.outputs)
    sample, number = divide(place, problem.tiles.count)
    image = sample * problem.outputs + output
    pixels = problem.tiles.at(number)
    given = _settings(problem, settings, pixels.row * 0 + image)
    top = given.top.astype(jnp.int32)
    stored = Stored(image, problem.field_height, problem.field_width, problem.enlarged)

    def compute_at(row: Int32[Array, " tile"], field: Pixel) -> None:
        at = Place(row * problem.width + pixels.column, row, pixels.column)
        compute(_Tile(at, sample, image), given, field)

    if not problem.paired:
        place = pixels.row + top, pixels.column
        compute_at(pixels.row, enlarged(fields, stored, *place, interpret=problem.interpret))
        return
    first = _first_of_pair(problem, pixels.row, top)
    place = _inside(problem, first) + top, pixels.column
    upper, lower = lines_around(fields, stored, *place, interpret=problem.interpret)

    # A loop, because two pixels at the same time would take too many registers.
    @functools.partial(lax.fori_loop, 0, 2, init_val=None)
    def _(each: Scalar, _: None) -> None:
        # A row outside the output is replaced by the other one, which is then computed twice.
        row = _inside(problem, first + each)
        down = axis_of(row + top, problem.enlarged, problem.field_height)
        compute_at(row, between(upper, lower, down.share))


def _first_of_pair(
    problem: WarpProblem, number: Int32[Array, " tile"], top: Int32[Array, " tile"]
) -> Int32[Array, " tile"]:
    """First of two rows of the output that lie between the same two rows of a field.

    Args:
        problem: the launch.
        number: number of the pair.
        top: row of the enlarged fields at which the output begins.
    """
    # Rows 2, 3 | 4, 5 | 6, 7 … if the fields are enlarged 4 or 8 times; 1, 2 | 3, 4 … if twice.
    odd = problem.enlarged // 2 % 2
    return 2 * (divide(top + odd, 2)[0] + number) - odd - top


def _inside(problem: WarpProblem, row: Int32[Array, " tile"]) -> Int32[Array, " tile"]:
    return jnp.minimum(jnp.maximum(row, 0), problem.height - 1)


def _settings(
    problem: WarpProblem, settings: Shaped[Ref, "outputs 8"], image: Int32[Array, " tile"]
) -> _Settings:
    first, second, *others = read_rows(settings, image, interpret=problem.interpret)
    return _Settings((first, second), *others[:4])


def _warped(
    problem: WarpProblem,
    images: Shaped[Ref, "images_x_pixels 4"],
    tile: _Tile,
    source: Scalar,
    displacement: Pixel,
    given: _Settings,
    by_cubic: bool = False,
) -> Pixel:
    """One of the two images at the displaced positions."""
    x, y = displacement
    row = tile.place.row.astype(jnp.float32) + given.top
    across = axis_at(tile.place.column.astype(jnp.float32) + x, problem.image_width)
    down = axis_at(row + (y + given.first_row), problem.image_height)
    first = (tile.sample * 2 + source) * problem.image_height
    around = neighbours(
        images, first, problem.image_width, across, down, interpret=problem.interpret
    )
    upper, lower = rows_at(around, across.share)
    found = between(upper, lower, down.share)[:3]
    if not by_cubic:
        return found
    size = problem.image_height, problem.image_width
    more = cubic.added(images, first, size, across, down, around, interpret=problem.interpret)
    return tuple(a + b for a, b in zip(found, more))


def _scaled(field: Pixel, source: Scalar, reach: Values) -> Pixel:
    """Displacement (x, y) into one of the images, in pixels."""
    return tuple(
        reach * _either(source, into_first, into_second)
        for into_first, into_second in zip(field[3:5], field[5:7])
    )


def _either(source: Scalar, first: Values, second: Values) -> Values:
    """The value of the first or of the second image."""
    if isinstance(source, int):
        return second if source else first
    return jnp.where(source == 0, first, second)


def _weights(field: Pixel, shift: Values) -> tuple[Values, ...]:
    """Weights of the two images, for each pair of displacements."""
    logit = field[7] + shift
    if len(field) == FIELDS:
        # A sigmoid; for large arguments exp is infinite, and its reciprocal 0.
        weight = 1.0 / (1.0 + jnp.exp(-logit))
        return weight, 1.0 - weight
    logits: list[Values | float] = [logit, 0.0]
    for first in range(FIELDS, len(field), PAIR):
        logits += [logit + field[first + 4], field[first + 5]]
    largest = functools.reduce(jnp.maximum, logits)
    powers = [jnp.exp(each - largest) for each in logits]
    scale = 1.0 / functools.reduce(jnp.add, powers)
    return tuple(each * scale for each in powers)


def _of_pair(field: Pixel, pair: int) -> Pixel:
    """The field with the displacements of a further pair in place of the first's."""
    if pair == 0:
        return field
    start = FIELDS + PAIR * (pair - 1)
    moved = (a + b for a, b in zip(field[3:7], field[start : start + 4]))
    return (*field[:3], *moved)


def _kept(
    problem: WarpProblem,
    images: Shaped[Ref, "images_x_pixels 4"],
    keep: Shaped[Ref, "samples_x_pixels 1"],
    tile: _Tile,
    given: _Settings,
    mixed: Pixel,
) -> Pixel:
    """``mixed``, replaced by the blend of both images in place as far as ``keep`` says."""
    row = tile.place.row + (given.top + given.first_row).astype(jnp.int32)

    def in_place(source: int) -> Pixel:
        place = (tile.sample * 2 + source) * problem.image_height + row
        place = place * problem.image_width + tile.place.column
        return read_rows(images, place, interpret=problem.interpret)[:3]

    place = (tile.sample * problem.image_height + row) * problem.image_width + tile.place.column
    (share,) = read_rows(keep, place, interpret=problem.interpret)
    blend = between(in_place(0), in_place(1), given.share)
    return between(mixed, blend, share)


def _folded_place(problem: WarpProblem, tile: _Tile, top: Values) -> Int32[Array, " tile"]:
    """Row number of each pixel in an array whose positions have ``fold × fold`` pixels each."""
    fold = problem.fold
    height, width = (
        size * problem.enlarged // fold for size in (problem.field_height, problem.field_width)
    )
    down, y = divide(tile.place.row + top.astype(jnp.int32), fold)
    across, x = divide(tile.place.column, fold)
    position = (tile.image * height + down) * width + across
    return (position * fold + y) * fold + x
