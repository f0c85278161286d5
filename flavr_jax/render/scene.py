# SPDX-License-Identifier: Apache-2.0
"""What there is to render, and where it is at any time.

Every motion is a closed formula of a continuous time, evaluated in double precision, so that a
frame at t = 1.5 is as exact as the frame at t = 1. Lengths have any one unit, angles are radians,
the z axis points up, and a unit of time is whatever the caller calls a frame.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

__all__ = [
    "Ball",
    "Balls",
    "Camera",
    "Colour",
    "Ground",
    "Moment",
    "Pattern",
    "Scene",
    "Sky",
    "Sun",
]

Colour: TypeAlias = tuple[float, float, float]
"""Linear red, green and blue: reflected share of light, or radiance of what shines."""

Pattern: TypeAlias = Literal["plain", "bands", "wedges", "dots"]
"""How the two colours of a ball are laid out; all but ``plain`` show how the ball turns."""


@dataclasses.dataclass(frozen=True)
class Ball:
    """A sphere on a circular or straight path, and what it is made of.

    Attributes:
        centre: of the circle it moves on, at time 0.
        radius: of the ball.
        colours: the pattern's two diffuse colours.
        pattern: how they are laid out.
        reflectance: share of light reflected as by a mirror when seen head-on: 0 is dull, 0.04 is
            lacquer, 1 is a mirror.
        roughness: blur of that reflection, 0 to 1.
        emission: light that the ball itself gives off.
        velocity: with which the circle's centre moves.
        orbit: radius of the circle, which is horizontal.
        turn: angle per unit of time along the circle.
        phase: angle on the circle at time 0.
        roll: angle per unit of time about the circle's radius; ``rolling`` gives it.
        bounce: height of the jumps, each a parabola.
        period: time from one landing to the next.
    """

    centre: tuple[float, float, float]
    radius: float
    colours: tuple[Colour, Colour] = ((0.8, 0.8, 0.8), (0.2, 0.2, 0.2))
    pattern: Pattern = "plain"
    reflectance: float = 0.0
    roughness: float = 0.0
    emission: Colour = (0.0, 0.0, 0.0)
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    orbit: float = 0.0
    turn: float = 0.0
    phase: float = 0.0
    roll: float = 0.0
    bounce: float = 0.0
    period: float = 1.0

    def rolling(self) -> Ball:
        """The same ball, turning so that it does not slip on the ground."""
        return dataclasses.replace(self, roll=-self.orbit * self.turn / self.radius)

    def position(self, time: float) -> Float[np.ndarray, "3"]:
        """Where the ball's centre is."""
        angle = self.phase + self.turn * time
        x = (time / self.period + self.phase / math.tau) % 1.0
        return (
            np.array(self.centre)
            + np.array(self.velocity) * time
            + self.orbit * np.array([math.cos(angle), math.sin(angle), 0.0])
            + np.array([0.0, 0.0, 4 * self.bounce * x * (1 - x)])
        )

    def rotation(self, time: float) -> Float[np.ndarray, "3 3"]:
        """The matrix that turns directions of the ball's own axes into those of the scene."""
        angle = self.phase + self.turn * time
        c, s = math.cos(angle), math.sin(angle)
        along = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        c, s = math.cos(self.roll * time), math.sin(self.roll * time)
        return along @ np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


@dataclasses.dataclass(frozen=True)
class Ground:
    """The plane z = 0, inlaid with ribbons that take a random turn in every tile.

    Attributes:
        colours: of the tiles and of the ribbons.
        tile: side of a tile.
        reflectance: as of a ball.
        roughness: as of a ball.
        fade: distance from the origin beyond which the pattern fades, lest it alias.
    """

    colours: tuple[Colour, Colour] = ((0.6, 0.6, 0.6), (0.2, 0.2, 0.2))
    tile: float = 1.0
    reflectance: float = 0.0
    roughness: float = 0.0
    fade: float = 15.0


@dataclasses.dataclass(frozen=True)
class Sky:
    """Radiance from above and from the horizon, blended in between."""

    zenith: Colour = (1.0, 1.0, 1.0)
    horizon: Colour = (1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Sun:
    """A disc in the sky; a white surface that faces it has the radiance ``colour``."""

    direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    colour: Colour = (0.0, 0.0, 0.0)
    angle: float = 0.05  # radius; penumbras grow with it


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole that circles a target; the angles and the distance may change with time.

    Attributes:
        target: what is in the middle of the picture.
        azimuth: of the camera as seen from the target, and its change per unit of time.
        elevation: likewise, above the horizontal.
        distance: from the target, likewise.
        focal: distance of the picture plane in picture heights: 1 is a view of 53 degrees.
    """

    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    azimuth: tuple[float, float] = (0.0, 0.0)
    elevation: tuple[float, float] = (0.5, 0.0)
    distance: tuple[float, float] = (10.0, 0.0)
    focal: float = 1.5

    def position(self, time: float) -> Float[np.ndarray, "3"]:
        """Where the pinhole is."""
        azimuth, elevation, distance = (
            start + change * time for start, change in (self.azimuth, self.elevation, self.distance)
        )
        level = math.cos(elevation)
        return np.array(self.target) + distance * np.array(
            [level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)]
        )

    def axes(self, time: float) -> Float[np.ndarray, "3 3"]:
        """Rows: right, down and forward as unit vectors of the scene."""
        forward = np.array(self.target) - self.position(time)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    def project(
        self, point: Float[np.ndarray, "3"], time: float, *, height: int, width: int
    ) -> tuple[float, float]:
        """Row and column at which a point is seen; the first pixel's centre is (0.5, 0.5)."""
        right, down, forward = self.axes(time) @ (point - self.position(time))
        scale = self.focal * height / forward
        return height / 2 + scale * down, width / 2 + scale * right


@dataclasses.dataclass(frozen=True)
class Scene:
    """Balls over a ground, or over nothing, and the camera that looks at them."""

    balls: tuple[Ball, ...]
    camera: Camera = Camera()
    ground: Ground | None = Ground()
    sky: Sky = Sky()
    sun: Sun = Sun()

    def __post_init__(self) -> None:
        if not self.balls:
            raise ValueError("`balls` is empty; a scene has at least one.")

    def at(self, time: float) -> Moment:
        """Where everything that moves is."""
        rows = (
            (
                ball.position(time),
                ball.radius,
                ball.rotation(time),
                ball.colours,
                ball.emission,
                ball.reflectance,
                ball.roughness,
                get_args(Pattern).index(ball.pattern),
            )
            for ball in self.balls
        )
        columns = (jnp.asarray(np.array(column), jnp.float32) for column in zip(*rows))
        camera = self.camera
        rays = camera.axes(time) * np.array([[1.0], [1.0], [camera.focal]])
        return Moment(
            Balls(*columns),
            eye=jnp.asarray(camera.position(time), jnp.float32),
            rays=jnp.asarray(rays, jnp.float32),
        )


class Balls(NamedTuple):
    """The balls at one moment."""

    centre: Float[Array, "ball 3"]
    radius: Float[Array, " ball"]
    rotation: Float[Array, "ball 3 3"]
    colours: Float[Array, "ball 2 3"]
    emission: Float[Array, "ball 3"]
    reflectance: Float[Array, " ball"]
    roughness: Float[Array, " ball"]
    pattern: Float[Array, " ball"]  # the number in Pattern


class Moment(NamedTuple):
    """All that moves, at one time.

    Attributes:
        balls: as they are then.
        eye: where the camera is.
        rays: the direction of the picture's middle, last, and what a step of one picture height to
            the right, first, or down, second, adds to it.
    """

    balls: Balls
    eye: Float[Array, "3"]
    rays: Float[Array, "3 3"]
