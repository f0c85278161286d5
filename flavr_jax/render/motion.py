# SPDX-License-Identifier: Apache-2.0
"""Motion of objects and camera: splines through key frames, orbits and bounces.

Every motion is a closed formula of continuous time, evaluated in double precision, so that a frame
at any time is as exact as any other. Times are in seconds, lengths in one arbitrary unit; the z
axis points up.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

__all__ = ["Bounce", "Key", "Orbit", "Pose", "rotation_matrix", "spline"]

Triple = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Key:
    """Position and rotation of an object at one time."""

    time: float
    position: Triple = (0.0, 0.0, 0.0)
    rotation: Triple = (0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Orbit:
    """A horizontal circle about the object's position.

    Attributes:
        radius: radius of the circle.
        turn: angular velocity along it, in degrees per second.
        phase: angle at time 0, in degrees.
        roll: radius of an object that rolls along the circle without slipping; 0 does not roll.
    """

    radius: float = 0.0
    turn: float = 0.0
    phase: float = 0.0
    roll: float = 0.0


@dataclasses.dataclass(frozen=True)
class Bounce:
    """Parabolic jumps; ``shift`` is the part of the period that has passed at time 0."""

    height: float
    period: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.period <= 0:
            raise ValueError(f"`period` is {self.period}; a bounce takes more than 0 seconds.")


@dataclasses.dataclass(frozen=True)
class Pose:
    """Where something is at any time; key frames replace ``position`` and ``rotation``.

    Attributes:
        position: position, or centre of the orbit.
        rotation: rotations about the x, y and z axes, in degrees, in this order. Splines
            interpolate the angles, so that they may exceed 360.
        keys: key frames in the order of their times; the first and the last hold outside.
        orbit: circle that is added to the position.
        bounce: jumps that are added to the position.
    """

    position: Triple = (0.0, 0.0, 0.0)
    rotation: Triple = (0.0, 0.0, 0.0)
    keys: tuple[Key, ...] = ()
    orbit: Orbit | None = None
    bounce: Bounce | None = None

    def at(self, time: float) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
        """Return position, and rotation from the object's coordinates to the scene's."""
        position, angles = np.array(self.position, float), np.array(self.rotation, float)
        if self.keys:
            times = [key.time for key in self.keys]
            position = spline(times, [key.position for key in self.keys], time)
            angles = spline(times, [key.rotation for key in self.keys], time)
        rotation = rotation_matrix(angles)
        if self.orbit is not None:
            turned = math.radians(self.orbit.phase + self.orbit.turn * time)
            position = position + self.orbit.radius * np.array(
                [math.cos(turned), math.sin(turned), 0.0]
            )
            rotation = rotation_matrix((0.0, 0.0, math.degrees(turned))) @ rotation
            if self.orbit.roll:
                # Without slipping, the arc on the object is as long as the path.
                path = self.orbit.radius * self.orbit.turn * time
                rotation = rotation @ rotation_matrix((-path / self.orbit.roll, 0.0, 0.0))
        if self.bounce is not None:
            part = (time / self.bounce.period + self.bounce.shift) % 1.0
            # A parabola that reaches `height` in the middle of the period.
            position[2] += 4 * self.bounce.height * part * (1 - part)
        return position, rotation


def spline(
    times: Sequence[float], values: Sequence[Sequence[float]], time: float
) -> Float[np.ndarray, " components"]:
    """Interpolate by a cubic Hermite spline with Catmull and Rom's tangents; hold the ends.

    Raises:
        ValueError: the times do not increase.
    """
    t, points = np.array(times, float), np.array(values, float)
    if (np.diff(t) <= 0).any():
        raise ValueError(f"times of key frames are {list(times)}; sort them, each time once.")
    if len(t) == 1 or time <= t[0]:
        return points[0].copy()
    if time >= t[-1]:
        return points[-1].copy()
    slopes = np.gradient(points, t, axis=0)
    index = int(np.searchsorted(t, time, side="right")) - 1
    span = t[index + 1] - t[index]
    x = (time - t[index]) / span
    first, second = points[index], points[index + 1]
    return (
        (1 + 2 * x) * (1 - x) ** 2 * first
        + x**2 * (3 - 2 * x) * second
        + x * (1 - x) * span * ((1 - x) * slopes[index] - x * slopes[index + 1])
    )


def rotation_matrix(angles: Sequence[float] | np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Return the matrix of rotations about x, then y, then z, by angles in degrees."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        matrix = turn @ matrix
    return matrix
