# SPDX-License-Identifier: Apache-2.0
"""Maps interpolated at a larger size: by any kernel that reads them, or added to other maps."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Float32, Int32, Shaped

from pallas_kernels.core import jax_versions
from pallas_kernels.hopper.image_tiles import ImageTiles
from pallas_kernels.hopper.primitives import Ref, Scalar, divide
from pallas_kernels.hopper.rows import read_rows, write_rows
from pallas_kernels.hopper.sample.bilinear import (
    Axis,
    Pixel,
    axis_at,
    between,
    neighbours,
    rows_at,
)

__all__ = ["RefineProblem", "Stored", "axis_of", "enlarged", "lines_around", "refine"]

_plgpu: Any = plgpu


class Stored(NamedTuple):
    """One of several maps as it is stored: its number, size, and how many times to enlarge it."""

    number: Scalar
    height: int
    width: int
    times: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefineProblem:
    """Compile-time parameters of a launch.

    Attributes:
        count: number of maps.
        height: height of a map.
        width: width of a map.
        times: how many times each correction is enlarged.
        interpret: whether the interpreter runs the kernel.
    """

    count: int
    height: int
    width: int
    times: tuple[int, ...]
    interpret: bool

    @property
    def pixels(self) -> int:
        """Pixels of a map."""
        return self.height * self.width

    @property
    def tiles(self) -> ImageTiles:
        """Tiles of a map."""
        return ImageTiles(self.height, self.width)


def enlarged(
    maps: Shaped[Ref, "pixels values"],
    stored: Stored,
    row: Int32[Array, " tile"],
    column: Int32[Array, " tile"],
    *,
    interpret: bool,
) -> Pixel:
    """Values of an enlarged map: linear between the centres of its pixels, constant beyond."""
    number, height, width, times = stored
    if times == 1:
        return read_rows(maps, (number * height + row) * width + column, interpret=interpret)
    upper, lower = lines_around(maps, stored, row, column, interpret=interpret)
    return between(upper, lower, axis_of(row, times, height).share)


def lines_around(
    maps: Shaped[Ref, "pixels values"],
    stored: Stored,
    row: Int32[Array, " tile"],
    column: Int32[Array, " tile"],
    *,
    interpret: bool,
) -> tuple[Pixel, Pixel]:
    """The map's rows above and below a pixel of the enlarged map, interpolated at its column."""
    number, height, width, times = stored
    across, down = axis_of(column, times, width), axis_of(row, times, height)
    around = neighbours(maps, number * height, width, across, down, interpret=interpret)
    return rows_at(around, across.share)


def axis_of(place: Int32[Array, " tile"], times: int, size: int) -> Axis:
    """Where a row or column of an enlarged map lies in the map, of ``size`` rows or columns."""
    return axis_at((place.astype(jnp.float32) + 0.5) * (1 / times) - 0.5, size)


def refine(
    problem: RefineProblem,
    maps: Float32[Array, "pixels values"],
    corrections: tuple[Float32[Array, "_ values"], ...],
) -> Float32[Array, "pixels values"]:
    """Maps plus corrections, each enlarged; a thread computes one pixel."""

    def body(maps: Shaped[Ref, "pixels values"], *others: Ref) -> None:
        *corrections, output = others
        number, tile = divide(lax.axis_index("block"), problem.tiles.count)
        pixel, row, column = problem.tiles.at(tile)
        whole = Stored(number, problem.height, problem.width, 1)
        values = enlarged(maps, whole, row, column, interpret=problem.interpret)
        for correction, times in zip(corrections, problem.times):
            small = Stored(number, problem.height // times, problem.width // times, times)
            more = enlarged(correction, small, row, column, interpret=problem.interpret)
            values = tuple(a + b for a, b in zip(values, more))
        write_rows(output, number * problem.pixels + pixel, values, interpret=problem.interpret)

    body.__name__ = f"refine_{problem.count}_at_{problem.height}x{problem.width}"
    kernel: Any = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(maps.shape, jnp.float32),
        grid=(problem.count * problem.tiles.count,),
        grid_names=("block",),
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        interpret=jax_versions.interpreter() if problem.interpret else None,
    )
    return kernel(maps, *corrections)
