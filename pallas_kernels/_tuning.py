# SPDX-License-Identifier: Apache-2.0
"""Tile sizes of the Mosaic GPU kernels: measured ones where there are some, else a cost model.

``tuned/<device>.json`` holds what was measured, and the command that measured it. Nothing is ever
measured silently.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import jax

from pallas_kernels._device import SHARED_MEMORY
from pallas_kernels._work import Work

__all__ = ["TABLES", "Config", "candidates", "choose", "cost", "recorded", "tuned"]

TABLES = Path(__file__).parent / "tuned"
"""The folder of measured sizes, a file a device."""

_ACCUMULATORS = 2 * 64 * 256  # float32 values that two warpgroups hold in registers
_RESERVED = 2560  # bytes of shared memory for barriers and for adding up channels
_MOST_SLOTS = 4
_TILES = tuple((pixels // columns, columns) for pixels in (128, 256) for columns in (8, 16, 32, 64))


_works: contextvars.ContextVar[list[Work] | None] = contextvars.ContextVar("works", default=None)


@dataclasses.dataclass(frozen=True)
class Config:
    """How a convolution is cut into tiles, and how far copying runs ahead.

    Attributes:
        rows: of a tile's pixels; even.
        columns: of a tile's pixels; a multiple of 8. A tile has a multiple of 128 pixels.
        channels: output channels of a tile, at most 256.
        frames: 1, or all frames of the clip.
        input_slots: boxes of the input in shared memory.
        weight_slots: pieces of the weights in shared memory.
        store_slots: output boxes of a warpgroup in shared memory.
    """

    rows: int
    columns: int
    channels: int
    frames: int
    input_slots: int = 2
    weight_slots: int = 2
    store_slots: int = 1


def choose(work: Work, processors: int, device: str = "nvidia_h200") -> Config:
    """The measured sizes for this work, or those of the lowest estimated cost.

    Raises:
        ValueError: nothing fits.
    """
    works = _works.get()
    if works is not None:
        works.append(work)
    measured = tuned(device).get(work.key)
    if measured is not None:
        return measured
    possible = candidates(work)
    if not possible:
        raise ValueError(
            f"{work.in_channels} → {work.channels} channels cannot be tiled; channels must be "
            "multiples of 16."
        )
    return min(possible, key=lambda config: cost(work, config, processors))


def recorded(function: Callable[..., object], *arguments: object) -> list[Work]:
    """All work, each once, that sizes are chosen for while ``function`` is traced."""
    token = _works.set([])
    try:
        jax.eval_shape(function, *arguments)
        return list(dict.fromkeys(_works.get() or []))
    finally:
        _works.reset(token)


@functools.cache
def tuned(device: str) -> dict[str, Config]:
    """The table of a device; empty where nothing was measured."""
    path = TABLES / f"{device}.json"
    if not path.exists():
        return {}
    return {key: Config(**sizes) for key, sizes in json.loads(path.read_text())["configs"].items()}


def candidates(work: Work) -> list[Config]:
    """Every tile that fits in registers and shared memory, with the deepest rings that do."""
    frames = {1, work.time} if work.time == work.in_time <= 4 else {1}
    sizes = [size for size in range(16, 257, 16) if work.channels % size == 0]
    found = []
    for (rows, columns), channels, count in itertools.product(_TILES, sizes, sorted(frames)):
        if rows % 2 == 0 and rows * columns * channels * count <= _ACCUMULATORS:
            config = _with_rings(work, Config(rows, columns, channels, count))
            found += [config] if config else []
    return found


def cost(work: Work, config: Config, processors: int) -> float:
    """Estimated time of the whole work; only ratios mean something.

    Per tile the slowest counts of the tensor cores, their reads of shared memory (128 bytes a
    cycle: an m64 product of 16 channels reads 2 KB of pixels and 32 bytes an output channel in
    ``channels / 2`` cycles), and the copies from the L2 cache (about 40 bytes a cycle). Waves of
    tiles are rounded up.
    """
    geometry = work.geometry
    pixels = config.rows * config.columns * config.frames
    instructions = pixels / 64 * work.products / 16
    multiply = instructions * config.channels / 2
    read = instructions * (2048 + 32 * config.channels) / 128
    box, piece = _bytes(work, config)
    steps = work.depth / work.chunk(config.channels) * geometry.loads
    times = 1 if config.frames > 1 else geometry.kernel[0]
    copy = times * steps * (box + geometry.taps * piece) / 40
    finish = pixels * config.channels / 40
    tiles = (
        work.batch
        * math.ceil(work.height / config.rows)
        * math.ceil(work.width / config.columns)
        * geometry.phases**2
        * (work.time // config.frames)
        * (work.channels // config.channels)
    )
    return math.ceil(tiles / processors) * (max(multiply, read, copy) + finish)


def _bytes(work: Work, config: Config) -> tuple[int, int]:
    """Of a box of the input and of a piece of the weights."""
    chunk = work.chunk(config.channels)
    rows = config.rows + work.geometry.taps - 1
    box = config.frames * rows * config.columns * chunk * 2
    temporal = work.geometry.kernel[0] if config.frames > 1 else 1
    return box, temporal * chunk * config.channels * 2


def _with_rings(work: Work, config: Config) -> Config | None:
    """The config with as many slots as fit, or None where not even two of each do."""
    box, piece = _bytes(work, config)
    width = min(config.channels & -config.channels, 128 // work.out_bytes)
    output = config.rows * config.columns * width * work.out_bytes
    stores = config.frames * config.channels // width

    def fits(inputs: int, weights: int, outputs: int) -> bool:
        rings = inputs * box + weights * piece + outputs * output
        affine = 2 * 2 * 4 * config.channels
        return rings + affine <= SHARED_MEMORY - _RESERVED

    slots = [2, 2, 1]
    if not fits(*slots):
        return None
    if stores % 2 == 0 and fits(2, 3, 2):
        slots[2] = 2
    for _ in range(_MOST_SLOTS):
        for kind in (1, 0):
            larger = [count + (index == kind) for index, count in enumerate(slots)]
            if larger[kind] <= _MOST_SLOTS and fits(*larger):
                slots = larger
    return dataclasses.replace(
        config, input_slots=slots[0], weight_slots=slots[1], store_slots=slots[2]
    )
