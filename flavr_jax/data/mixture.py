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
from jaxtyping import Float, Key, UInt8

from flavr_jax.data import clips, synthetic
from flavr_jax.typing import Windows

__all__ = ["N_INPUTS", "Batch", "MixtureConfig", "RealClips", "draw"]

N_INPUTS = 4  # what synthetic paths and clips' windows are laid out for


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """What a batch is made of.

    Attributes:
        crop: side of the square windows, a multiple of 8.
        batch_size: windows per device and step.
        synthetic_share: share of windows that are synthetic; all are where there are no clips.
        middle_weight: weight of the middle time against each other one; 2× is what most videos
            are interpolated by, and what most real windows have.
        synthetic: what synthetic clips look like.
    """

    crop: int = 256
    batch_size: int = 24
    synthetic_share: float = 0.5
    middle_weight: float = 3.0
    synthetic: synthetic.SyntheticConfig = dataclasses.field(
        default_factory=synthetic.SyntheticConfig
    )


class RealClips(NamedTuple):
    """Real clips on the device: to cut windows from, and textures for synthetic ones."""

    frames: UInt8[Array, "frames rows columns 3"]
    table: clips.WindowTable


class Batch(NamedTuple):
    """Windows, the frames to predict, and the weight of each of these in the loss (0: unknown)."""

    inputs: Windows
    targets: Windows
    weights: Float[Array, "batch time"]


def draw(
    key: Key[Array, ""], n_outputs: int, config: MixtureConfig, real: RealClips | None
) -> Batch:
    """A batch for a network that predicts ``n_outputs`` frames inside the middle interval."""
    inside = 1.0 + np.arange(1, n_outputs + 1) / (n_outputs + 1)
    times = jnp.asarray(np.concatenate([np.arange(N_INPUTS), inside]), jnp.float32)
    importance = np.where(inside == 1.5, config.middle_weight, 1.0)
    size = (config.crop, config.crop)
    n_synthetic = round(config.batch_size * config.synthetic_share)
    if real is None:
        n_synthetic = config.batch_size
    key_synthetic, key_real = jax.random.split(key)

    parts = []
    if n_synthetic > 0:
        textures = None if real is None else real.frames
        frames = jax.vmap(lambda key: synthetic.draw(key, times, size, config.synthetic, textures))(
            jax.random.split(key_synthetic, n_synthetic)
        )
        parts.append((frames, jnp.ones(frames.shape[:2])))
    if real is not None and n_synthetic < config.batch_size:
        keys = jax.random.split(key_real, config.batch_size - n_synthetic)
        parts.append(
            jax.vmap(lambda key: clips.draw(key, times, size, real.frames, real.table))(keys)
        )
    frames, filmed = (jnp.concatenate(part) for part in zip(*parts))
    return Batch(
        inputs=frames[:, :N_INPUTS],
        targets=frames[:, N_INPUTS:],
        weights=filmed[:, N_INPUTS:] * jnp.asarray(importance, jnp.float32)[None],
    )
