# SPDX-License-Identifier: Apache-2.0
"""An estimate of how long a network takes, without compiling it.

The number of multiplications in a window is known. A product of two matrices is timed on the
device, and the network is assumed to reach a share of that speed which was measured once.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np

from flavr_jax.config import ModelConfig, Precision
from flavr_jax.inference.tiles import Tiling, share_of_rows
from flavr_jax.models import head, quantized

__all__ = ["multiplications", "seconds_per_window"]

_SHARES = {"cpu": 0.5, "gpu": 0.35}
"""Multiplications per second of the network as a share of those of a matrix product."""


def multiplications(config: ModelConfig, height: int, width: int, factor: int) -> int:
    """Multiplications in one window whose middle interval gets ``factor − 1`` frames."""
    pixels = height * width / config.trunk_scale**2
    # `products` counts those for 64×64 pixels.
    trunk = sum(each.products for each in quantized.convolutions(config)) / 64**2
    channels, refine = head.CHANNELS if config.base == "warp" else 3, config.refine
    fused = config.n_inputs * config.width**2
    output = 49 * config.width * channels
    refined = 9 * refine * (12 + channels + config.refine_layers * refine + channels)
    context = 9 * refine * config.width
    return round(pixels * (trunk + fused + context + (factor - 1) * (output + refined)))


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
        multiple = config.multiple
        read = share_of_rows(config, -(-height // multiple) * multiple, tiling) * tiling.stripes
        passes = 1 if tiling.passes is None else tiling.passes
        count = round(count * read * (1 + (passes + 2 * (tiling.passes is None)) / 2))
    kind = "cpu" if jax.default_backend() == "cpu" else "gpu"
    return count / (_SHARES[kind] * _speed(precision))


def _speed(precision: Precision) -> float:
    """Multiplications per second in a product of two square matrices."""
    small = jax.default_backend() == "cpu"
    size = 1024 if small else 8192
    dtype = jnp.float32 if precision == "fp32" else jnp.bfloat16
    a = jax.device_put(np.full((size, size), 1 / size, np.float32)).astype(dtype)
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()
    started, repeats = time.monotonic(), 4
    product = a
    for _ in range(repeats):
        product = multiply(product, a)
    product.block_until_ready()
    return repeats * size**3 / (time.monotonic() - started)
