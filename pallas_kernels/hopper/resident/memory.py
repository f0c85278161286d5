# SPDX-License-Identifier: Apache-2.0
"""Memory of the convolution with resident weights, and the order of its tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Float, Shaped

from pallas_kernels.hopper.primitives import Barrier, Ref, Scalar, divide
from pallas_kernels.hopper.resident.problem import COLUMNS, CONSUMERS, ResidentProblem
from pallas_kernels.hopper.shared_memory import Views, swizzled, tiled

__all__ = ["Operands", "Refs", "Tile", "Tiles", "as_refs", "scratch", "tile_at"]


class Operands(NamedTuple):
    """Inputs of the kernel, in their shapes in global memory."""

    images: Shaped[Array, "images height width in_channels"]
    weights: Shaped[Array, "chunks_x_taps channels chunk"]
    offset: Float[Array, " channels"] | None
    residual: Shaped[Array, "samples height width channels"] | None


class Refs(NamedTuple):
    """The kernel's memory: global first, then shared, then barriers, as in ``hopper/conv``."""

    images: Shaped[Ref, "images height width in_channels"]
    weights: Shaped[Ref, "chunks_x_taps channels chunk"]
    offset: Shaped[Ref, " channels"] | None
    residual: Shaped[Ref, "samples height width channels"] | None
    output: Shaped[Ref, "images height width channels"]
    halo_smem: Shaped[Ref, "stages rows columns chunk"]
    weight_smem: Shaped[Ref, "chunks_x_taps channels chunk"]
    store_smem: Views
    residual_smem: Views | None
    halo_full: Shaped[Barrier, " stages"]
    halo_empty: Shaped[Barrier, " stages"]
    weights_full: Shaped[Barrier, ""]
    residual_full: Shaped[Barrier, " consumers"]
    may_multiply: Shaped[Barrier, " consumers"]


class Tile(NamedTuple):
    """Origin of a tile in the output."""

    image: Scalar
    row: Scalar
    column: Scalar


class Tiles(NamedTuple):
    """Tiles of a thread block: in each turn, one for each consumer.

    Attributes:
        number: number of the tile of a turn and a consumer.
        turns: number of turns of a consumer.
    """

    number: Callable[[Scalar, Scalar], Scalar]
    turns: Callable[[Scalar], Scalar]


def scratch(problem: ResidentProblem) -> list[Any]:
    """Shared memory and barriers, in the order of :class:`Refs`."""
    stages, taps = CONSUMERS * problem.stages, problem.taps[0] * problem.taps[1]
    chunk, dtype = problem.chunk, problem.dtype
    halo = plgpu.SMEM((stages, *problem.halo_size, chunk), dtype, transforms=swizzled(chunk, dtype))
    weights = plgpu.SMEM(
        (problem.chunks * taps, problem.channels, chunk), dtype, transforms=tiled(chunk, dtype)
    )
    return [
        halo,
        weights,
        problem.store_ring.smem,
        *([problem.residual_ring.smem] if problem.sharing else []),
        plgpu.Barrier(num_arrivals=1, num_barriers=stages),
        plgpu.Barrier(num_arrivals=1, num_barriers=stages),
        plgpu.Barrier(num_arrivals=1),
        plgpu.Barrier(
            num_arrivals=problem.groups * problem.residual_ring.arrivals, num_barriers=CONSUMERS
        ),
        plgpu.Barrier(num_arrivals=1, num_barriers=CONSUMERS),
    ]


def as_refs(problem: ResidentProblem, operands: Any, others: tuple[Any, ...]) -> Refs:
    """Name the references of a kernel: operands, then output and scratch, in Pallas's order."""
    output, halo, weights, stores, *rest = others
    residual = Views(*rest.pop(0)) if problem.sharing else None
    images, kernel, start, added = operands
    full, empty, weights_full, residual_full, may_multiply = rest
    return Refs(
        images, kernel, start, added, output, halo, weights, Views(*stores), residual,
        full, empty, weights_full, residual_full, may_multiply,
    )  # fmt: skip


def tile_at(problem: ResidentProblem, number: Scalar) -> Tile:
    """The tile with a given number; neighbours run at the same time and share their halo in L2."""
    _, rows, columns = problem.grid
    rest, column = divide(number, columns)
    image, row = divide(rest, rows)
    return Tile(image, row * problem.rows, column * COLUMNS)
