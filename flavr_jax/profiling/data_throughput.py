# SPDX-License-Identifier: Apache-2.0
"""Throughput of training data, measured on synthetic clips, so that no data set is needed.

The clips have noise like that of a camera. Detail determines how long an image takes to decode;
without noise, PNG files would be smaller and decode faster than those of real footage.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flavr_jax.data import clip_bank, mixture
from flavr_jax.data.sequences import ArrayClip
from flavr_jax.data.synthetic import scenes

__all__ = ["bank", "batches_per_second", "septuplets"]


def batches_per_second(draw: Callable[[], Any], seconds: float, *, warm_up: int = 2) -> float:
    """Measure how many batches per second ``draw`` completes on the device.

    Args:
        draw: makes a batch.
        seconds: length of the measurement.
        warm_up: batches before the measurement, while the first is compiled and a loader fills its
            buffer.
    """
    for _ in range(warm_up):
        jax.block_until_ready(draw())
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        jax.block_until_ready(draw())
        count += 1
    return count / elapsed


def septuplets(count: int) -> list[ArrayClip]:
    """Draw clips like those of Vimeo-90K: seven frames of 448×256 pixels, with noise."""
    times, size = jnp.linspace(0.0, 3.0, 7), (256, 448)
    config = scenes.SyntheticConfig(texture_size=512)
    draw = jax.jit(lambda key: scenes.draw(key, times, size, config))
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        clean = 255.0 * np.asarray(draw(jax.random.key(number)))
        noisy = np.rint(clean + rng.normal(0.0, 2.0, clean.shape)).clip(0, 255)
        found.append(ArrayClip(f"{number:05d}", noisy.astype(np.uint8)))
    return found


def bank(found: list[ArrayClip]) -> mixture.RealClips:
    """Put clips of one size on the device, to cut windows from."""
    frames = np.concatenate([clip.frames for clip in found])
    lengths = np.array([len(clip) for clip in found])
    widths = np.full_like(lengths, frames.shape[2])
    held = clip_bank.ClipBank(frames, np.cumsum(lengths) - lengths, lengths, widths)
    return mixture.RealClips(jax.device_put(frames), clip_bank.tabulate(held))
