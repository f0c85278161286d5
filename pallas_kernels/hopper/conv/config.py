# SPDX-License-Identifier: Apache-2.0
"""Tile sizes of the convolution kernel: measured ones where there are some, else a cost model.

``tuned/<device>.json`` holds what was measured on a device, each config with the command and
environment that measured it. A Hopper card without a table of its own, or whose table lacks a
convolution, uses the H200's: all of them have the same SM, and differ in clock, memory and number
of SMs. What no table has, the cost model chooses. Nothing is ever measured silently.
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
    "CONSUMERS", "TABLES", "Config", "candidates", "choose", "cost", "record_convs", "smem_bytes",
    "tuned",
]  # fmt: skip

TABLES = Path(__file__).parents[2] / "tuned"
"""The folder of measured sizes, a file a device."""

CONSUMERS = 2
"""Warpgroups of a thread block that multiply; the one after them, the producer, copies.

Two double the tile that one warpgroup's registers can hold, and so the products per byte that is
copied. A third would leave each of them fewer registers than its sums take.
"""

_FALLBACK_TABLE = "nvidia_h200"
_ACCUMULATORS = CONSUMERS * 64 * 256  # float32 sums: 128 of a thread's 232 registers
_RESERVED = 2560  # bytes of shared memory for barriers and for adding up channels
_MAX_STAGES = 4  # more buys nothing once a copy's latency is hidden
_TILES = tuple((pixels // columns, columns) for pixels in (128, 256) for columns in (8, 16, 32, 64))
_MIN_ROW_BYTES = 32  # the narrowest swizzle
# Exponent of the p-norm that joins a tile's costs. Overlap is not perfect, so it is no maximum;
# of the exponents tried, 8 ranked the measured tiles best.
_OVERLAP_NORM = 8
# Per cycle and SM: bytes of shared memory (the hardware's), bytes from L2 and values finished by
# the epilogue (both about).
_SMEM_BANDWIDTH, _L2_BANDWIDTH, _EPILOGUE_VALUES = 128, 40, 40

_recorded: contextvars.ContextVar[list[ConvShape] | None] = contextvars.ContextVar(
    "recorded", default=None
)


@dataclasses.dataclass(frozen=True)
class Config:
    """How a convolution is cut into tiles, and how far copying runs ahead.

    Attributes:
        tile_h: rows of pixels; even, as the consumers take half of them each.
        tile_w: columns of pixels; a multiple of 8. ``tile_h · tile_w`` is a multiple of 128.
        tile_n: output channels of a tile, at most 256, the widest WGMMA.
        tile_t: frames of a tile: 1, or all frames of the clip.
        input_stages: halo tiles of the input in shared memory.
        weight_stages: tiles of the weights in shared memory.
        store_stages: output tiles of a consumer in shared memory.
        swap_ab: whether weights are operand A of the products and pixels operand B. Takes a
            multiple of 64 channels (the rows of A). An even number of frames is then split over
            the consumers, not the pixels: with few channels shared memory is read less often.
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
        """Pixels of a tile, per frame."""
        return self.tile_h * self.tile_w

    @property
    def split_frames(self) -> bool:
        """True if each consumer has half of the frames, rather than half of the pixels."""
        return self.swap_ab and self.tile_t % CONSUMERS == 0


def choose(conv: ConvShape, sm_count: int, table: str | None = None) -> Config:
    """The measured config for this convolution, or the one of the lowest estimated cost.

    Args:
        conv: the convolution.
        sm_count: of the GPU, for the cost model.
        table: name of a table; that of the device at hand where not given.

    Raises:
        ValueError: no tile fits its channels.
    """
    recorded = _recorded.get()
    if recorded is not None:
        recorded.append(conv)
    for name in (table or device.table_name(), _FALLBACK_TABLE):
        measured = tuned(name).get(conv.key)
        # Older JAX cannot transpose swizzled operands, which swap_ab does.
        if measured is not None and (CAN_TRANSPOSE or not measured.swap_ab):
            return measured
    possible = candidates(conv)
    if not possible:
        raise ValueError(
            f"{conv.in_channels} → {conv.channels} channels cannot be tiled; channels must be "
            "multiples of 16."
        )
    return min(possible, key=lambda config: cost(conv, config, sm_count))


def record_convs(function: Callable[..., object], *arguments: object) -> list[ConvShape]:
    """Every convolution, once each, that a config is chosen for while ``function`` is traced."""
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
    # Most cards have no table.
    if not path.exists():
        return {}
    fields = {field.name for field in dataclasses.fields(Config)}
    return {
        key: Config(**{name: value for name, value in entry.items() if name in fields})
        for key, entry in json.loads(path.read_text())["configs"].items()
    }


def candidates(conv: ConvShape) -> list[Config]:
    """Every tile that fits registers and shared memory, with the deepest rings that do."""
    # A tile that spans the clip reads each input frame once for all output frames that meet it.
    # Beyond 4 frames its sums would not fit the registers at any useful tile_n.
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
    """True if the weights can be operand A: whole rows of 64 channels, and 128-byte swizzles."""
    return CAN_TRANSPOSE and conv.tile_k(tile_n) >= 64 and tile_n % 64 == 0 and conv.out_bytes <= 2


def cost(conv: ConvShape, config: Config, sm_count: int) -> float:
    """Estimated cycles of the thread block with the most to do; only ratios mean something."""
    # Tiles per frame, or per clip if a tile spans it.
    places = (
        conv.batch
        * math.ceil(conv.height / config.tile_h)
        * math.ceil(conv.width / config.tile_w)
        * conv.geometry.phases**2
        * (conv.channels // config.tile_n)
    )
    taps = conv.geometry.kernel[0]
    if config.tile_t > 1:
        # The tile copies everything once, but multiplies only what meets a frame.
        met = sum(conv.temporal_taps_met(frame) for frame in range(conv.time)) / (taps * conv.time)
        groups = [(places, _tile_cycles(conv, config, met, 1.0))]
    else:
        groups = []
        # Tiles of one frame, in the order in which they are run.
        for frames in conv.frames_by_cost:
            met = conv.temporal_taps_met(frames[0])
            groups.append(
                (places * len(frames), _tile_cycles(conv, config, met / taps, float(met)))
            )
    # Nothing overlaps the last epilogue of a consumer, and little the others.
    epilogue = config.tile_m * config.tile_t * config.tile_n / _EPILOGUE_VALUES
    total, end = 0.0, 0
    # Tiles go round the thread blocks, one an SM: the first one has tiles 0, sm_count, 2·sm_count…
    for count, cycles in groups:
        rounds = math.ceil((end + count) / sm_count) - math.ceil(end / sm_count)
        total += rounds * (cycles + epilogue)
        end += count
    return total


def _tile_cycles(conv: ConvShape, config: Config, met: float, copies: float) -> float:
    """Cycles of one tile's main loop: about the slowest of its three parts.

    Args:
        conv: the convolution.
        config: tile and rings.
        met: share of the temporal taps that meets frames of the clip; the rest is left out.
        copies: how often the tile's inputs and weights are copied.
    """
    values = config.tile_m * config.tile_t * config.tile_n
    # Tensor cores: 64 × 32 products of 16 bits a cycle, twice as many of 8 bits.
    multiply = values * conv.products / (2 * 64 * 32 // conv.in_bytes)
    # Shared memory: WGMMA 64 × n × 16 reads 2 KB of A and 32·n bytes of B in n / 2 cycles.
    wgmma_n = config.tile_n
    if config.swap_ab:
        wgmma_n = config.tile_m // (1 if config.split_frames else CONSUMERS)
    read = multiply * 2 / wgmma_n * (2048 + 32 * wgmma_n) / _SMEM_BANDWIDTH
    halo, weights = _stage_bytes(conv, config)
    # Per chunk of channels: a halo tile for each horizontal tap, weights for every tap.
    copied = conv.depth / conv.tile_k(config.tile_n)
    copied *= conv.geometry.halo_tiles * halo + conv.geometry.spatial_taps * weights
    parts = (
        met * multiply,
        met * read + copies * copied / _SMEM_BANDWIDTH,  # what is copied is written there, too
        copies * copied / _L2_BANDWIDTH,
    )
    return sum(part**_OVERLAP_NORM for part in parts) ** (1 / _OVERLAP_NORM)


def _stage_bytes(conv: ConvShape, config: Config) -> tuple[int, int]:
    """Bytes of a halo tile of the input and of a tile of the weights."""
    tile_k = conv.tile_k(config.tile_n)
    rows = config.tile_h + max(conv.geometry.row_taps) - 1  # the taps below the first reach further
    halo = config.tile_t * rows * config.tile_w * tile_k * conv.in_bytes
    # A tile that spans the clip multiplies every temporal tap while its halo tile is there.
    temporal = conv.geometry.kernel[0] if config.tile_t > 1 else 1
    return halo, temporal * tile_k * config.tile_n * conv.in_bytes


def _store_n(conv: ConvShape, config: Config) -> int:
    """Output channels that are stored at a time: as many as a swizzle of 128 bytes holds."""
    return min(config.tile_n & -config.tile_n, 128 // conv.out_bytes)


def smem_bytes(conv: ConvShape, config: Config) -> int:
    """Shared memory of a thread block: the rings, and each consumer's factors of the epilogue."""
    halo, weights = _stage_bytes(conv, config)
    output = config.tile_m * _store_n(conv, config) * conv.out_bytes
    rings = (
        config.input_stages * halo + config.weight_stages * weights + config.store_stages * output
    )
    factors = CONSUMERS * 3 * 4 * config.tile_n  # float32 scale, offset and residual scale
    return rings + factors + _RESERVED


def _with_stages(conv: ConvShape, config: Config) -> Config | None:
    """The config with as many stages as fit, or None where not even two of each do."""
    stores = config.tile_t * config.tile_n // _store_n(conv, config)

    def staged(inputs: int, weights: int, outputs: int) -> Config | None:
        deeper = dataclasses.replace(
            config, input_stages=inputs, weight_stages=weights, store_stages=outputs
        )
        return deeper if smem_bytes(conv, deeper) <= SMEM_BYTES else None

    # Two of each is the least that lets copies and products overlap.
    stages = [2, 2, 1]
    best = staged(*stages)
    if best is None:
        return None
    # Two stores in flight, where that leaves room for a third stage of weights. A tile has to
    # store an even number of times, so that it begins and ends at the same stage.
    if stores % 2 == 0 and staged(2, 3, 2):
        stages[2] = 2
        best = staged(*stages) or best
    # Weights first: they turn over once a tap, halo tiles once in several taps.
    for _ in range(_MAX_STAGES):
        for ring in (1, 0):
            deeper = [count + (index == ring) for index, count in enumerate(stages)]
            if deeper[ring] <= _MAX_STAGES and (found := staged(*deeper)):
                stages, best = deeper, found
    return best
