# SPDX-License-Identifier: Apache-2.0
"""Augmentation of training windows: pure functions that treat all frames of a window alike.

The parameters of a transform are drawn once per window and applied to each of its frames. Drawing
them per frame destroys the motion: at least five published attempts to retrain FLAVR did so and
stayed at 17 to 20 dB.

Functions of frame numbers run on the host, before anything is decoded. Functions of pixels run on
the device, under ``jit`` and ``vmap``.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Float32, Int, Key, Shaped, UInt8

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
    """Which transforms windows may get, and how strong they are; 0 or false switches one off.

    Attributes:
        flips: flip horizontally, and vertically, each with probability 1/2.
        turns: transpose square windows with probability 1/2; with flips, all quarter turns occur.
        reversal: reverse time with probability 1/2.
        contrast: largest change of the common gain of all colours (gain 1 ± ``contrast``).
        brightness: largest offset added to all colours.
        balance: largest change of each colour channel's own gain.
        sharpness: largest ``amount`` of :func:`sharpen`.
    """

    flips: bool = True
    turns: bool = True
    reversal: bool = True
    contrast: float = 0.1
    brightness: float = 0.05
    balance: float = 0.05
    sharpness: float = 1.5


class Transform(NamedTuple):
    """Parameters of the transform of one window, the same for all of its frames."""

    flip_x: Bool[Array, ""]
    flip_y: Bool[Array, ""]
    transpose: Bool[Array, ""]
    backwards: Bool[Array, ""]
    gain: Float[Array, "3"]
    offset: Float[Array, ""]
    sharpness: Float[Array, ""]


def draw(key: Key[Array, ""], config: AugmentConfig) -> Transform:
    """Draw a random transform within the limits of ``config``."""
    key_flags, key_colour = jax.random.split(key)
    happens = jax.random.bernoulli(key_flags, shape=(4,)) & jnp.array(
        [config.flips, config.flips, config.turns, config.reversal]
    )
    contrast, brightness, sharp, *balance = jax.random.uniform(key_colour, (6,), minval=-1.0)
    return Transform(
        *happens,
        gain=(1.0 + config.contrast * contrast) * (1.0 + config.balance * jnp.stack(balance)),
        offset=config.brightness * brightness,
        # From [-1, 1) to [0, 1): a negative amount would blur.
        sharpness=config.sharpness * (0.5 + 0.5 * sharp),
    )


def apply(
    transform: Transform, frames: UInt8[Array, "time height width 3"]
) -> Float32[Array, "time height width 3"]:
    """Turn the frames of one window, and change their colours.

    Time is not reversed here but by the caller, who may reverse the times before frames are read
    (see :func:`reverse`).

    Args:
        transform: parameters from :func:`draw`.
        frames: the window's frames. They are turned while a pixel still has 3 bytes, not 12.

    Returns:
        The transformed frames in [0, 1].
    """
    return recolour(reorient(frames, transform), transform)


def reverse(frames: Shaped[Array, "time ..."], backwards: Bool[Array, ""]) -> Array:
    """Reverse an array along its first axis if ``backwards`` is true.

    Targets at times that are symmetric about the middle of their window are mapped onto each other.
    """
    return jnp.where(backwards, frames[::-1], frames)


def reorient(
    frames: Shaped[Array, "time height width 3"], transform: Transform
) -> Shaped[Array, "time height width 3"]:
    """Flip frames and, if they are square, transpose them."""
    frames = jnp.where(transform.flip_x, frames[:, :, ::-1], frames)
    frames = jnp.where(transform.flip_y, frames[:, ::-1], frames)
    if frames.shape[1] == frames.shape[2]:
        frames = jnp.where(transform.transpose, frames.swapaxes(1, 2), frames)
    return frames


def recolour(
    frames: UInt8[Array, "time height width 3"], transform: Transform
) -> Float32[Array, "time height width 3"]:
    """Sharpen frames and change contrast, brightness and white balance; clip to [0, 1]."""
    sharpened = sharpen(frames, transform.sharpness) / 255.0
    return jnp.clip(sharpened * transform.gain + transform.offset, 0.0, 1.0)


def sharpen(
    frames: Shaped[Array, "*time height width 3"], amount: Float[Array, ""]
) -> Float32[Array, "*time height width 3"]:
    """Sharpen by unsharp masking: add ``amount`` times what a separable 1-2-1 blur removes.

    The highest frequency is amplified by 1 + ``amount``. Motion is preserved, because the filter
    is the same at every position. Frames may have any unit; 8-bit ones are blurred without error.
    """
    *time, height, width, colours = frames.shape
    # With pixels and colours as one axis, a GPU finds neighbours by less arithmetic.
    rows = frames.reshape(*time, height, width * colours)
    blurred = rows.astype(jnp.uint16) if rows.dtype == jnp.uint8 else rows
    # Each sum is a pass of its own: in one pass, every pixel would be read nine times.
    blurred = lax.optimization_barrier(_blurred(blurred, rows.ndim - 2, 1))
    blurred = _blurred(blurred, rows.ndim - 1, colours)
    levels = rows.astype(jnp.float32)
    sharpened = levels + amount * (levels - blurred.astype(jnp.float32) / 16.0)
    return sharpened.reshape(frames.shape)


def _blurred(
    x: Shaped[Array, "*time height columns"], axis: int, step: int
) -> Shaped[Array, "*time height columns"]:
    """Four times the 1-2-1 blur of values ``step`` apart along an axis.

    The first and last ``step`` values stand in for what lies beyond them.
    """
    size = x.shape[axis]
    # XLA fuses padding with zeros, but not with the values at the ends, which count once more.
    padded = jnp.pad(x, [(step, step) if each == axis else (0, 0) for each in range(x.ndim)])
    before, after = (
        lax.slice_in_dim(padded, start, start + size, axis=axis) for start in (0, 2 * step)
    )
    weight = np.full(size, 2, x.dtype)
    weight[:step] += 1
    weight[-step:] += 1
    return before + x * np.expand_dims(weight, tuple(range(1, x.ndim - axis))) + after


def window_indices(
    start: int, spacing: int, times: Float[np.ndarray, " time"]
) -> tuple[Int[np.ndarray, " time"], Bool[np.ndarray, " time"]]:
    """Find the frames of a clip nearest to the given times of a window.

    Args:
        start: frame number of the window's first input.
        spacing: number of frames from one input to the next; it sets the frame rate at which the
            clip is sampled.
        times: times in intervals between inputs; 0 is the first input.

    Returns:
        The frame numbers, and whether each frame was filmed exactly at the time asked for.
    """
    moments = times * spacing
    nearest = np.rint(moments)
    return (start + nearest).astype(np.int64), np.abs(moments - nearest) < 1e-6


def expose(
    frames: UInt8[np.ndarray, "shutter height width 3"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Average frames into one with motion blur, as if the shutter had been open throughout.

    The mean is taken in linear light, approximated by a gamma of 2.2, because a sensor adds up
    light and not gamma-encoded values.
    """
    if len(frames) == 1:
        return frames[0]
    light = _LIGHT[frames].mean(axis=0)
    return np.rint(255.0 * light ** (1 / 2.2)).astype(np.uint8)


# Linear light of each 8-bit value: a look-up in place of a power for every pixel.
_LIGHT = (np.arange(256, dtype=np.float32) / 255.0) ** np.float32(2.2)
