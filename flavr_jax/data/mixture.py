# SPDX-License-Identifier: Apache-2.0
"""Training batches: synthetic clips and real ones side by side.

Synthetic clips have every in-between frame exactly and as much motion as is wished; real ones
have the noise, blur and lighting of cameras, but mostly only the middle frame.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key, UInt8

from flavr_jax.data import augment, clip_bank
from flavr_jax.data.pipeline import Window
from flavr_jax.data.sequences import N_INPUTS
from flavr_jax.data.synthetic import scenes
from flavr_jax.typing import Windows

__all__ = ["N_INPUTS", "Batch", "MixtureConfig", "RealClips", "draw", "from_windows"]


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """What a batch is made of.

    Attributes:
        crop: side of the square windows, a multiple of 8.
        batch_size: windows a step, over all devices.
        synthetic_share: share of windows that are synthetic; all are where there are no clips.
        middle_weight: weight of the middle time against each other one; 2× is what most videos
            are interpolated by, and what most real windows have.
        synthetic: what synthetic clips look like.
        augment: how real windows are changed.
    """

    crop: int = 256
    batch_size: int = 24
    synthetic_share: float = 0.5
    middle_weight: float = 3.0
    synthetic: scenes.SyntheticConfig = dataclasses.field(default_factory=scenes.SyntheticConfig)
    augment: augment.AugmentConfig = dataclasses.field(default_factory=augment.AugmentConfig)


class RealClips(NamedTuple):
    """Real clips on the device: to cut windows from, and textures for synthetic ones."""

    frames: UInt8[Array, "frames rows columns 3"]
    table: clip_bank.WindowTable


class Batch(NamedTuple):
    """Windows, the frames to predict, and the weight of each of these in the loss (0: unknown)."""

    inputs: Windows
    targets: Windows
    weights: Float[Array, "batch time"]


def draw(
    key: Key[Array, ""],
    n_outputs: int,
    config: MixtureConfig,
    real: RealClips | None,
    *,
    part: Int[Array, ""] | int = 0,
    parts: int = 1,
) -> Batch:
    """A batch for a network that predicts ``n_outputs`` frames inside the middle interval.

    Args:
        key: the same key is the same batch, into however many parts it is cut, as long as shares
            of synthetic and of blurred clips are whole numbers in each.
        n_outputs: frames sought.
        config: what the batch is made of.
        real: clips to cut windows from; without them all windows are synthetic.
        part: which part of the batch to draw.
        parts: how many parts there are; each has its share of synthetic windows.
    """
    inside = 1.0 + np.arange(1, n_outputs + 1) / (n_outputs + 1)
    times = jnp.asarray(np.concatenate([np.arange(N_INPUTS), inside]), jnp.float32)
    size = (config.crop, config.crop)
    n_windows = config.batch_size // parts
    n_synthetic = n_windows if real is None else round(n_windows * config.synthetic_share)
    key_synthetic, key_real = jax.random.split(key)

    drawn = []
    if n_synthetic > 0:
        textures = None if real is None else real.frames
        keys = _keys(key_synthetic, n_synthetic, part, parts)
        frames = scenes.draw_many(keys, times, size, config.synthetic, textures)
        drawn.append((frames, jnp.ones(frames.shape[:2])))
    if real is not None and n_synthetic < n_windows:
        keys = _keys(key_real, n_windows - n_synthetic, part, parts)
        drawn.append(
            jax.vmap(
                lambda key: clip_bank.draw(
                    key, times, size, real.frames, real.table, config.augment
                )
            )(keys)
        )
    frames, filmed = (jnp.concatenate(part) for part in zip(*drawn))
    return Batch(
        inputs=frames[:, :N_INPUTS],
        targets=frames[:, N_INPUTS:],
        weights=filmed[:, N_INPUTS:] * _importance(n_outputs, config),
    )


def from_windows(key: Key[Array, ""], windows: Window, config: MixtureConfig) -> Batch:
    """A batch of the loader's windows, each augmented by a transform of its own."""
    keys = jax.random.split(key, len(windows.inputs))
    pixels = (jnp.asarray(part, jnp.float32) / 255.0 for part in windows[:2])
    inputs, targets, filmed = jax.vmap(
        lambda key, *window: augment.apply(augment.draw(key, config.augment), *window)
    )(keys, *pixels, jnp.asarray(windows.weights))
    return Batch(inputs, targets, filmed * _importance(filmed.shape[1], config))


def _importance(n_outputs: int, config: MixtureConfig) -> Float[Array, " time"]:
    """The weight of each predicted time in the loss."""
    weights = np.ones(n_outputs, np.float32)
    if n_outputs % 2:
        weights[n_outputs // 2] = config.middle_weight
    return jnp.asarray(weights)


def _keys(
    key: Key[Array, ""], count: int, part: Int[Array, ""] | int, parts: int
) -> Key[Array, " count"]:
    """The keys of a part's windows: of one sequence, every ``parts``-th."""
    # Not a run of it: the first few windows of a batch differ from the others, in each part alike.
    return jax.vmap(jax.random.fold_in, (None, 0))(key, part + parts * jnp.arange(count))
