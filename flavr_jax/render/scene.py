# SPDX-License-Identifier: Apache-2.0
"""Scenes of moving balls, a ground, a sky and a camera, at any time.

Every motion is a closed formula of continuous time, evaluated in double precision, so that a frame
at t = 1.5 is as exact as the frame at t = 1. Lengths are in one arbitrary unit, angles in radians,
and times in frames; the z axis points up.
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
"""Linear red, green and blue: a reflected fraction of light, or a radiance."""

Pattern: TypeAlias = Literal["plain", "bands", "wedges", "dots"]
"""Layout of a ball's two colours; all but ``plain`` make its rotation visible."""


@dataclasses.dataclass(frozen=True)
class Ball:
    """A sphere on a circular or straight path, and its material.

    Attributes:
        centre: centre of the circle that the ball moves on, at time 0.
        radius: radius of the ball.
        colours: the pattern's two diffuse colours.
        pattern: layout of the two colours.
        reflectance: fraction of light that is reflected specularly at normal incidence: 0 is
            matte, 0.04 is lacquer, 1 is a mirror.
        roughness: blur of the specular reflection, 0 to 1.
        emission: radiance that the ball emits.
        velocity: velocity of the circle's centre.
        orbit: radius of the horizontal circle.
        turn: angular velocity along the circle.
        phase: angle on the circle at time 0.
        roll: angular velocity about the radius of the circle; ``rolling`` computes it.
        bounce: height of the jumps, which are parabolas.
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
        """Return the same ball, rotating so that it does not slip on the ground."""
        return dataclasses.replace(self, roll=-self.orbit * self.turn / self.radius)

    def position(self, time: float) -> Float[np.ndarray, "3"]:
        """Return the position of the ball's centre."""
        angle = self.phase + self.turn * time
        x = (time / self.period + self.phase / math.tau) % 1.0
        return (
            np.array(self.centre)
            + np.array(self.velocity) * time
            + self.orbit * np.array([math.cos(angle), math.sin(angle), 0.0])
            + np.array([0.0, 0.0, 4 * self.bounce * x * (1 - x)])
        )

    def rotation(self, time: float) -> Float[np.ndarray, "3 3"]:
        """Return the rotation matrix from the ball's own axes to those of the scene."""
        angle = self.phase + self.turn * time
        c, s = math.cos(angle), math.sin(angle)
        along = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        c, s = math.cos(self.roll * time), math.sin(self.roll * time)
        return along @ np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


@dataclasses.dataclass(frozen=True)
class Ground:
    """The plane z = 0 with Truchet tiles: ribbons that run one of two ways in each tile, at random.

    Attributes:
        colours: colour of the tiles and colour of the ribbons.
        tile: side of a tile.
        reflectance: as for a ball.
        roughness: as for a ball.
        fade: distance from the origin beyond which the pattern fades, to prevent aliasing.
    """

    colours: tuple[Colour, Colour] = ((0.6, 0.6, 0.6), (0.2, 0.2, 0.2))
    tile: float = 1.0
    reflectance: float = 0.0
    roughness: float = 0.0
    fade: float = 15.0


@dataclasses.dataclass(frozen=True)
class Sky:
    """Radiance at the zenith and at the horizon, blended in between."""

    zenith: Colour = (1.0, 1.0, 1.0)
    horizon: Colour = (1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Sun:
    """A disc in the sky; ``colour`` is the radiance of a white surface that faces it."""

    direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    colour: Colour = (0.0, 0.0, 0.0)
    angle: float = 0.05  # angular radius; a larger sun makes softer shadows


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera that circles a target; angles and distance may change with time.

    Attributes:
        target: point in the middle of the image.
        azimuth: azimuth of the camera seen from the target, and its change per frame.
        elevation: angle above the horizontal, and its change per frame.
        distance: distance from the target, and its change per frame.
        focal: focal length in image heights: 1 is a vertical field of view of 53 degrees.
    """

    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    azimuth: tuple[float, float] = (0.0, 0.0)
    elevation: tuple[float, float] = (0.5, 0.0)
    distance: tuple[float, float] = (10.0, 0.0)
    focal: float = 1.5

    def position(self, time: float) -> Float[np.ndarray, "3"]:
        """Return the position of the pinhole."""
        azimuth, elevation, distance = (
            start + change * time for start, change in (self.azimuth, self.elevation, self.distance)
        )
        level = math.cos(elevation)
        return np.array(self.target) + distance * np.array(
            [level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)]
        )

    def axes(self, time: float) -> Float[np.ndarray, "3 3"]:
        """Return the unit vectors right, down and forward, as rows in scene coordinates."""
        forward = np.array(self.target) - self.position(time)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    def project(
        self, point: Float[np.ndarray, "3"], time: float, *, height: int, width: int
    ) -> tuple[float, float]:
        """Return the row and column of a point; the first pixel's centre is (0.5, 0.5)."""
        right, down, forward = self.axes(time) @ (point - self.position(time))
        scale = self.focal * height / forward
        return height / 2 + scale * down, width / 2 + scale * right


@dataclasses.dataclass(frozen=True)
class Scene:
    """Balls, an optional ground, the sky and sun that light them, and the camera."""

    balls: tuple[Ball, ...]
    camera: Camera = Camera()
    ground: Ground | None = Ground()
    sky: Sky = Sky()
    sun: Sun = Sun()

    def __post_init__(self) -> None:
        if not self.balls:
            raise ValueError("`balls` is empty; a scene has at least one ball. Add one.")

    def at(self, time: float) -> Moment:
        """Return positions and orientations at a time."""
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
    """The balls at one time."""

    centre: Float[Array, "ball 3"]
    radius: Float[Array, " ball"]
    rotation: Float[Array, "ball 3 3"]
    colours: Float[Array, "ball 2 3"]
    emission: Float[Array, "ball 3"]
    reflectance: Float[Array, " ball"]
    roughness: Float[Array, " ball"]
    pattern: Float[Array, " ball"]  # index in Pattern


class Moment(NamedTuple):
    """The moving parts of a scene at one time.

    Attributes:
        balls: positions, orientations and materials of the balls.
        eye: position of the camera.
        rays: three rows: the change of a ray's direction per image height to the right, the change
            per image height down, and the direction through the middle of the image.
    """

    balls: Balls
    eye: Float[Array, "3"]
    rays: Float[Array, "3 3"]
