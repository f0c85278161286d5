# SPDX-License-Identifier: Apache-2.0
"""The plan of a run: how many intervals are computed at once, and in how many stripes.

The plan follows from a model of the memory that a window takes, so it is known before anything is
compiled. The model counts bytes per pixel: frames, which are always whole; feature maps of the
coarse layers; and what the fine layers hold, divided by the number of stripes. Its coefficients
were fitted to the compiler's own plans (``compiled.memory_analysis()``), and tests compare both.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator

import jax

from flavr_jax.config import LookConfig, ModelConfig, Precision
from flavr_jax.inference.options import Tiles
from flavr_jax.inference.tiles import WHOLE, Tiling, share_of_rows
from flavr_jax.models import head

__all__ = [
    "Plan",
    "available_memory",
    "is_out_of_memory",
    "memory",
    "plan",
    "smaller",
]

GIB = 2**30

_FAST_PASSES = 1
"""Passes that measure gates in ``fast`` tiles."""

_MOST_STRIPES = 256

_FULL_DEVICE = 4 * 1280 * 720
"""Pixels of all intervals of a batch that keep a GPU busy at 4x and more; 2x takes twice as many.

Starting a computation takes the host as long for one window as for several. On an H200, whole runs
at 1280×720 make 8 % more frames with 4 windows at a time than with 2 at 8x (3,436 and 3,184 a
second, both without CUDA graphs), and with 8 than with 4 at 2x (1,676 and 1,553).
"""


@dataclasses.dataclass(frozen=True)
class _Coefficients:
    """Fitted numbers of a backend.

    Attributes:
        coarse: feature maps at half the U-Net's size that exist at once.
        striped: factor of ``coarse`` if these layers run in stripes, too.
        last: feature maps at the U-Net's size that exist at once before frames are made.
        fine: those that exist while frames are made.
        refine: maps of the look with the largest maps that exist at once, for each predicted frame.
        look: bytes per pixel and predicted frame for displacements, weights and looked-up pixels.
        windows: float32 copies of the input frames.
        table: tables of neighbouring pixels for the look-ups.
        results: copies of the made frames, which include those of computations in the queue.
    """

    coarse: float
    striped: float
    last: float
    fine: float
    refine: float
    look: float
    windows: float
    table: float
    results: float


# Fitted to the compiler's plans for a CPU and for an H200, which tests/inference/test_planner.py
# lists.
_COEFFICIENTS = {
    "cpu": _Coefficients(8.0, 1.5, 2.6, 0.6, 0.5, 79.0, windows=1.0, table=0.35, results=3.3),
    "cpu in int8": _Coefficients(
        10.0, 1.5, 2.6, 0.6, 0.5, 55.0, windows=1.0, table=0.35, results=3.3
    ),
    "gpu": _Coefficients(1.5, 1.0, 0.0, 1.0, 1.31, 47.0, 0.05, 1.95, 5.0),
    "16-bit kernels": _Coefficients(5.7, 1.0, 0.0, 0.1, 1.7, 8.4, 0.05, 0.05, 5.0),
    "8-bit kernels": _Coefficients(0.81, 0.7, 0.0, 0.41, 1.9, 0.1, 0.05, 0.03, 5.0),
}

# Maps in fp8 count as 16 bits, the unit in which the coefficients of 8-bit kernels are fitted;
# without those kernels the network computes in bfloat16.
_BYTES = {"fp32": 4, "int8": 4, "bf16": 2, "fp16": 2, "fp8": 2}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How windows are computed.

    Attributes:
        batch: intervals at a time.
        tiling: how each window is divided.
        memory: expected bytes of device memory, without the network's parameters.
        limit: bytes that may be used.
    """

    batch: int
    tiling: Tiling
    memory: int
    limit: int

    def __str__(self) -> str:
        many = f"{self.batch} intervals at a time" if self.batch > 1 else "1 interval at a time"
        return f"{many}, {self.tiling}, about {self.memory / GIB:.2g} of {self.limit / GIB:.3g} GiB"


def plan(
    config: ModelConfig,
    precision: Precision,
    height: int,
    width: int,
    factor: int,
    *,
    limit: int | None = None,
    tiles: Tiles = "auto",
    batch: int | None = None,
) -> Plan:
    """Choose the fastest way to compute windows within a limit of memory.

    Args:
        config: the network.
        precision: what it computes in, not ``auto``.
        height: height of the frames in pixels.
        width: width of the frames in pixels.
        factor: of one pass; ``factor − 1`` frames are made per interval.
        limit: bytes of device memory; None for :func:`available_memory`.
        tiles: whether windows may be divided.
        batch: intervals at a time; None to choose.

    Raises:
        ValueError: not even the smallest allowed stripes fit; the message says what would.
    """
    limit = available_memory() if limit is None else limit
    least: Plan | None = None
    for number, tiling in _ways(config, height, width, factor, tiles, batch):
        needed = memory(config, precision, height, width, factor, number, tiling)
        found = Plan(number, tiling, needed, limit)
        if needed <= limit:
            return found
        if least is None or needed < least.memory:
            least = found
    assert least is not None
    remedy = "" if tiles in ("auto", "fast") else " or `tiles` auto"
    raise ValueError(
        f"`memory-limit` is {limit / GIB:.3g} GiB, but {width}×{height} pixels take at least "
        f"{least.memory / GIB:.3g} GiB ({least.tiling}); use a higher limit{remedy}."
    )


def smaller(
    config: ModelConfig,
    precision: Precision,
    height: int,
    width: int,
    factor: int,
    tiling: Tiling,
) -> Tiling | None:
    """The next tiling to try after a device ran out of memory with one window at a time.

    It takes at most two thirds of the memory, since the model has just proved too optimistic, or
    the least that is possible; None if nothing takes less.
    """

    def needed(tiling: Tiling) -> int:
        return memory(config, precision, height, width, factor, 1, tiling)

    ways = [way for _, way in _ways(config, height, width, factor, "auto", 1)]
    least = min(ways, key=needed)
    if needed(least) >= needed(tiling):
        return None
    return next((way for way in ways if needed(way) <= needed(tiling) * 2 / 3), least)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a device that ran out of memory from a host that did, and from other errors."""
    # JAX has no class for this error: XLA's status is in the text.
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def _ways(
    config: ModelConfig, height: int, width: int, factor: int, tiles: Tiles, batch: int | None
) -> Iterator[tuple[int, Tiling]]:
    """Yield batches and tilings that are allowed, the fastest first."""
    if batch is None:
        batch = 1
        if jax.default_backend() != "cpu":
            full = _FULL_DEVICE * (2 if factor == 2 else 1)
            batch = min(16, max(1, full // (height * width)))
    whole = 1 << (batch.bit_length() - 1)  # compiled programs have powers of two
    while whole:
        yield whole, WHOLE
        whole //= 2
    # A stripe has a whole row of the coarsest map: 2 rows of the trunk's frames in the fine layers,
    # 8 in all layers. A padded frame has a multiple of 8.
    counts = [2**n for n in range(1, _MOST_STRIPES.bit_length())]
    rows = math.ceil(height / config.multiple)
    if tiles in ("auto", "exact"):
        yield from ((1, Tiling(n)) for n in counts if n <= 4 * rows)
    if tiles != "off":
        passes = None if tiles == "exact" else _FAST_PASSES
        yield from ((1, Tiling(n, "all", passes)) for n in counts if n <= rows)


def memory(
    config: ModelConfig,
    precision: Precision,
    height: int,
    width: int,
    factor: int,
    batch: int,
    tiling: Tiling,
) -> int:
    """Bytes of device memory that a batch of windows takes, without the network's parameters."""
    known = _COEFFICIENTS[_kind(precision)]
    multiple, scale, outputs = config.multiple, config.trunk_scale, factor - 1
    rows, columns = (math.ceil(side / multiple) * multiple for side in (height, width))
    # All in bytes per pixel of a padded frame.
    value = _BYTES[precision] / scale**2
    # Input frames are float32 RGB (12 bytes), at full size and as the trunk sees them.
    windows = known.windows * config.n_inputs * 12 * (1 + 1 / scale**2)
    # Made frames are rounded to 8-bit RGB before they are kept.
    result = known.results * 3 * outputs
    # XLA looks up rows of 4 neighbouring float32 pixels (48 bytes), in both middle frames.
    table = known.table * 96 * (1 + 1 / scale**2) if config.base == "warp" else 0
    map_bytes = config.n_inputs * config.width * value
    coarse = known.coarse * map_bytes / 4 * (known.striped if tiling.split == "all" else 1)
    look = known.look if config.base == "warp" else known.look / 4
    look *= 1 + 0.75 * (config.flow_pairs - 1)  # a further pair has 6 raw outputs, the first 8
    corrected = max((_widest(config, each) for each in config.looks), default=0.0) * value
    fine = known.fine * map_bytes + outputs * (known.refine * corrected + look)
    coarse_rows, fine_rows = share_of_rows(config, rows, tiling)
    # The last coarse feature map and a skip connection live on while the fine layers run.
    later = max(known.last * map_bytes, fine) * fine_rows + coarse_rows * 2 * map_bytes / 4
    layers = max(coarse * coarse_rows, later)
    many = batch if tiling == WHOLE else 1
    return int(rows * columns * (batch * (windows + result) + many * (table + layers)))


def _widest(config: ModelConfig, look: LookConfig) -> float:
    """Channels of the widest map of a look, for each pixel of the U-Net's frames."""
    fold, smaller = look.folded(config.trunk_scale), look.times_smaller(config.trunk_scale)
    # Two warped images and the raw outputs; the GPU kernels add 2 channels of zeros.
    return max(look.channels, fold**2 * (6 + head.CHANNELS + 2)) / smaller**2


def _kind(precision: Precision) -> str:
    """The kind of device and kernels, which decides how many feature maps exist at once."""
    if jax.default_backend() == "cpu":
        return "cpu in int8" if precision == "int8" else "cpu"
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    # Only Hopper (9.0) has kernels for convolutions, in 16 and in 8 bits.
    if capability != "9.0" or precision == "fp32":
        return "gpu"
    return "8-bit kernels" if precision == "fp8" else "16-bit kernels"


def available_memory() -> int:
    """Bytes of memory that a run may use on the default device: what is free, less a reserve.

    On a CPU, it is half of the free memory of the machine, because decoder and encoder share it.
    """
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return int(0.9 * (statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)))
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return free // 2
