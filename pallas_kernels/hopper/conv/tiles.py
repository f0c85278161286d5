# SPDX-License-Identifier: Apache-2.0
"""Code that producer and consumers share: memory, the order of tiles, stages of a ring."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Shaped

from pallas_kernels.hopper.conv.config import CONSUMERS
from pallas_kernels.hopper.conv.problem import Problem
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.primitives import Barrier, Ref, Scalar, divide
from pallas_kernels.hopper.shared_memory import Views, tiled

__all__ = [
    "Refs", "Tile", "mirrored", "next_stage", "previous_stage", "row_taps_of", "scratch",
    "temporal_taps_of", "tile_at",
]  # fmt: skip

_REDUCTION_FLOATS = 256  # scratch memory of one consumer for channel totals


class Refs(NamedTuple):
    """The kernel's memory: global first, then shared, then barriers.

    A ``full`` barrier completes when a copy has arrived, an ``empty`` one when all consumers have
    released the stage.
    """

    inputs: tuple[Shaped[Ref, "frames height width channels"], ...]
    weights: Shaped[Ref, "kt taps_x_depth channels"]
    affine: Shaped[Ref, "samples factors channels"] | None
    residual: Shaped[Ref, "frames height width channels"] | None
    output: Shaped[Ref, "frames height width channels"]
    totals: Shaped[Ref, "frames partials channels"] | None
    input_smem: Views
    weight_smem: Shaped[Ref, "stages kt k n"]
    store_smem: Views
    affine_smem: Shaped[Ref, "consumers factors n"]
    reduction_smem: Shaped[Ref, "consumers floats"]
    input_full: Shaped[Barrier, " stages"]
    input_empty: Shaped[Barrier, " stages"]
    weight_full: Shaped[Barrier, " stages"]
    weight_empty: Shaped[Barrier, " stages"]
    affine_full: Shaped[Barrier, " consumers"]


class Tile(NamedTuple):
    """Origin of a tile, and the index of its first partial sum within a frame."""

    sample: Scalar
    row: Scalar
    column: Scalar
    phase: tuple[Scalar, Scalar]
    frame: Scalar
    channel: Scalar
    partial_sum: Scalar


def scratch(problem: Problem) -> list[Any]:
    """Shared memory and barriers, in the order of :class:`Refs`."""
    config = problem.config
    _, taps = problem.temporal_taps
    # The axes are in the order of global memory, because TMA copies do not transpose.
    k_by_n = (problem.tile_k, config.tile_n)
    weights = (config.weight_stages, taps, *(k_by_n[::-1] if problem.weights_k_major else k_by_n))
    # TMA arrives once per copy; a stage is empty when every consumer has arrived.
    full = functools.partial(plgpu.Barrier, num_arrivals=1)
    empty = functools.partial(plgpu.Barrier, num_arrivals=CONSUMERS)
    return [
        # In the order of `Refs`, because the kernel gets references by position.
        problem.input_ring.smem,
        plgpu.SMEM(weights, problem.dtype, transforms=tiled(problem.tile_k, problem.dtype)),
        problem.store_ring.smem,
        # Each consumer has its own factors, because it may be a tile ahead of the other.
        plgpu.SMEM((CONSUMERS, problem.factors, config.tile_n), jnp.float32),
        plgpu.SMEM((CONSUMERS, _REDUCTION_FLOATS), jnp.float32),
        plgpu.Barrier(num_arrivals=problem.input_ring.arrivals, num_barriers=config.input_stages),
        empty(num_barriers=config.input_stages),
        full(num_barriers=config.weight_stages),
        empty(num_barriers=config.weight_stages),
        full(num_barriers=CONSUMERS),
    ]


def tile_at(problem: Problem, number: Scalar) -> Tile:
    """The tile with a given number.

    Channels vary fastest, then frames of equal cost, phases and columns. Tiles with neighbouring
    numbers run at the same time and read overlapping inputs, which then come from the L2 cache.
    """
    batch, rows, columns, phases, _, channels = problem.grid
    config = problem.config
    # Split the number into mixed-radix digits, the fastest first.
    place, channel = divide(number, channels)
    frame, rest = _frame_of(problem, place, batch * rows * columns * phases)
    rest, phase = divide(rest, phases)
    rest, column = divide(rest, columns)
    # Rows vary slowly, since they share only the halo; samples, which share nothing, vary slowest.
    sample, row = divide(rest, rows)
    return Tile(
        sample,
        row * config.tile_h,
        column * config.tile_w,
        divide(phase, 2),
        frame,
        channel * config.tile_n,
        ((row * columns + column) * phases + phase) * problem.partial_sums_per_tile,
    )


def _frame_of(problem: Problem, place: Scalar, places: int) -> tuple[Scalar, Scalar]:
    """Frame of a tile, and the tile's number among the ``places`` tiles of that frame.

    Groups of equally expensive frames follow each other; within a group, frames vary fastest. The
    group is selected by arithmetic, because registers cannot be indexed at run time.
    """
    frame, rest, start = 0, place, 0
    for frames in problem.frame_order:
        inside = place - start
        # A group is a run of neighbouring frames or both ends of the clip: an arithmetic sequence.
        first, step = frames[0], (frames[-1] - frames[0]) // max(1, len(frames) - 1)
        quotient, remainder = divide(inside, len(frames))
        frame = jnp.where(inside >= 0, first + remainder * step, frame)
        rest = jnp.where(inside >= 0, quotient, rest)
        start += places * len(frames)
    return frame, rest


def temporal_taps_of(problem: Problem, tile: Tile) -> tuple[Scalar, Scalar]:
    """First temporal tap that reads a frame of the clip, and one past the last.

    A tile that spans the clip makes a single pass, in which it multiplies all temporal taps.
    """
    # `Problem.frame_products` lists the temporal taps of such a tile.
    if problem.spans_clip:
        return 0, 1
    conv = problem.conv
    low, taps = conv.geometry.low[0], conv.geometry.kernel[0]
    # Tap k reads frame t + k − low: taps outside this range read only padding.
    first = jnp.maximum(0, low - tile.frame)
    return first, jnp.minimum(taps, conv.in_time + low - tile.frame)


def next_stage(stage: Scalar, stages: int) -> Scalar:
    """The stage after ``stage`` in a ring; a select is cheaper than a remainder."""
    return jnp.where(stage == stages - 1, 0, stage + 1)


def previous_stage(stage: Scalar, stages: int) -> Scalar:
    """The stage before ``stage`` in a ring."""
    return jnp.where(stage == 0, stages - 1, stage - 1)


def row_taps_of(geometry: Geometry, row_phase: Scalar) -> Scalar:
    """Number of vertical taps that read a halo tile of this row phase (at stride 2: 0 or 1)."""
    first, *others = geometry.row_taps
    return jnp.where(row_phase == 0, first, others[0]) if others else first


def mirrored(warpgroup: Scalar, number: int, count: int) -> Scalar:
    """Index of a frame or temporal tap; the second consumer counts from the end.

    Since both ends of the clip have the same padding, both consumers then run the same code with
    the same number of products.
    """
    return jnp.where(warpgroup == 0, number, count - 1 - number)
