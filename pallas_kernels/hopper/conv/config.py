# SPDX-License-Identifier: Apache-2.0
"""Tile sizes of the convolution kernel: measured ones if there are any, else from a cost model.

``tuned/<device>.json`` holds the configs measured on a device, each with the command and the
environment of the measurement. A Hopper card whose table is missing, or lacks a convolution, uses
the H200's: all Hopper cards have the same SM, and differ in clock, memory and number of SMs. If no
table has the convolution, the cost model chooses. Only ``scripts/tune_kernels.py`` measures.
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

from pallas_kernels.core import device
from pallas_kernels.core.device import SMEM_BYTES
from pallas_kernels.core.jax_versions import CAN_TRANSPOSE
from pallas_kernels.hopper.geometry import ConvShape

__all__ = [
    "CONSUMERS", "TABLES", "Config", "candidates", "choose", "cost", "loads_pixels", "record_convs",
    "smem_bytes", "tuned",
]  # fmt: skip

TABLES = Path(__file__).parents[2] / "tuned"
"""The folder of measured tile sizes, one file per device."""

CONSUMERS = 2
"""Number of warpgroups of a thread block that multiply; one more, the producer, copies.

The registers of two consumers hold a tile twice as large as those of one, which gives more products
per byte copied. With three, each would have fewer registers than its sums need.
"""

_FALLBACK_TABLE = "nvidia_h200"
_ACCUMULATORS = CONSUMERS * 64 * 256  # float32 sums: 128 of a thread's 232 registers
_RESERVED = 2560  # bytes of shared memory for barriers and for adding up channels
_MAX_STAGES = 4  # enough to hide the latency of copies; more gain nothing
_TILES = tuple((pixels // columns, columns) for pixels in (128, 256) for columns in (8, 16, 32, 64))
_FEW_CHANNELS = 64  # of a tile that loads pixels into registers
_MIN_ROW_BYTES = 32  # the narrowest swizzle
# Exponent of the p-norm that combines the costs of a tile. With perfect overlap the cost would be
# their maximum; of the exponents tried, 8 ranked the measured tiles best.
_OVERLAP_NORM = 8
# Per cycle and SM: bytes of shared memory (a hardware limit), bytes from L2 and values that the
# epilogue finishes (both estimates).
_SMEM_BANDWIDTH, _L2_BANDWIDTH, _EPILOGUE_VALUES = 128, 40, 40

_recorded: contextvars.ContextVar[list[ConvShape] | None] = contextvars.ContextVar(
    "recorded", default=None
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Tile sizes of a convolution, and the depths of its rings in shared memory.

    Attributes:
        tile_h: rows of pixels; even, because each consumer takes half of them.
        tile_w: columns of pixels; a multiple of 8. ``tile_h · tile_w`` is a multiple of 128.
        tile_n: output channels of a tile, at most 256, the widest WGMMA.
        tile_t: frames of a tile: 1, or all frames of the clip.
        input_stages: number of halo tiles of the input in shared memory.
        weight_stages: number of tiles of the weights in shared memory.
        store_stages: number of output blocks in shared memory, per consumer.
        swap_ab: whether weights are operand A of the products and pixels operand B. ``tile_n`` must
            then be a multiple of 64, the rows of A. An even ``tile_t`` is then split between the
            consumers by frames, not by pixels; with few channels this reads shared memory less
            often.
    """

    tile_h: int
    tile_w: int
    tile_n: int
    tile_t: int
    input_stages: int = 2
    weight_stages: int = 2
    store_stages: int = 1
    swap_ab: bool = False

    @property
    def tile_m(self) -> int:
        """Pixels of a tile in each frame."""
        return self.tile_h * self.tile_w

    @property
    def split_frames(self) -> bool:
        """True if each consumer computes half of the frames instead of half of the pixels."""
        return self.swap_ab and self.tile_t % CONSUMERS == 0


def choose(conv: ConvShape, sm_count: int, table: str | None = None) -> Config:
    """The measured config for this convolution, or the one with the lowest estimated cost.

    Args:
        conv: the convolution.
        sm_count: number of SMs of the GPU, for the cost model.
        table: name of a table; by default that of the current device.

    Raises:
        ValueError: no tile fits its channels.
    """
    recorded = _recorded.get()
    if recorded is not None:
        recorded.append(conv)
    for name in (table or device.table_name(), _FALLBACK_TABLE):
        measured = tuned(name).get(conv.key)
        # Older versions of JAX cannot transpose swizzled operands, which swap_ab needs.
        if measured is not None and (CAN_TRANSPOSE or not measured.swap_ab):
            return measured
    return _cheapest(conv, sm_count)


@functools.cache  # a network and its gradient have the same convolutions several times
def _cheapest(conv: ConvShape, sm_count: int) -> Config:
    """The config with the lowest estimated cost."""
    possible = candidates(conv)
    if not possible:
        raise ValueError(
            f"{conv.in_channels} → {conv.channels} channels cannot be tiled; channels must be "
            "multiples of 16."
        )
    return min(possible, key=lambda config: cost(conv, config, sm_count))


def loads_pixels(conv: ConvShape, config: Config) -> bool:
    """True if consumers load pixels into registers, where several temporal taps read them.

    With few output channels, tensor cores that read the pixels from shared memory for each temporal
    tap would wait for it.
    """
    several = config.tile_t > 1 and conv.geometry.kernel[0] > 1
    return several and not config.swap_ab and config.tile_n <= _FEW_CHANNELS


def record_convs(function: Callable[..., object], *arguments: object) -> list[ConvShape]:
    """Trace ``function`` and list the distinct convolutions for which it chooses a config."""
    token = _recorded.set([])
    try:
        jax.eval_shape(function, *arguments)
        return list(dict.fromkeys(_recorded.get() or []))
    finally:
        _recorded.reset(token)


@functools.cache
def tuned(table: str) -> dict[str, Config]:
    """Measured configs by :attr:`ConvShape.key`; empty if there is no such table."""
    path = TABLES / f"{table}.json"
    # Most devices have no table.
    if not path.exists():
        return {}
    fields = {field.name for field in dataclasses.fields(Config)}
    return {
        key: Config(**{name: value for name, value in entry.items() if name in fields})
        for key, entry in json.loads(path.read_text())["configs"].items()
    }


def candidates(conv: ConvShape) -> list[Config]:
    """List all tiles that fit into registers and shared memory, with the deepest rings that fit."""
    # A tile that spans the clip reads each input frame once for all output frames that use it.
    # Beyond 4 frames its sums would not fit into registers at any useful tile_n.
    tile_ts = sorted({1, conv.time} if conv.time == conv.in_time <= 4 else {1})
    tile_ns = [
        size
        for size in range(16, 257, 16)
        if conv.channels % size == 0
        and (size & -size) * conv.out_bytes >= _MIN_ROW_BYTES
        and conv.tile_k(size) * conv.in_bytes >= _MIN_ROW_BYTES
    ]
    found = []
    for (tile_h, tile_w), tile_n, tile_t in itertools.product(_TILES, tile_ns, tile_ts):
        if tile_h % CONSUMERS == 0 and tile_h * tile_w * tile_n * tile_t <= _ACCUMULATORS:
            config = Config(tile_h, tile_w, tile_n, tile_t)
            orders = [config]
            if _can_swap(conv, tile_n):
                orders.append(dataclasses.replace(config, swap_ab=True))
            found += filter(None, (_with_stages(conv, order) for order in orders))
    return found


def _can_swap(conv: ConvShape, tile_n: int) -> bool:
    """True if the weights can be operand A: multiples of 64 channels, and 128-byte swizzles."""
    return CAN_TRANSPOSE and conv.tile_k(tile_n) >= 64 and tile_n % 64 == 0 and conv.out_bytes <= 2


def cost(conv: ConvShape, config: Config, sm_count: int) -> float:
    """Estimated cycles of the busiest thread block; only ratios of costs are meaningful."""
    # Number of tiles per frame, or in all if a tile spans the clip.
    places = (
        conv.batch
        * math.ceil(conv.height / config.tile_h)
        * math.ceil(conv.width / config.tile_w)
        * conv.geometry.phases**2
        * (conv.channels // config.tile_n)
    )
    taps = conv.geometry.kernel[0]
    if config.tile_t > 1:
        # The tile copies everything once, but skips products with temporal zero padding.
        met = sum(conv.temporal_taps_met(frame) for frame in range(conv.time)) / (taps * conv.time)
        groups = [(places, _tile_cycles(conv, config, met, 1.0))]
    else:
        groups = []
        # Tiles of one frame, in the order in which they run.
        for frames in conv.frames_by_cost:
            met = conv.temporal_taps_met(frames[0])
            groups.append(
                (places * len(frames), _tile_cycles(conv, config, met / taps, float(met)))
            )
    # Nothing overlaps the last epilogue of a consumer, and little overlaps the others.
    epilogue = config.tile_m * config.tile_t * config.tile_n / _EPILOGUE_VALUES
    total, end = 0.0, 0
    # There is one thread block per SM, and tiles are dealt round-robin: the first block has the
    # tiles 0, sm_count, 2·sm_count, …
    for count, cycles in groups:
        rounds = math.ceil((end + count) / sm_count) - math.ceil(end / sm_count)
        total += rounds * (cycles + epilogue)
        end += count
    return total


def _tile_cycles(conv: ConvShape, config: Config, met: float, copies: float) -> float:
    """Estimated cycles of one tile's main loop: a soft maximum of its three parts.

    Args:
        conv: the convolution.
        config: tile sizes and ring depths.
        met: share of temporal taps that read frames of the clip; the others read zero padding and
            are skipped.
        copies: how many times the tile's inputs and weights are copied.
    """
    values = config.tile_m * config.tile_t * config.tile_n
    # Tensor cores: 64 × 32 products of 16 bits per cycle, twice as many of 8 bits.
    multiply = values * conv.products / (2 * 64 * 32 // conv.in_bytes)
    # Shared memory: WGMMA 64 × n × 16 reads 2 KB of A and 32·n bytes of B in n / 2 cycles.
    wgmma_n = config.tile_n
    if config.swap_ab:
        wgmma_n = config.tile_m // (1 if config.split_frames else CONSUMERS)
    # Pixels in registers are read once for all temporal taps.
    pixels = 1 / conv.geometry.kernel[0] if loads_pixels(conv, config) else met
    read = multiply * 2 / wgmma_n * (2048 * pixels + 32 * wgmma_n * met) / _SMEM_BANDWIDTH
    halo, weights = _stage_bytes(conv, config)
    # For each chunk of channels: a halo tile per horizontal tap, and the weights of every tap.
    copied = conv.depth / conv.tile_k(config.tile_n)
    copied *= conv.geometry.halo_tiles * halo + conv.geometry.spatial_taps * weights
    parts = (
        met * multiply,
        read + copies * copied / _SMEM_BANDWIDTH,  # copies also write to shared memory
        copies * copied / _L2_BANDWIDTH,
    )
    return sum(part**_OVERLAP_NORM for part in parts) ** (1 / _OVERLAP_NORM)


def _stage_bytes(conv: ConvShape, config: Config) -> tuple[int, int]:
    """Bytes of a halo tile of the input and of a tile of the weights."""
    tile_k = conv.tile_k(config.tile_n)
    rows = config.tile_h + max(conv.geometry.row_taps) - 1  # vertical taps read below the tile
    halo = config.tile_t * rows * config.tile_w * tile_k * conv.in_bytes
    # A tile that spans the clip multiplies all temporal taps with the same halo tile.
    temporal = conv.geometry.kernel[0] if config.tile_t > 1 else 1
    return halo, temporal * tile_k * config.tile_n * conv.in_bytes


def _store_n(conv: ConvShape, config: Config) -> int:
    """Output channels per store: at most as many as fit a swizzled row of 128 bytes."""
    return min(config.tile_n & -config.tile_n, 128 // conv.out_bytes)


def smem_bytes(conv: ConvShape, config: Config) -> int:
    """Shared memory of a thread block: the rings, and the epilogue's factors of each consumer."""
    halo, weights = _stage_bytes(conv, config)
    output = config.tile_m * _store_n(conv, config) * conv.out_bytes
    rings = (
        config.input_stages * halo + config.weight_stages * weights + config.store_stages * output
    )
    factors = CONSUMERS * 3 * 4 * config.tile_n  # float32 scale, offset and residual scale
    return rings + factors + _RESERVED


def _with_stages(conv: ConvShape, config: Config) -> Config | None:
    """The config with as many stages as fit; None if two of inputs and of weights do not fit."""
    # Copies and products overlap only with at least two stages of inputs and of weights.
    best = _staged(config, 2, 2, 1)
    if smem_bytes(conv, best) > SMEM_BYTES:
        return None
    # Allow two stores in flight if there is still room for a third stage of weights. The number of
    # stores per tile must be even, so that every tile starts at the same stage.
    stores = config.tile_t * config.tile_n // _store_n(conv, config)
    if stores % 2 == 0 and smem_bytes(conv, _staged(config, 2, 3, 2)) <= SMEM_BYTES:
        best = _staged(config, 2, 2, 2)
    # Deepen the ring of weights first: they change at every tap, halo tiles only after several.
    for _ in range(_MAX_STAGES):
        for inputs, weights in ((0, 1), (1, 0)):
            deeper = _staged(
                best, best.input_stages + inputs, best.weight_stages + weights, best.store_stages
            )
            fits = smem_bytes(conv, deeper) <= SMEM_BYTES
            if fits and max(deeper.input_stages, deeper.weight_stages) <= _MAX_STAGES:
                best = deeper
    return best


def _staged(config: Config, inputs: int, weights: int, stores: int) -> Config:
    return dataclasses.replace(
        config, input_stages=inputs, weight_stages=weights, store_stages=stores
    )
