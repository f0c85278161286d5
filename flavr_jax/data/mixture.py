# SPDX-License-Identifier: Apache-2.0
"""Training batches that mix synthetic and real windows.

Synthetic clips have an exact frame at every target time and motion of any size. Real clips have
the noise, blur and lighting of cameras, but most have a true frame only at the middle time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key, UInt8

from flavr_jax.data import augment, clip_bank
from flavr_jax.data.pipeline import Window
from flavr_jax.data.sequences import N_INPUTS
from flavr_jax.data.synthetic import rendered, scenes
from flavr_jax.typing import Windows

__all__ = ["N_INPUTS", "Batch", "MixtureConfig", "RealClips", "draw", "from_windows"]


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """Composition of a batch.

    Attributes:
        crop: side of the square windows in pixels, a multiple of ``ModelConfig.multiple``.
        batch_size: number of windows in a step, over all devices.
        synthetic_share: share of synthetic windows; without real clips every window is synthetic.
        rendered_share: share of the synthetic windows that show rendered worlds, with parallax and
            perspective; the others show layers.
        middle_weight: loss weight of the middle time; the other times have weight 1. Most videos
            are interpolated by 2×, which needs only the middle time, and it is the only target of
            most real windows.
        synthetic: content and motion of clips made of layers.
        rendered: content and motion of rendered clips.
        augment: augmentation of real windows.
    """

    crop: int = 256
    batch_size: int = 24
    synthetic_share: float = 0.5
    rendered_share: float = 0.0
    middle_weight: float = 3.0
    synthetic: scenes.SyntheticConfig = dataclasses.field(default_factory=scenes.SyntheticConfig)
    rendered: rendered.RenderedConfig = dataclasses.field(default_factory=rendered.RenderedConfig)
    augment: augment.AugmentConfig = dataclasses.field(default_factory=augment.AugmentConfig)


class RealClips(NamedTuple):
    """Real clips on the device: the source of real windows and of textures for synthetic ones."""

    frames: UInt8[Array, "frames rows columns 3"]
    table: clip_bank.SamplingTable


class Batch(NamedTuple):
    """Input frames, frames to predict, and each target's loss weight (0 if it was not filmed)."""

    inputs: Windows
    targets: Windows
    weights: Float[Array, "batch time"]


def draw(
    key: Key[Array, ""],
    n_outputs: int,
    config: MixtureConfig,
    real: RealClips | None,
    photographs: UInt8[Array, "n rows columns 3"] | None = None,
    *,
    part: Int[Array, ""] | int = 0,
    parts: int = 1,
) -> Batch:
    """Draw a batch for a network that predicts ``n_outputs`` frames of the middle interval.

    The same key gives the same batch for any number of parts, provided that the numbers of
    synthetic and of blurred windows in a part are whole.

    Args:
        key: random key that determines the batch.
        n_outputs: number of target frames of a window.
        config: composition of the batch.
        real: clips to cut real windows from; None makes every window synthetic.
        photographs: still pictures as further textures of synthetic windows.
        part: index of the part to draw, such as the device's index.
        parts: number of parts; each has the same share of synthetic windows.
    """
    inside = 1.0 + np.arange(1, n_outputs + 1) / (n_outputs + 1)
    times = jnp.asarray(np.concatenate([np.arange(N_INPUTS), inside]), jnp.float32)
    # Counts are Python integers, because shapes have to be known when the step is compiled.
    size = (config.crop, config.crop)
    n_windows = config.batch_size // parts
    n_synthetic = n_windows if real is None else round(n_windows * config.synthetic_share)
    key_synthetic, key_real = jax.random.split(key)

    drawn = []
    if n_synthetic > 0:
        keys = _keys(key_synthetic, n_synthetic, part, parts)
        textures = None if real is None else real.frames
        drawn += _synthetic(keys, times, config, textures, photographs)
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
        weights=filmed[:, N_INPUTS:] * _time_weights(n_outputs, config),
    )


def _synthetic(
    keys: Key[Array, " n"],
    times: Float[Array, " time"],
    config: MixtureConfig,
    textures: UInt8[Array, "frames rows columns 3"] | None,
    photographs: UInt8[Array, "m rows columns 3"] | None,
) -> Iterator[tuple[Float[Array, "some time height width 3"], Float[Array, "some time"]]]:
    """Draw rendered windows, then layered ones; all their frames count as filmed."""
    size = (config.crop, config.crop)
    n_rendered = round(len(keys) * config.rendered_share)
    draw_rendered = functools.partial(rendered.draw_many, config=config.rendered)
    draw_layers = functools.partial(scenes.draw_many, config=config.synthetic)
    for some, draw_many in ((keys[:n_rendered], draw_rendered), (keys[n_rendered:], draw_layers)):
        if len(some):
            frames = draw_many(some, times, size, textures=textures, photographs=photographs)
            yield frames, jnp.ones(frames.shape[:2])


def from_windows(key: Key[Array, ""], windows: Window, config: MixtureConfig) -> Batch:
    """Make a batch of windows from the loader, each augmented by its own random transform."""
    keys = jax.random.split(key, len(windows.inputs))
    pixels = (jnp.asarray(part, jnp.float32) / 255.0 for part in windows[:2])
    inputs, targets, filmed = jax.vmap(
        lambda key, *window: augment.apply(augment.draw(key, config.augment), *window)
    )(keys, *pixels, jnp.asarray(windows.weights))
    return Batch(inputs, targets, filmed * _time_weights(filmed.shape[1], config))


def _time_weights(n_outputs: int, config: MixtureConfig) -> Float[Array, " time"]:
    """Loss weight of each target time."""
    weights = np.ones(n_outputs, np.float32)
    # An even number of times has none in the middle.
    if n_outputs % 2:
        weights[n_outputs // 2] = config.middle_weight
    return jnp.asarray(weights)


def _keys(
    key: Key[Array, ""], count: int, part: Int[Array, ""] | int, parts: int
) -> Key[Array, " count"]:
    """Keys of the windows of one part: every ``parts``-th key of the whole batch's sequence."""
    # Strided, not contiguous: `draw_many` blurs the first windows that it gets. With contiguous
    # keys, a batch drawn in parts would blur other windows than the same batch drawn as a whole.
    return jax.vmap(jax.random.fold_in, (None, 0))(key, part + parts * jnp.arange(count))
