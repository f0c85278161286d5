# SPDX-License-Identifier: Apache-2.0
"""More clips out of those there are: pure functions that treat all frames of a window alike.

What happens to a window is drawn once, as values, and then applied to every frame. Where each
frame drew its own, at least five published re-trainings of FLAVR stuck at 17 to 20 dB.

Functions of indices say which frames to read, on the host, before anything is decoded; functions of
pixels run on the device, under ``jit`` and ``vmap``.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key, UInt8

__all__ = [
    "AugmentConfig",
    "Transform",
    "apply",
    "draw",
    "expose",
    "recolour",
    "reorient",
    "reverse",
    "sharpen",
    "window_indices",
]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How much windows are changed; 0 or false leaves that alone.

    Attributes:
        flips: left and right, top and bottom are swapped, each in half of the windows.
        turns: half of the windows are transposed: with flips these are all quarter turns. Only for
            square windows.
        reversal: half of the windows run backwards.
        contrast: colours are scaled by 1 ± this.
        brightness: and shifted by ± this.
        balance: red, green and blue are scaled by 1 ± this, each by its own.
        sharpness: fine detail is raised by up to this; see :func:`sharpen`.
    """

    flips: bool = True
    turns: bool = True
    reversal: bool = True
    contrast: float = 0.1
    brightness: float = 0.05
    balance: float = 0.05
    sharpness: float = 1.5


class Transform(NamedTuple):
    """What happens to one window: the same to each of its frames."""

    flip_x: Bool[Array, ""]
    flip_y: Bool[Array, ""]
    transpose: Bool[Array, ""]
    backwards: Bool[Array, ""]
    gain: Float[Array, "3"]
    offset: Float[Array, ""]
    sharpness: Float[Array, ""]


def draw(key: Key[Array, ""], config: AugmentConfig) -> Transform:
    """A random transform."""
    key_flags, key_colour = jax.random.split(key)
    happens = jax.random.bernoulli(key_flags, shape=(4,)) & jnp.array(
        [config.flips, config.flips, config.turns, config.reversal]
    )
    contrast, brightness, sharp, *balance = jax.random.uniform(key_colour, (6,), minval=-1.0)
    return Transform(
        *happens,
        gain=(1.0 + config.contrast * contrast) * (1.0 + config.balance * jnp.stack(balance)),
        offset=config.brightness * brightness,
        sharpness=config.sharpness * (0.5 + 0.5 * sharp),
    )


def apply(
    transform: Transform,
    inputs: Float[Array, "inputs height width 3"],
    targets: Float[Array, "outputs height width 3"],
    weights: Float[Array, " outputs"],
) -> tuple[
    Float[Array, "inputs height width 3"],
    Float[Array, "outputs height width 3"],
    Float[Array, " outputs"],
]:
    """A window transformed; ``weights`` belong to the targets and turn round with them.

    The targets are at times that lie symmetrically in the middle interval, as k/n do.
    """
    inputs, targets, weights = (
        reverse(each, transform.backwards) for each in (inputs, targets, weights)
    )
    frames = recolour(reorient(jnp.concatenate([inputs, targets]), transform), transform)
    return frames[: len(inputs)], frames[len(inputs) :], weights


def reverse(frames: Float[Array, "time ..."], backwards: Bool[Array, ""]) -> Array:
    """Frames, or whatever there is one of a frame, in the opposite order."""
    return jnp.where(backwards, frames[::-1], frames)


def reorient(
    frames: Float[Array, "time height width 3"], transform: Transform
) -> Float[Array, "time height width 3"]:
    """Frames flipped and, where they are square, transposed."""
    frames = jnp.where(transform.flip_x, frames[:, :, ::-1], frames)
    frames = jnp.where(transform.flip_y, frames[:, ::-1], frames)
    if frames.shape[1] == frames.shape[2]:
        frames = jnp.where(transform.transpose, frames.swapaxes(1, 2), frames)
    return frames


def recolour(
    frames: Float[Array, "time height width 3"], transform: Transform
) -> Float[Array, "time height width 3"]:
    """Sharper frames of another contrast, brightness and white balance, within [0, 1]."""
    frames = sharpen(frames, transform.sharpness)
    return jnp.clip(frames * transform.gain + transform.offset, 0.0, 1.0)


def sharpen(
    frames: Float[Array, "*time height width 3"], amount: Float[Array, ""]
) -> Float[Array, "*time height width 3"]:
    """Frames with so many times more of what a 1-2-1 blur either way takes away.

    The finest detail grows to 1 + ``amount`` times its size. It moves as it did: the filter is the
    same everywhere.
    """
    blurred = frames
    for axis in (frames.ndim - 3, frames.ndim - 2):
        beside = [(1, 1) if each == axis else (0, 0) for each in range(frames.ndim)]
        padded = jnp.pad(blurred, beside, mode="edge")
        size = frames.shape[axis]
        before = lax.slice_in_dim(padded, 0, size, axis=axis)
        after = lax.slice_in_dim(padded, 2, size + 2, axis=axis)
        blurred = 0.25 * (before + after) + 0.5 * blurred
    return frames + amount * (frames - blurred)


def window_indices(
    start: int, spacing: int, times: Float[np.ndarray, " time"]
) -> tuple[Int[np.ndarray, " time"], Bool[np.ndarray, " time"]]:
    """Numbers of the frames at ``times`` of a window, and whether each was filmed at that time.

    Args:
        start: frame number of the window's first input.
        spacing: frames between inputs: another one is another frame rate of the same clip.
        times: in intervals between inputs.
    """
    moments = times * spacing
    nearest = np.rint(moments)
    return (start + nearest).astype(np.int64), np.abs(moments - nearest) < 1e-6


def expose(
    frames: UInt8[np.ndarray, "shutter height width 3"],
) -> UInt8[np.ndarray, "height width 3"]:
    """One frame as if the shutter had been open for all of these: with the blur of motion.

    Light adds up, not the values it is coded by, so the mean is taken of light (gamma 2.2).
    """
    if len(frames) == 1:
        return frames[0]
    light = _LIGHT[frames].mean(axis=0)
    return np.rint(255.0 * light ** (1 / 2.2)).astype(np.uint8)


_LIGHT = (np.arange(256, dtype=np.float32) / 255.0) ** np.float32(2.2)
