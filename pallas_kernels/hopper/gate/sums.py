# SPDX-License-Identifier: Apache-2.0
"""The first kernel of a gate: sums over each frame's channel totals, border rows and columns.

Its results are partial sums, so that no loop is needed: a thread block starts the copies of up to
512 rows of 32 channels at once and sums them. The second kernel adds up the partial sums.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike
from jaxtyping import Float, Float32, Shaped

from pallas_kernels.core.jax_versions import as_float32, interpreter, load, store
from pallas_kernels.hopper.gate.problem import TILE_M, GateProblem, RowSum
from pallas_kernels.hopper.primitives import Barrier, Index, Ref, Scalar, copy_in, divide, wait
from pallas_kernels.hopper.shared_memory import swizzled, tiled

__all__ = ["PER_COLUMN", "add_up", "warpgroup_kernel"]

PER_COLUMN = plgpu.Layout.WGMMA.reduce(0)
"""Register layout of a vector with one value per column of a matrix that one warpgroup holds."""

_Source: TypeAlias = Callable[[Scalar, Index], Ref]
"""Maps an edge (0 for the first row or column, 1 for the last) and rows to the values to sum."""


class _Sources(NamedTuple):
    """Sources of a frame's sums."""

    rows: tuple[_Source, _Source, _Source]
    corners: _Source


class _SumMemory(NamedTuple):
    """Shared memory for totals (float32) and for pixels (the inputs' dtype)."""

    totals: Ref
    pixels: Ref
    barriers: tuple[Barrier, Barrier, Barrier]


def warpgroup_kernel(
    problem: GateProblem, body: Callable[..., None], name: str, **options: Any
) -> Callable[..., list[Array]]:
    """Build a kernel whose thread blocks have one warpgroup."""
    body.__name__ = name
    kernel: Any = plgpu.kernel(
        body,
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        interpret=interpreter() if problem.interpret else None,
        **options,
    )
    return kernel


def add_up(
    problem: GateProblem, frames: tuple[Float[Array, "frames ..."], ...]
) -> Float32[Array, "frames partials padded_depth"]:
    """Partial sums of the totals and borders, ``[frame, partial, channel]``.

    Behind each input's channels are zeros up to a multiple of 64, so that no tile of the second
    kernel straddles two inputs.
    """
    inputs, sum_n, row_sums = len(problem.in_channels), problem.sum_n, problem.row_sums
    partials, depth = problem.sum_ranges[-1].stop, sum(problem.k_tiles) * TILE_M

    def body(*refs: Ref) -> None:
        pictures, totals = refs[:inputs], refs[inputs : 2 * inputs]
        sums, wide, narrow, *barriers = refs[2 * inputs :]
        memory = _SumMemory(wide, narrow, (barriers[0], barriers[1], barriers[2]))
        frame, chunk, partial = map(lax.axis_index, names)
        target = sums.at[frame, partial, pl.ds(chunk * sum_n, sum_n)]
        # The chunk belongs to one of the inputs, which is known only at run time.
        start = 0
        for picture, total, size, k_tiles in zip(
            pictures, totals, problem.in_channels, problem.k_tiles
        ):
            channels = pl.ds(chunk * sum_n - start, sum_n)
            sources = _sources(problem, picture.at[frame], total.at[frame], channels)
            here = (chunk * sum_n >= start) & (chunk * sum_n < start + size)
            _add_rows(problem, sources.rows, memory, (here, partial), target)
            _copy_corner(problem, sources.corners, (here, partial), target)
            behind = (chunk * sum_n >= start + size) & (chunk * sum_n < start + k_tiles * TILE_M)
            pl.when(behind)(functools.partial(_store_zeros, target, sum_n))
            start += k_tiles * TILE_M

    names = ("frame", "chunk", "partial")
    pixel_tiles = max(row_sum.tiles for row_sum in row_sums[1:])
    kernel = warpgroup_kernel(
        problem,
        body,
        f"sums_of_{sum(problem.in_channels)}_at_{problem.height}x{problem.width}",
        out_type=[jax.ShapeDtypeStruct((frames[0].shape[0], partials, depth), jnp.float32)],
        scratch_types=[
            _tiles(problem, row_sums[0].tiles, jnp.float32),
            _tiles(problem, pixel_tiles, problem.in_dtype),
            # All copies for a sum are in flight together, so one barrier counts them.
            *(plgpu.Barrier(num_arrivals=row_sum.tiles) for row_sum in row_sums),
        ],
        grid=(frames[0].shape[0], depth // sum_n, partials),
        grid_names=names,
    )
    return kernel(*frames)[0]


def _tiles(problem: GateProblem, count: int, dtype: DTypeLike) -> Any:
    """Shared memory for tiles, with views for TMA and as matrices (see ``shared_memory.py``)."""
    # Swizzled rows have exactly `sum_n` channels, so both views have the same byte order.
    width = problem.sum_n
    shape = (count, TILE_M, width)
    if problem.interpret:  # the interpreter does not alias the two views
        return plgpu.SMEM(shape, dtype)
    return plgpu.RefUnion(
        plgpu.SMEM(shape, dtype, transforms=swizzled(width, dtype)),
        plgpu.SMEM(shape, dtype, transforms=tiled(width, dtype)),
    )


def _sources(
    problem: GateProblem,
    picture: Shaped[Ref, "height width channels"],
    totals: Shaped[Ref, "partials channels"],
    channels: Index,
) -> _Sources:
    """The rows and corners of one frame that enter its sums."""
    # Edge 0 or 1 times the last index is the first or the last index.
    bottom, right = problem.height - 1, problem.width - 1
    return _Sources(
        (
            lambda _, rows: totals.at[rows, channels],
            lambda edge, rows: picture.at[edge * bottom, rows, channels],
            lambda edge, rows: picture.at[rows, edge * right, channels],
        ),
        lambda edge, corner: picture.at[edge * bottom, corner * right, channels],
    )


def _add_rows(
    problem: GateProblem,
    sources: tuple[_Source, _Source, _Source],
    memory: _SumMemory,
    place: tuple[Array, Scalar],
    target: Shaped[Ref, " channels"],
) -> None:
    """Sum the rows of this block's partial sum, if the block belongs to this input (``here``)."""
    here, partial = place
    first = 0
    for i, (row_sum, source) in enumerate(zip(problem.row_sums, sources)):
        end = first + row_sum.blocks * (1 if i == 0 else 2)  # two edges for rows and columns

        @pl.when(here & (partial >= first) & (partial < end))
        def _(
            row_sum: RowSum = row_sum, source: _Source = source, i: int = i, first: int = first
        ) -> None:
            # Blocks of the first edge come before those of the second.
            edge, number = divide(partial - first, row_sum.blocks)
            # Totals are float32 and borders have the inputs' dtype, hence two memories.
            tiles = memory.pixels if i else memory.totals
            tma, matrices = (tiles, tiles) if problem.interpret else tiles
            # Start all copies before waiting for the first: their latencies overlap.
            for tile in range(row_sum.tiles):
                rows = pl.ds((number * row_sum.tiles + tile) * TILE_M, TILE_M)
                copy_in(source(edge, rows), tma.at[tile], memory.barriers[i])
            wait(memory.barriers[i])
            values = [as_float32(matrices[tile]) for tile in range(row_sum.tiles)]
            store(target, jnp.sum(functools.reduce(jnp.add, values), axis=0))

        first = end


def _copy_corner(
    problem: GateProblem,
    corners: _Source,
    place: tuple[Array, Scalar],
    target: Shaped[Ref, " channels"],
) -> None:
    """Copy a corner pixel, if this block's partial sum is one of the last four, the corners."""
    here, partial = place
    # Range 0 is the total, 1 to 4 are rows and columns, and the corners start at 5.
    first = problem.sum_ranges[5].start

    @pl.when(here & (partial >= first))
    def _() -> None:
        corner = corners(*divide(partial - first, 2))
        store(target, as_float32(load(corner, PER_COLUMN)))


def _store_zeros(target: Shaped[Ref, " channels"], count: int) -> None:
    store(target, plgpu.layout_cast(jnp.zeros(count), PER_COLUMN))
