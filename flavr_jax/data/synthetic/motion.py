# SPDX-License-Identifier: Apache-2.0
"""How things move in synthetic clips: planes along smooth paths, bent by waves.

Paths are polynomials about the middle of the clip, where objects are in view. All ranges are
settings: a network finds motion as large as it has been shown, and no larger.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Key

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
]

MIDDLE = 1.5
"""The time about which paths are expanded."""


@dataclasses.dataclass(frozen=True)
class MotionConfig:
    """How much moves; in pixels and radians per interval between two inputs of a window.

    An interval is two frames of DAVIS at 2×, eight of GoPro at 8×. Motion there reaches 60 pixels
    and more, so that ranges are wide; small motion stays frequent, for every octave of speed is
    equally likely, and turns and zooms are mostly far below their limits.

    Attributes:
        min_speed: slowest speed of what moves.
        max_speed: fastest one.
        curvature: acceleration as a share of the speed (standard deviation), so that fast things
            curve most.
        max_turn: fastest rotation in the image plane, in radians.
        max_zoom: fastest change of size: 0.15 is 15 % an interval.
        tilt: how far planes are turned out of the image (standard deviation of the change of scale
            per pixel, and half of it per interval).
        max_shake: largest amplitude of the sway of a hand-held camera, in pixels; one path in three
            has one. It sways less than once in two intervals: where it is in between could not be
            known if it went faster.
        max_bend: largest deformation of things that are not rigid, in pixels; two in five are not.
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
                f"speeds go from {self.min_speed} to {self.max_speed}; `min_speed` is above 0 and "
                "not above `max_speed`."
            )


class Path(NamedTuple):
    """A smooth motion of a plane: polynomials in time since the middle, lowest order first."""

    position: Float[Array, "4 2"]
    angle: Float[Array, "3"]
    log_scale: Float[Array, "3"]  # pixels per unit of the plane
    tilt: Float[Array, "2 2"]
    shake: Float[Array, "3 2"]  # amplitude, frequency and phase of a horizontal and a vertical sway


def random_path(
    key: Key[Array, ""],
    size: tuple[int, int],
    config: MotionConfig,
    *,
    moves: Float[Array, ""],
    pixels_per_texel: tuple[float, float],
    spread: Float[Array, ""] | float,
) -> Path:
    """A path that in the middle of the clip passes within ``spread`` half frames of the centre.

    Args:
        key: chooses it.
        size: height and width of a frame.
        config: ranges.
        moves: 1, or 0 for a plane that keeps still.
        pixels_per_texel: range of the plane's scale.
        spread: 0 is the centre, 1 anywhere in the frame.
    """
    # One call for all values: each would cost a fifth of a second of compilation.
    u = jax.random.uniform(key, (25,))
    speed = log_between(u[0], config.min_speed, config.max_speed)
    velocity = speed * jnp.stack([jnp.cos(2 * math.pi * u[1]), jnp.sin(2 * math.pi * u[1])])
    # Terms of second and third order: halves and sixths of acceleration and of its change.
    bends = speed * config.curvature * normal(u[2:6]).reshape(2, 2)
    bends = bends * jnp.array([[1 / 2], [1 / 6]])
    half_frame = jnp.array([size[1] / 2, size[0] / 2])
    place = spread * half_frame * (2.0 * u[6:8] - 1.0)
    angle, log_scale = 2 * math.pi * u[8], jnp.log(log_between(u[9], *pixels_per_texel))
    # Cubes of uniform values: half of them are below an eighth of the limit.
    rates = (2.0 * u[10:14].reshape(2, 2) - 1.0) ** 3 * jnp.array([1.0, 0.3])
    tilt = config.tilt * normal(u[14:18]).reshape(2, 2) * jnp.array([[1.0], [0.5]])
    shake = config.max_shake * (u[18] < 1 / 3) * u[19:21] ** 2
    sway = jnp.stack([3.0 * u[21:23], 2 * math.pi * u[23:25]])
    return Path(
        position=jnp.concatenate([place[None], moves * velocity[None], moves * bends]),
        angle=jnp.concatenate([angle[None], moves * config.max_turn * rates[0]]),
        log_scale=jnp.concatenate([log_scale[None], moves * config.max_zoom * rates[1]]),
        tilt=moves * tilt,
        shake=jnp.concatenate([moves * shake[None], sway]),
    )


def plane_from_image(path: Path, time: Float[Array, ""]) -> Float[Array, "3 3"]:
    """The homography from image positions, in pixels from the centre, to the moving plane."""
    since = time - MIDDLE
    powers = jnp.stack([jnp.ones_like(since), since, since**2, since**3])
    amplitude, frequency, phase = path.shake
    centre = (path.position * powers[:, None]).sum(0)
    x, y = centre + amplitude * jnp.sin(frequency * since + phase)
    angle = (path.angle * powers[:3]).sum()
    scale = jnp.exp(-(path.log_scale * powers[:3]).sum())
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    tilt_x, tilt_y = path.tilt[0] + path.tilt[1] * since
    zero, one = jnp.zeros_like(cos), jnp.ones_like(cos)
    turn = jnp.stack([cos, sin, zero, -sin, cos, zero, tilt_x, tilt_y, one]).reshape(3, 3)
    shift = jnp.stack([one, zero, -x, zero, one, -y, zero, zero, one]).reshape(3, 3)
    return product(turn, shift)


def product(left: Float[Array, "3 3"], right: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """A product in full precision: the rounding that is a GPU's default would jolt the motion."""
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def random_wave(key: Key[Array, ""], config: MotionConfig) -> Float[Array, "4 2"]:
    """A travelling sine that bends two layers of five: amplitude, wave number, phase and speed.

    Long waves may be high, short ones stay flat: a slope near 1 would fold the picture over.
    """
    amplitude, number, phase, speed, (bends, _) = jax.random.uniform(key, (5, 2))
    number = 0.01 + 0.09 * number**2
    highest = jnp.minimum(config.max_bend, 0.5 / number)
    amplitude = (bends < 0.4) * highest * amplitude
    return jnp.stack([amplitude, number, 2 * math.pi * phase, 2.0 * speed - 1.0])


def bend(
    wave: Float[Array, "4 2"],
    u: Float[Array, "height width"],
    v: Float[Array, "height width"],
    time: Float[Array, ""],
) -> tuple[Float[Array, "height width"], Float[Array, "height width"]]:
    """Positions on a plane, moved by a wave."""
    amplitude, number, phase, speed = wave
    angle = phase + speed * (time - MIDDLE)
    return (
        u + amplitude[0] * jnp.sin(number[0] * v + angle[0]),
        v + amplitude[1] * jnp.sin(number[1] * u + angle[1]),
    )


def log_between(share: Array, low: float, high: float) -> Array:
    """A value between two, from a share of their ratio's logarithm."""
    return low * (high / low) ** share


def normal(share: Array) -> Array:
    """Normal values from uniform ones."""
    return math.sqrt(2) * lax.erf_inv(jnp.clip(2.0 * share - 1.0, -0.999999, 0.999999))
