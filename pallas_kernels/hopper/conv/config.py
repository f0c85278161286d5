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

from pallas_kernels.core.device import SHARED_MEMORY
from pallas_kernels.core.jax_versions import CAN_TRANSPOSE
from pallas_kernels.hopper.geometry import Work

__all__ = ["TABLES", "Config", "candidates", "choose", "cost", "recorded", "tuned"]

TABLES = Path(__file__).parent / "tuned"
"""The folder of measured sizes, a file a device."""

_ACCUMULATORS = 2 * 64 * 256  # float32 values that two warpgroups hold in registers
_RESERVED = 2560  # bytes of shared memory for barriers and for adding up channels
_MOST_SLOTS = 4
_TILES = tuple((pixels // columns, columns) for pixels in (128, 256) for columns in (8, 16, 32, 64))
_SHARPNESS = 8  # of the slowest part against the others, of the measured tiles the best fit

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
        weights_left: whether weights are the left operand of the products and pixels the right one.
            Takes a multiple of 64 channels, and the warpgroups share out frames, not pixels, where
            there is an even number of them: few channels then read shared memory less often.
    """

    rows: int
    columns: int
    channels: int
    frames: int
    input_slots: int = 2
    weight_slots: int = 2
    store_slots: int = 1
    weights_left: bool = False

    @property
    def split_frames(self) -> bool:
        """Whether each multiplying warpgroup has half of the frames, not half of the pixels."""
        return self.weights_left and self.frames % 2 == 0


def choose(work: Work, processors: int, device: str = "nvidia_h200") -> Config:
    """The measured sizes for this work, or those of the lowest estimated cost.

    Raises:
        ValueError: nothing fits.
    """
    works = _works.get()
    if works is not None:
        works.append(work)
    measured = tuned(device).get(work.key)
    if measured is not None and (CAN_TRANSPOSE or not measured.weights_left):
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
    least = 32  # bytes of a row of a box
    sizes = [
        size
        for size in sizes
        if (size & -size) * work.out_bytes >= least and work.chunk(size) * work.in_bytes >= least
    ]
    found = []
    for (rows, columns), channels, count in itertools.product(_TILES, sizes, sorted(frames)):
        if rows % 2 == 0 and rows * columns * channels * count <= _ACCUMULATORS:
            config = Config(rows, columns, channels, count)
            kinds = [config]
            if _can_swap(work, channels):
                kinds.append(dataclasses.replace(config, weights_left=True))
            found += filter(None, (_with_rings(work, kind) for kind in kinds))
    return found


def _can_swap(work: Work, channels: int) -> bool:
    """Whether the weights can be the left operand, for tiles of so many channels."""
    return (
        CAN_TRANSPOSE and work.chunk(channels) >= 64 and channels % 64 == 0 and work.out_bytes <= 2
    )


def cost(work: Work, config: Config, processors: int) -> float:
    """Estimated cycles of the thread block with the most to do; only ratios mean something.

    Per tile the slowest counts of the tensor cores, shared memory (128 bytes a cycle: a product of
    64 × 16 × n values reads 2 KB of the left operand and 32 · n bytes of the right one in n / 2
    cycles, and what is multiplied is first written), and the copies from the L2 cache (about 40
    bytes a cycle).
    """
    geometry = work.geometry
    taps = geometry.kernel[0]
    pixels = config.rows * config.columns * config.frames
    right = config.channels
    if config.weights_left:
        right = config.rows * config.columns // (1 if config.split_frames else 2)
    multiply = pixels * config.channels * work.products / (2 * 64 * 32 // work.in_bytes)
    read = multiply * 2 / right * (2048 + 32 * right) / 128
    box, piece = _bytes(work, config)
    copied = work.depth / work.chunk(config.channels)
    copied *= geometry.loads * box + geometry.steps * piece

    def tile(met: float, loaded: float) -> float:
        """Of which share of the temporal taps is multiplied, and copied how often."""
        parts = met * multiply, met * read + loaded * copied / 128, loaded * copied / 40
        return sum(part**_SHARPNESS for part in parts) ** (1 / _SHARPNESS)

    places = (
        work.batch
        * math.ceil(work.height / config.rows)
        * math.ceil(work.width / config.columns)
        * geometry.phases**2
        * (work.channels // config.channels)
    )
    if config.frames > 1:
        met = sum(work.meeting_taps(frame) for frame in range(work.time)) / (taps * work.time)
        tiles = [(places, tile(met, 1.0))]
    else:
        tiles = []
        for frames in work.alike:
            met = work.meeting_taps(frames[0])
            tiles.append((places * len(frames), tile(met / taps, float(met))))
    finish = pixels * config.channels / 40
    total, end = 0.0, 0
    for count, cycles in tiles:  # the first block has tiles 0, processors, 2 · processors, …
        turns = math.ceil((end + count) / processors) - math.ceil(end / processors)
        total += turns * (cycles + finish)
        end += count
    return total


def _bytes(work: Work, config: Config) -> tuple[int, int]:
    """Of a box of the input and of a piece of the weights."""
    chunk = work.chunk(config.channels)
    rows = config.rows + max(work.geometry.taps) - 1
    box = config.frames * rows * config.columns * chunk * work.in_bytes
    temporal = work.geometry.kernel[0] if config.frames > 1 else 1
    return box, temporal * chunk * config.channels * work.in_bytes


def _with_rings(work: Work, config: Config) -> Config | None:
    """The config with as many slots as fit, or None where not even two of each do."""
    box, piece = _bytes(work, config)
    width = min(config.channels & -config.channels, 128 // work.out_bytes)
    output = config.rows * config.columns * width * work.out_bytes
    stores = config.frames * config.channels // width

    def fits(inputs: int, weights: int, outputs: int) -> bool:
        rings = inputs * box + weights * piece + outputs * output
        affine = 2 * 3 * 4 * config.channels
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
