# SPDX-License-Identifier: Apache-2.0
"""An estimate of how long a network takes, without compiling it.

The number of multiplications in a window is known. A product of two matrices is timed on the
device, and the network is assumed to reach a share of that speed which was measured once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flavr_jax.config import ModelConfig, Precision
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.inference.tiles import Tiling, share_of_rows
from flavr_jax.models import head, quantized
from flavr_jax.timeline.clock import OutputTiming, output_info
from flavr_jax.video.frames import ClipInfo

__all__ = ["forecast", "multiplications", "seconds_per_window"]

_SHARES = {"cpu": 0.9, "cpu in int8": 1.7, "gpu": 0.5}
"""Multiplications per second of the network as a share of those of a matrix product.

In int8 on a CPU, the product is one of float32. The GPU's share is that of the bundled network in
fp8 on an H200, which makes 150 to 180 · 10¹² a second from 448×256 to 7680×4320; a product in
bfloat16 is assumed to reach 350 · 10¹² there.
"""


def multiplications(config: ModelConfig, height: int, width: int, factor: int) -> int:
    """Multiplications in one window whose middle interval gets ``factor − 1`` frames."""
    pixels = height * width / config.trunk_scale**2
    # `products` counts those for 64×64 pixels.
    trunk = sum(each.products for each in quantized.convolutions(config)) / 64**2
    channels = head.CHANNELS if config.base == "warp" else 3
    fused = config.n_inputs * config.width**2
    # The output convolution has 7×7 taps.
    output = 49 * config.width * channels
    corrected = context = 0.0
    for look in config.looks:
        fold = look.folded(config.trunk_scale)
        positions = 1 / look.times_smaller(config.trunk_scale) ** 2  # for a pixel of the trunk
        further = 6 * (config.flow_pairs - 1) * (look is config.looks[-1])
        read_and_written = fold**2 * (12 + 2 * channels + further)
        each = 9 * look.channels * positions
        corrected += each * (read_and_written + look.layers * look.channels)
        context += each * config.width
    return round(pixels * (trunk + fused + context + (factor - 1) * (output + corrected)))


def seconds_per_window(
    config: ModelConfig,
    precision: Precision,
    height: int,
    width: int,
    factor: int,
    tiling: Tiling,
) -> float:
    """Estimate how long a window takes on the default device; off by a factor of 2 at worst.

    This takes about a second, in which a matrix product is timed.
    """
    count = multiplications(config, height, width, factor)
    if tiling.stripes > 1 and tiling.split == "all":
        padded = math.ceil(height / config.multiple) * config.multiple
        overlapping = share_of_rows(config, padded, tiling)[0] * tiling.stripes
        # A pass that measures gates leaves out the last layers, about half of the network; exact
        # gates take about four.
        passes = 4 if tiling.passes is None else tiling.passes
        count = round(count * overlapping * (1 + passes / 2))
    kind = "cpu" if jax.default_backend() == "cpu" else "gpu"
    kind += " in int8" * (precision == "int8")
    return count / (_SHARES[kind] * _speed(precision))


def forecast(
    network: Interpolator,
    clip: ClipInfo,
    timing: OutputTiming,
    levels: Sequence[int],
    tiling: Tiling,
) -> str:
    """Describe in words what a run makes and how long it takes.

    Args:
        network: the network.
        clip: the input.
        timing: output rate and stretch.
        levels: number of parts that each pass splits an interval into; unless every interval is
            split into all of them, finer passes compute fewer windows than counted here.
        tiling: how a window is divided.
    """
    seconds = seconds_per_window(
        network.config, network.precision, clip.height, clip.width, max(levels), tiling
    )
    made = output_info(clip, timing)
    if not clip.frame_count or not made.frame_count:
        return (
            "the input does not state its number of frames; "
            f"about {_rounded(seconds)} s an interval."
        )
    passes = levels if timing.fps is None else levels[:1]
    windows = clip.frame_count - 1
    total = 0
    for level in passes:
        total += windows
        windows *= level
    # The last frame is held as long as in the input, so the output's rate would give too little.
    lasts = clip.frame_count / clip.rate
    return (
        f"{clip.frame_count} frames in {float(lasts):.4g} s → "
        f"{made.frame_count} frames in {float(lasts * timing.stretch):.4g} s; the network "
        f"computes {total} windows in about {_rounded(total * seconds)} s on this device, if it "
        "has no other work, after compilation."
    )


def _rounded(seconds: float) -> str:
    """Two digits, or whole seconds, never an exponent."""
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def _speed(precision: Precision) -> float:
    """Multiplications per second in a product of two square matrices."""
    small = jax.default_backend() == "cpu"
    size = 1024 if small else 8192
    dtype = jnp.float32 if precision in ("fp32", "int8") else jnp.bfloat16
    # Every element of a product is again 1/size, so that repeated products cannot overflow.
    a = jax.device_put(np.full((size, size), 1 / size, np.float32)).astype(dtype)
    multiply = jax.jit(jnp.matmul)
    # Compiles the program, whose time must not count.
    multiply(a, a).block_until_ready()
    started, repeats = time.monotonic(), 4
    product = a
    for _ in range(repeats):
        product = multiply(product, a)
    product.block_until_ready()
    return repeats * size**3 / (time.monotonic() - started)
