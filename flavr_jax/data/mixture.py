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

_CHOICE = 0x0E  # keeps the random numbers that choose a target apart from those that draw a window


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
        one_target: a window has one target, drawn in proportion to the weights of its known times,
            and the network's head computes that frame alone. The loss is the same on average over
            many steps, and a step of an 8× network with looks takes a fraction of the time.
        synthetic: content and motion of clips made of layers.
        rendered: content and motion of rendered clips.
        augment: augmentation of real windows.
    """

    crop: int = 256
    batch_size: int = 24
    synthetic_share: float = 0.5
    rendered_share: float = 0.0
    middle_weight: float = 3.0
    one_target: bool = False
    synthetic: scenes.SyntheticConfig = dataclasses.field(default_factory=scenes.SyntheticConfig)
    rendered: rendered.RenderedConfig = dataclasses.field(default_factory=rendered.RenderedConfig)
    augment: augment.AugmentConfig = dataclasses.field(default_factory=augment.AugmentConfig)


class RealClips(NamedTuple):
    """Real clips on the device: the source of real windows and of textures for synthetic ones."""

    frames: UInt8[Array, "frames rows columns 3"]
    table: clip_bank.SamplingTable


class Batch(NamedTuple):
    """Windows to learn from.

    Attributes:
        inputs: input frames.
        targets: frames to predict.
        weights: loss weight of each target; 0 if it was not filmed.
        outputs: which of the network's outputs each target belongs to; None if it has all of them.
    """

    inputs: Windows
    targets: Windows
    weights: Float[Array, "batch time"]
    outputs: Int[Array, "batch time"] | None = None


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
    # Counts are Python integers, because shapes have to be known when the step is compiled.
    n_windows = config.batch_size // parts
    n_synthetic = n_windows if real is None else round(n_windows * config.synthetic_share)
    key_synthetic, key_real = jax.random.split(key)

    drawn = []
    if n_synthetic > 0:
        keys = _keys(key_synthetic, n_synthetic, part, parts)
        textures = None if real is None else real.frames
        drawn += _synthetic(keys, n_outputs, config, textures, photographs)
    if real is not None and n_synthetic < n_windows:
        keys = _keys(key_real, n_windows - n_synthetic, part, parts)
        drawn.append(_real(keys, n_outputs, config, real))
    return jax.tree.map(lambda *some: jnp.concatenate(some), *drawn)


def _synthetic(
    keys: Key[Array, " n"],
    n_outputs: int,
    config: MixtureConfig,
    textures: UInt8[Array, "frames rows columns 3"] | None,
    photographs: UInt8[Array, "m rows columns 3"] | None,
) -> Iterator[Batch]:
    """Draw rendered windows, then layered ones; all their frames count as filmed."""
    size = (config.crop, config.crop)
    weights = jnp.broadcast_to(_time_weights(n_outputs, config), (len(keys), n_outputs))
    # Chosen before they are drawn, so that no frame is drawn in vain.
    outputs = _chosen(keys, weights) if config.one_target else None
    every = jnp.broadcast_to(jnp.arange(n_outputs), weights.shape)
    times = _times(every if outputs is None else outputs, n_outputs)
    n_rendered = round(len(keys) * config.rendered_share)
    draw_rendered = functools.partial(rendered.draw_many, config=config.rendered)
    draw_layers = functools.partial(scenes.draw_many, config=config.synthetic)
    parts = (slice(None, n_rendered), draw_rendered), (slice(n_rendered, None), draw_layers)
    for some, draw_many in parts:
        if not len(keys[some]):
            continue
        frames = draw_many(
            keys[some], times[some], size, textures=textures, photographs=photographs
        )
        yield Batch(
            frames[:, :N_INPUTS],
            frames[:, N_INPUTS:],
            weights[some] if outputs is None else jnp.ones(outputs[some].shape),
            None if outputs is None else outputs[some],
        )


def _real(keys: Key[Array, " n"], n_outputs: int, config: MixtureConfig, real: RealClips) -> Batch:
    """Cut windows out of real clips."""
    outputs, weights = jnp.arange(n_outputs), _time_weights(n_outputs, config)
    if config.one_target:
        times = _times(outputs, n_outputs)
        filmed = jax.vmap(lambda key: clip_bank.filmed(key, times, real.table, config.augment))(
            keys
        )
        # Chosen before windows are cut, so that no frame is cut in vain.
        outputs = _chosen(keys, filmed[:, N_INPUTS:] * weights)
    else:
        outputs = jnp.broadcast_to(outputs, (len(keys), n_outputs))
    size = (config.crop, config.crop)
    frames, filmed = jax.vmap(
        lambda key, times: clip_bank.draw(key, times, size, real.frames, real.table, config.augment)
    )(keys, _times(outputs, n_outputs))
    weights = filmed[:, N_INPUTS:] * weights[outputs]
    inputs, targets = frames[:, :N_INPUTS], frames[:, N_INPUTS:]
    if not config.one_target:
        return Batch(inputs, targets, weights)
    return Batch(inputs, targets, (weights > 0).astype(jnp.float32), outputs)


def _times(outputs: Int[Array, "*n output"], n_outputs: int) -> Float[Array, "*n time"]:
    """Times of the inputs, and of the given outputs of the network."""
    inputs = jnp.broadcast_to(jnp.arange(N_INPUTS, dtype=jnp.float32), (*outputs.shape[:-1], 4))
    inside = 1.0 + (outputs + 1.0) / (n_outputs + 1)
    return jnp.concatenate([inputs, inside], axis=-1)


def _chosen(keys: Key[Array, " n"], weights: Float[Array, "n output"]) -> Int[Array, "n 1"]:
    """Index of one output of each window, drawn in proportion to the weights."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _CHOICE)
    return jax.vmap(jax.random.categorical)(keys, jnp.log(weights))[:, None]


def _one_target(keys: Key[Array, " n"], batch: Batch) -> Batch:
    """The same windows with one of their known targets; its weight is 0 if none is known."""
    chosen = _chosen(keys, batch.weights)
    known = jnp.take_along_axis(batch.weights, chosen, axis=1) > 0
    targets = jnp.take_along_axis(batch.targets, chosen[:, :, None, None, None], axis=1)
    return Batch(batch.inputs, targets, known.astype(jnp.float32), chosen)


def from_windows(key: Key[Array, ""], windows: Window, config: MixtureConfig) -> Batch:
    """Make a batch of windows from the loader, each augmented by its own random transform."""
    keys = jax.random.split(key, len(windows.inputs))
    changes = jax.vmap(lambda key: augment.draw(key, config.augment))(keys)
    inputs, targets, filmed = (
        jax.vmap(augment.reverse)(jnp.asarray(part), changes.backwards) for part in windows
    )
    batch = Batch(inputs, targets, filmed * _time_weights(filmed.shape[1], config))
    if config.one_target:
        batch = _one_target(keys, batch)  # before pixels are changed, so that none is in vain
    inputs, targets = (jax.vmap(augment.apply)(changes, part) for part in batch[:2])
    return batch._replace(inputs=inputs, targets=targets)


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
