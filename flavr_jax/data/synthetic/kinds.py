# SPDX-License-Identifier: Apache-2.0
"""Kinds of footage that textured layers on smooth paths do not show, and the clocks that time them.

Drawings that are held and frames that are repeated are motion by a clock that stands still. A clock
gives the scene's time at each of the four inputs and is linear between them. The true frame
between two different drawings is thus their smooth in-between, and the one between two equal
frames equals both.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key

from flavr_jax.data.synthetic.motion import MIDDLE, log_between

__all__ = ["Clock", "Kind", "Shares", "grain", "held", "random_kind", "read", "repeated", "slowed"]

Clock = Float[Array, "4"]
"""Scene time at the inputs 0, 1, 2 and 3."""

_INPUTS = (0.0, 1.0, 2.0, 3.0)
_REPEATED = ((0.0, 0.0, 2.0, 3.0), (0.0, 1.0, 1.0, 3.0), (0.0, 1.0, 2.0, 2.0))


@dataclasses.dataclass(frozen=True)
class Shares:
    """Share of synthetic clips of each kind; a clip may be of several kinds.

    Attributes:
        cartoon: flat colours and outlines; objects deform, and their drawings are held for one, two
            or three inputs.
        overlay: two captions, panels or logos that stay in place, partly semi-transparent.
        slow: the fastest motion is 0.03 to 1 pixel per interval.
        repeated: one input repeats the input before it.
        noise: every frame, inputs and targets alike, has noise of its own of 1 to 8 levels of 255.
            With clean targets a network would learn to remove noise, and videos would flicker
            between noisy originals and clean made frames.
        dark: a scene at 5 to 35 % of its brightness.
        occluder: a large object passes in front, at a quarter of ``MotionConfig.max_speed`` or
            faster.
    """

    cartoon: float = 0.06
    overlay: float = 0.08
    slow: float = 0.06
    repeated: float = 0.04
    noise: float = 0.1
    dark: float = 0.06
    occluder: float = 0.08

    def __post_init__(self) -> None:
        for name, share in dataclasses.asdict(self).items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"`shares.{name}` is {share}; choose a share from 0 to 1.")


class Kind(NamedTuple):
    """Kinds that one clip is of, and the values that they need."""

    cartoon: Bool[Array, ""]
    overlay: Bool[Array, ""]
    slow: Bool[Array, ""]
    repeated: Bool[Array, ""]
    noise: Bool[Array, ""]
    dark: Bool[Array, ""]
    occluder: Bool[Array, ""]
    pace: Float[Array, ""]  # fastest motion of a slow clip, in pixels per interval
    pattern: Int[Array, ""]  # input that is repeated
    grain: Float[Array, ""]  # standard deviation of the noise
    light: Float[Array, ""]  # brightness of the scene
    hold: Int[Array, ""]  # inputs for which a drawing is held
    outline: Float[Array, ""]  # width of a cartoon's outlines in texels


def random_kind(key: Key[Array, ""], shares: Shares) -> Kind:
    """Draw the kinds of a clip."""
    u = jax.random.uniform(key, (13,))
    happens = u[:7] < jnp.asarray(dataclasses.astuple(shares))
    cartoon, *_, noise, dark, _ = happens
    return Kind(
        *happens,
        pace=log_between(u[7], 0.03, 1.0),
        pattern=(3 * u[8]).astype(jnp.int32),
        grain=noise * (1.0 + 7.0 * u[9]) / 255.0,
        light=jnp.where(dark, log_between(u[10], 0.05, 0.35), 1.0),
        hold=jnp.where(cartoon, 1 + (3 * u[11]).astype(jnp.int32), 1),
        outline=jnp.where(cartoon, 1.0 + 2.0 * u[12], 0.0),
    )


def read(clock: Clock, time: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the scene's time at the given times; linear between inputs and beyond them."""
    before = jnp.clip(jnp.floor(time), 0.0, 2.0)
    index = before.astype(jnp.int32)
    return clock[index] + (time - before) * (clock[index + 1] - clock[index])


def repeated(kind: Kind) -> Clock:
    """Clock of a scene in which an input is repeated, if its kind says so."""
    return jnp.where(kind.repeated, jnp.asarray(_REPEATED)[kind.pattern], jnp.asarray(_INPUTS))


def slowed(clock: Clock, pace: Float[Array, ""]) -> Clock:
    """Slow a clock down about the middle of the window, to ``pace`` times its speed."""
    return MIDDLE + pace * (clock - MIDDLE)


def held(hold: Int[Array, ""], phase: Float[Array, ""]) -> Clock:
    """Clock of drawings that are each held for ``hold`` inputs.

    The motion from one drawing to the next is that of one interval at any ``hold``, so that it
    stays within the ranges of ``MotionConfig``.

    Args:
        hold: number of inputs that show the same drawing.
        phase: from 0 to 1, which of them is the first.
    """
    offset = jnp.floor(phase * hold)
    drawing = jnp.floor((jnp.asarray(_INPUTS) + offset) / hold)
    # Drawing numbers are centred, so that objects are in view in the middle of the window.
    return jnp.where(hold == 1, jnp.asarray(_INPUTS), drawing - drawing.mean() + MIDDLE)


def grain(
    seed: Array, times: Float[Array, " time"], size: tuple[int, int]
) -> Float[Array, "time height width 3"]:
    """Noise of nearly normal distribution and unit variance; equal times have equal noise.

    Shot noise is nearly constant in gamma-encoded values, so its strength does not depend on the
    brightness. Each value is a hash of its position, which fuses with the arithmetic around it; a
    random generator's bits would pass through memory.

    Args:
        seed: 32-bit integer of the clip.
        times: scene times of the frames.
        size: height and width of a frame in pixels.
    """
    frame = _hash(lax.bitcast_convert_type(times, jnp.uint32) ^ seed)
    place = lax.iota(jnp.uint32, size[0] * size[1] * 3).reshape(*size, 3)
    bits = _hash(frame[:, None, None, None] + place)
    # By the central limit theorem, a sum of four bytes is close to normal.
    total = sum(((bits >> shift) & 255).astype(jnp.float32) for shift in (0, 8, 16, 24))
    # A byte has the mean 127.5 and the variance (256² − 1) / 12.
    return (total - 4 * 127.5) / (4 * (256.0**2 - 1.0) / 12) ** 0.5


def _hash(x: Array) -> Array:
    """Mix 32-bit integers: lowbias32 of https://nullprogram.com/blog/2018/07/31/."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
