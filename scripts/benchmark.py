# SPDX-License-Identifier: Apache-2.0
"""Time the network: ``scripts/benchmark.py --model default --size 256 448``."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Literal

import flax
import jax
import jax.numpy as jnp

from flavr_jax import cli
from flavr_jax.models import flavr
from flavr_jax.models.presets import PRESETS, Preset


@dataclasses.dataclass(frozen=True)
class Options:
    """Time one call of the network with random weights, by implementation."""

    model: Preset = "flavr_2x"
    """Which network: the official ones by factor, or the bundled one's."""
    size: tuple[int, int] = (256, 448)
    """Height and width in pixels, multiples of 8."""
    batch: int = 1
    """Windows a call."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the network computes in."""
    implementations: tuple[Literal["xla", "reference"], ...] = ("xla",)
    """``reference`` is plain lax: 3-D convolutions and input-dilated transposed ones."""
    repeats: int = 5
    """Timed calls after a warm-up; the median counts."""
    json: Path | None = None
    """Append the figures there, a line an implementation."""


def main(options: Options) -> None:
    """Print a line an implementation."""
    config = PRESETS[options.model]
    params = jax.tree.map(
        lambda leaf: leaf.astype(options.dtype), flavr.init(config, jax.random.key(0))
    )
    height, width = options.size
    shape = (options.batch, config.n_inputs, height, width, 3)
    windows = jax.random.uniform(jax.random.key(1), shape, jnp.float32)
    apply = jax.jit(flavr.apply, static_argnums=0, static_argnames="implementation")
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}, flax {flax.__version__}")
    for name in options.implementations:
        started = time.perf_counter()
        jax.block_until_ready(apply(config, params, windows, implementation=name))
        first = time.perf_counter() - started
        seconds = []
        for _ in range(options.repeats):
            started = time.perf_counter()
            jax.block_until_ready(apply(config, params, windows, implementation=name))
            seconds.append(time.perf_counter() - started)
        median = statistics.median(seconds)
        print(
            f"{name}: {1e3 * median:.1f} ms a call "
            f"({1e3 * min(seconds):.1f} to {1e3 * max(seconds):.1f}), first call {first:.1f} s"
        )
        if options.json is not None:
            figures = {
                **dataclasses.asdict(options),
                "json": None,
                "implementation": name,
                "seconds": seconds,
                "device": device.device_kind,
                "jax": jax.__version__,
            }
            with options.json.open("a") as file:
                file.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    cli.run(main, Options)
