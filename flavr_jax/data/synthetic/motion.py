# SPDX-License-Identifier: Apache-2.0
"""Motion in synthetic clips: textured planes on smooth paths, deformed by waves.

Paths are polynomials in time about the middle of the clip, so that objects are in view there. All
ranges are settings, because a network handles motion only as large as it was trained on.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Key

__all__ = [
    "MIDDLE",
    "MotionConfig",
    "Path",
    "bend",
    "log_between",
    "normal",
    "plane_from_image",
    "product",
    "random_path",
    "random_wave",
    "speed",
]

MIDDLE = 1.5
"""Time about which paths are expanded, in intervals: the middle of a window of inputs 0 to 3."""


@dataclasses.dataclass(frozen=True)
class MotionConfig:
    """Ranges of motion, in pixels and radians per interval between two inputs of a window.

    An interval is two frames of DAVIS at 2×, or eight of GoPro at 8×. Motion there reaches 60
    pixels and more, so the ranges are wide. Small motion is still frequent: every octave of speed
    is equally likely, and most turns and zooms are far below their limits.

    Attributes:
        min_speed: lowest speed of moving layers, in pixels.
        max_speed: highest speed, in pixels.
        curvature: standard deviation of the acceleration, relative to the speed.
        max_turn: highest rate of rotation in the image plane, in radians.
        max_zoom: highest rate of change of size; 0.15 is 15 % per interval.
        tilt: standard deviation of a plane's tilt out of the image, as relative change of scale per
            pixel; half of that is the standard deviation of its change per interval.
        max_shake: largest amplitude of hand-held camera shake, in pixels; one path in three shakes.
            Its frequency stays below one oscillation in two intervals, because faster shake
            could not be inferred from the inputs.
        max_bend: largest deformation of non-rigid layers, in pixels; two layers in five deform.
    """

    min_speed: float = 0.5
    max_speed: float = 48.0
    curvature: float = 0.15
    max_turn: float = 0.25
    max_zoom: float = 0.15
    tilt: float = 4e-4
    max_shake: float = 6.0
    max_bend: float = 14.0

    def __post_init__(self) -> None:
        if not 0 < self.min_speed <= self.max_speed:
            raise ValueError(
                f"`min_speed` is {self.min_speed} and `max_speed` {self.max_speed}; choose "
                "a `min_speed` above 0 and not above `max_speed`."
            )


class Path(NamedTuple):
    """Smooth motion of a plane; coefficients of polynomials in time − MIDDLE, constants first."""

    position: Float[Array, "4 2"]
    angle: Float[Array, "3"]
    log_scale: Float[Array, "3"]  # pixels per unit of the plane
    tilt: Float[Array, "2 2"]
    shake: Float[Array, "3 2"]  # amplitude, angular frequency and phase, horizontal and vertical


def random_path(
    key: Key[Array, ""],
    size: tuple[int, int],
    config: MotionConfig,
    *,
    moves: Float[Array, ""],
    pixels_per_texel: tuple[float, float],
    spread: Float[Array, ""] | float,
) -> Path:
    """Draw a random path.

    Args:
        key: random key that determines the path.
        size: height and width of a frame in pixels.
        config: ranges of motion.
        moves: 1.0, or 0.0 for a plane at rest.
        pixels_per_texel: range of the plane's scale.
        spread: size of the region about the frame's centre in which the plane's centre is at the
            time ``MIDDLE``, relative to the frame: 0 is the centre, 1 the whole frame.
    """
    # All random values in one call: each call adds a fifth of a second of compilation.
    u = jax.random.uniform(key, (25,))
    speed = log_between(u[0], config.min_speed, config.max_speed)
    velocity = speed * jnp.stack([jnp.cos(2 * math.pi * u[1]), jnp.sin(2 * math.pi * u[1])])
    # Taylor terms of second and third order: acceleration / 2! and its derivative / 3!.
    bends = speed * config.curvature * normal(u[2:6]).reshape(2, 2)
    bends = bends * jnp.array([[1 / 2], [1 / 6]])
    half_frame = jnp.array([size[1] / 2, size[0] / 2])
    place = spread * half_frame * (2.0 * u[6:8] - 1.0)
    angle, log_scale = 2 * math.pi * u[8], jnp.log(log_between(u[9], *pixels_per_texel))
    # Cubes of uniform values favour slow rates: half of them are below an eighth of the limit.
    rates = (2.0 * u[10:14].reshape(2, 2) - 1.0) ** 3 * jnp.array([1.0, 0.3])
    tilt = config.tilt * normal(u[14:18]).reshape(2, 2) * jnp.array([[1.0], [0.5]])
    shake = config.max_shake * (u[18] < 1 / 3) * u[19:21] ** 2  # mostly small amplitudes
    # Angular frequencies up to 3 per interval are below π, one oscillation in two intervals.
    sway = jnp.stack([3.0 * u[21:23], 2 * math.pi * u[23:25]])
    return Path(
        position=jnp.concatenate([place[None], moves * velocity[None], moves * bends]),
        angle=jnp.concatenate([angle[None], moves * config.max_turn * rates[0]]),
        log_scale=jnp.concatenate([log_scale[None], moves * config.max_zoom * rates[1]]),
        tilt=moves * tilt,
        shake=jnp.concatenate([moves * shake[None], sway]),
    )


def plane_from_image(path: Path, time: Float[Array, ""]) -> Float[Array, "3 3"]:
    """Homography from image positions, in pixels from the centre, to texels of the plane."""
    since = time - MIDDLE
    powers = jnp.stack([jnp.ones_like(since), since, since**2, since**3])
    amplitude, frequency, phase = path.shake
    centre = (path.position * powers[:, None]).sum(0)
    x, y = centre + amplitude * jnp.sin(frequency * since + phase)
    angle = (path.angle * powers[:3]).sum()
    scale = jnp.exp(-(path.log_scale * powers[:3]).sum())
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    # The last row of a homography is its perspective: depth grows by tilt per pixel.
    tilt_x, tilt_y = path.tilt[0] + path.tilt[1] * since
    zero, one = jnp.zeros_like(cos), jnp.ones_like(cos)
    turn = jnp.stack([cos, sin, zero, -sin, cos, zero, tilt_x, tilt_y, one]).reshape(3, 3)
    shift = jnp.stack([one, zero, -x, zero, one, -y, zero, zero, one]).reshape(3, 3)
    return product(turn, shift)


def product(left: Float[Array, "3 3"], right: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Matrix product in full float32.

    GPUs multiply float32 matrices in TF32 by default; its 10-bit mantissa makes positions jump by
    visible fractions of a pixel.
    """
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def speed(path: Path, wave: Float[Array, "4 2"], size: tuple[int, int]) -> Float[Array, ""]:
    """Bound on the speed in any pixel of a frame at the time ``MIDDLE``, in pixels per interval."""
    reach = math.hypot(*size) / 2
    amplitude, frequency, _ = path.shake
    shift, shake, tilt, bend = (
        jnp.linalg.norm(of)
        for of in (path.position[1], amplitude * frequency, path.tilt[1], wave[0] * wave[3])
    )
    rate = jnp.abs(path.angle[1]) + jnp.abs(path.log_scale[1]) + tilt * reach
    return shift + shake + rate * reach + bend * jnp.exp(path.log_scale[0])


def random_wave(
    key: Key[Array, ""], config: MotionConfig, *, always: Bool[Array, ""] | bool = False
) -> Float[Array, "4 2"]:
    """Draw a travelling sine wave that deforms a layer, with probability 2/5; else amplitude 0.

    Args:
        key: random key that determines the wave.
        config: ranges of motion.
        always: deform the layer in any case.

    Returns:
        Amplitude, wave number, phase and speed of the horizontal and the vertical deformation.
    """
    amplitude, number, phase, speed, (bends, _) = jax.random.uniform(key, (5, 2))
    number = 0.01 + 0.09 * number**2
    # The slope of the deformation is amplitude · number; near 1 the picture would fold over.
    highest = jnp.minimum(config.max_bend, 0.5 / number)
    amplitude = ((bends < 0.4) | always) * highest * amplitude
    return jnp.stack([amplitude, number, 2 * math.pi * phase, 2.0 * speed - 1.0])


def bend(
    wave: Float[Array, "4 2"],
    u: Float[Array, "height width"],
    v: Float[Array, "height width"],
    time: Float[Array, ""],
) -> tuple[Float[Array, "height width"], Float[Array, "height width"]]:
    """Displace positions on a plane by a wave from :func:`random_wave`."""
    amplitude, number, phase, speed = wave
    angle = phase + speed * (time - MIDDLE)
    return (
        u + amplitude[0] * jnp.sin(number[0] * v + angle[0]),
        v + amplitude[1] * jnp.sin(number[1] * u + angle[1]),
    )


def log_between(uniform: Array, low: float, high: float) -> Array:
    """Map uniform values in [0, 1] to log-uniform values from ``low`` to ``high``."""
    return low * (high / low) ** uniform


def normal(uniform: Array) -> Array:
    """Map uniform values in [0, 1] to standard normal ones."""
    # Clipped: the inverse error function is infinite at ±1.
    return math.sqrt(2) * lax.erf_inv(jnp.clip(2.0 * uniform - 1.0, -0.999999, 0.999999))
