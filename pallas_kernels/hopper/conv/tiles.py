# SPDX-License-Identifier: Apache-2.0
"""What the warpgroups of a convolution share: memory, where a tile begins, slots of a ring."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.hopper.conv.problem import MULTIPLIERS, Problem
from pallas_kernels.hopper.geometry import Geometry, divide
from pallas_kernels.hopper.shared_memory import tiled

__all__ = [
    "Refs", "Tile", "meeting_taps", "mirrored", "next_slot", "place_of", "previous_slot", "scratch",
    "taps_in_turn",
]  # fmt: skip

_REDUCTION_FLOATS = 256  # a warpgroup's scratch for adding up channels


class Refs(NamedTuple):
    """The kernel's memory: global first, then shared."""

    inputs: tuple[Any, ...]
    weights: Any
    affine: Any
    residual: Any
    output: Any
    totals: Any
    input_memory: Any
    weight_memory: Any
    output_memory: Any
    affine_memory: Any
    reduction_memory: Any
    input_full: Any
    input_empty: Any
    weight_full: Any
    weight_empty: Any
    affine_full: Any


class Tile(NamedTuple):
    """Where a tile begins."""

    sample: Any
    row: Any
    column: Any
    phase: tuple[Any, Any]
    frame: Any
    channel: Any
    spot: Any


def scratch(problem: Problem) -> list[Any]:
    """Rings, staging and barriers, in the order of :class:`Refs`."""
    config = problem.config
    _, taps = problem.temporal_taps
    piece = (problem.chunk, config.channels)
    weights = (config.weight_slots, taps, *(piece[::-1] if problem.rows_are_channels else piece))
    full, empty = (
        functools.partial(plgpu.Barrier, num_arrivals=1),
        functools.partial(plgpu.Barrier, num_arrivals=MULTIPLIERS),
    )
    return [
        problem.input_boxes.memory,
        plgpu.SMEM(weights, problem.dtype, transforms=tiled(problem.chunk, problem.dtype)),
        problem.output_boxes.memory,
        plgpu.SMEM((MULTIPLIERS, problem.factors, config.channels), jnp.float32),
        plgpu.SMEM((MULTIPLIERS, _REDUCTION_FLOATS), jnp.float32),
        plgpu.Barrier(num_arrivals=problem.input_boxes.arrivals, num_barriers=config.input_slots),
        empty(num_barriers=config.input_slots),
        full(num_barriers=config.weight_slots),
        empty(num_barriers=config.weight_slots),
        full(num_barriers=MULTIPLIERS),
    ]


def place_of(problem: Problem, number: Any) -> Tile:
    """The tile of a number; neighbours in number share inputs, to meet in the L2 cache."""
    batch, rows, columns, phases, _, channels = problem.grid
    config = problem.config
    (place, channel), frame, start = divide(number, channels), 0, 0
    rest = place
    for frames in problem.frame_order:
        inside = place - start
        first, step = frames[0], frames[-1] - frames[0]  # frames alike: neighbours or both ends
        quotient, remainder = divide(inside, len(frames))
        here = first + remainder * (step // max(1, len(frames) - 1))
        frame = jnp.where(inside >= 0, here, frame)
        rest = jnp.where(inside >= 0, quotient, rest)
        start += batch * rows * columns * phases * len(frames)
    rest, phase = divide(rest, phases)
    rest, column = divide(rest, columns)
    sample, row = divide(rest, rows)
    return Tile(
        sample,
        row * config.rows,
        column * config.columns,
        divide(phase, 2),
        frame,
        channel * config.channels,
        ((row * columns + column) * phases + phase) * problem.spots_a_tile,
    )


def meeting_taps(problem: Problem, tile: Tile) -> tuple[Any, Any]:
    """First temporal tap that meets a frame of the clip, and the end; one pass if resident."""
    if problem.resident:
        return 0, 1
    work = problem.work
    low, taps = work.geometry.low[0], work.geometry.kernel[0]
    first = jnp.maximum(0, low - tile.frame)
    return first, jnp.minimum(taps, work.in_time + low - tile.frame)


def next_slot(slot: Any, slots: int) -> Any:
    """The ring's stage after ``slot``."""
    return jnp.where(slot == slots - 1, 0, slot + 1)


def previous_slot(slot: Any, slots: int) -> Any:
    """The ring's stage before ``slot``."""
    return jnp.where(slot == 0, slots - 1, slot - 1)


def taps_in_turn(geometry: Geometry, turn: Any) -> Any:
    """Vertical taps of the load whose turn it is, of one or two that alternate."""
    first, *others = geometry.taps
    return jnp.where(turn == 0, first, others[0]) if others else first


def mirrored(warpgroup: Any, number: int, count: int) -> Any:
    """Frames and temporal taps of the second warpgroup count from the end."""
    return jnp.where(warpgroup == 0, number, count - 1 - number)
