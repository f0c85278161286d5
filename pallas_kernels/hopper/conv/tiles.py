# SPDX-License-Identifier: Apache-2.0
"""What the warpgroups of a convolution share: memory, the order of tiles, stages of a ring."""

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

_REDUCTION_FLOATS = 256  # scratch of one warpgroup that adds up channels


class Refs(NamedTuple):
    """The kernel's memory: global first, then shared, then barriers.

    ``full`` barriers complete when a copy has arrived, ``empty`` ones when all consumers are done.
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
    """Where a tile begins, and which of a frame's partial sums is its first."""

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
    # As the weights lie in global memory: TMA copies do not transpose.
    k_by_n = (problem.tile_k, config.tile_n)
    weights = (config.weight_stages, taps, *(k_by_n[::-1] if problem.weights_k_major else k_by_n))
    # TMA arrives once a copy; a stage is empty when every consumer has said so.
    full = functools.partial(plgpu.Barrier, num_arrivals=1)
    empty = functools.partial(plgpu.Barrier, num_arrivals=CONSUMERS)
    return [
        # The order of `Refs`: references come to the kernel by position.
        problem.input_ring.smem,
        plgpu.SMEM(weights, problem.dtype, transforms=tiled(problem.tile_k, problem.dtype)),
        problem.store_ring.smem,
        # Each consumer has its own copy: it may be a tile ahead of the other.
        plgpu.SMEM((CONSUMERS, problem.factors, config.tile_n), jnp.float32),
        plgpu.SMEM((CONSUMERS, _REDUCTION_FLOATS), jnp.float32),
        plgpu.Barrier(num_arrivals=problem.input_ring.arrivals, num_barriers=config.input_stages),
        empty(num_barriers=config.input_stages),
        full(num_barriers=config.weight_stages),
        empty(num_barriers=config.weight_stages),
        full(num_barriers=CONSUMERS),
    ]


def tile_at(problem: Problem, number: Scalar) -> Tile:
    """The tile of a number.

    Channels count fastest, then phases, then columns: tiles of neighbouring numbers run at the same
    time and read the same inputs, which then come from the L2 cache.
    """
    batch, rows, columns, phases, _, channels = problem.grid
    config = problem.config
    # Mixed-radix digits of the number, the fastest first.
    place, channel = divide(number, channels)
    frame, rest = _frame_of(problem, place, batch * rows * columns * phases)
    rest, phase = divide(rest, phases)
    rest, column = divide(rest, columns)
    # Rows of tiles come late, samples last: they share no input but the halo.
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
    """Frame of a tile, and its number among the ``places`` of that frame.

    Groups of equally expensive frames follow each other; within one, frames count fastest. The
    group is selected without a branch, as a thread block cannot look up a table in registers.
    """
    frame, rest, start = 0, place, 0
    for frames in problem.frame_order:
        inside = place - start
        # A group is either a run of neighbours or both ends of the clip: an arithmetic series.
        first, step = frames[0], (frames[-1] - frames[0]) // max(1, len(frames) - 1)
        quotient, remainder = divide(inside, len(frames))
        frame = jnp.where(inside >= 0, first + remainder * step, frame)
        rest = jnp.where(inside >= 0, quotient, rest)
        start += places * len(frames)
    return frame, rest


def temporal_taps_of(problem: Problem, tile: Tile) -> tuple[Scalar, Scalar]:
    """First temporal tap that meets a frame of the clip, and the end.

    A tile that spans the clip takes one pass, in which it multiplies all temporal taps.
    """
    # Its products know their input frames (see `Problem.frame_products`).
    if problem.spans_clip:
        return 0, 1
    conv = problem.conv
    low, taps = conv.geometry.low[0], conv.geometry.kernel[0]
    # Tap k reads frame t + k − low: taps before `first` and from the end on meet padding only.
    first = jnp.maximum(0, low - tile.frame)
    return first, jnp.minimum(taps, conv.in_time + low - tile.frame)


def next_stage(stage: Scalar, stages: int) -> Scalar:
    """The ring's stage after ``stage``; cheaper than a remainder, as no number is divided."""
    return jnp.where(stage == stages - 1, 0, stage + 1)


def previous_stage(stage: Scalar, stages: int) -> Scalar:
    """The ring's stage before ``stage``."""
    return jnp.where(stage == 0, stages - 1, stage - 1)


def row_taps_of(geometry: Geometry, row_phase: Scalar) -> Scalar:
    """Vertical taps that read a halo tile of this row phase (0, or 0 and 1 in turn)."""
    first, *others = geometry.row_taps
    return jnp.where(row_phase == 0, first, others[0]) if others else first


def mirrored(warpgroup: Scalar, number: int, count: int) -> Scalar:
    """A frame or temporal tap of the first consumer; for the second one counted from the end.

    Both then run the same code with equally many products, as the clip's ends are symmetric.
    """
    return jnp.where(warpgroup == 0, number, count - 1 - number)
