# SPDX-License-Identifier: Apache-2.0
"""Clips of 20 classes of motion, whose appearance says nothing about the class.

An object moves in front of a background and of other objects, which drift together as if the
camera moved. Textures, shapes, sizes and places are random and independent of the class. So is the
moment at which the object passes through its random pose. A single frame therefore has the same
distribution in every class, and only the order of frames tells the classes apart.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key, UInt8

from flavr_jax.data.synthetic import collage
from flavr_jax.data.synthetic.motion import log_between

__all__ = ["CLASSES", "ActionConfig", "Course", "LabelledSet", "courses", "draw", "draw_set"]

CLASSES = (
    "up", "down", "left", "right", "clockwise", "anticlockwise", "grow", "shrink", "sway", "bob",
    "swing", "pulse", "circle clockwise", "circle anticlockwise", "hop", "zigzag", "wobble",
    "shiver", "speed up", "slow down",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ActionConfig:
    """Content of the clips; lengths in pixels, for frames of 64×64, times in frames.

    Attributes:
        frames: number of frames.
        size: side of the square frames, a multiple of 8.
        texture_size: side of a layer's texture in texels.
        n_others: number of objects behind the one that moves.
        drift: largest speed of the background and the other objects.
        noise: standard deviation of the noise, relative to white.
    """

    frames: int = 8
    size: int = 64
    texture_size: int = 96
    n_others: int = 2
    drift: float = 0.7
    noise: float = 0.02


class Course(NamedTuple):
    """Change of an object's pose over time, from its random pose.

    Attributes:
        shift: displacement in pixels, to the right and down.
        angle: in radians, clockwise.
        log_scale: logarithm of the change of size.
        bend: amplitude of the deformation in texels.
    """

    shift: Float[Array, "*class time 2"]
    angle: Float[Array, "*class time"]
    log_scale: Float[Array, "*class time"]
    bend: Float[Array, "*class time"]


class LabelledSet(NamedTuple):
    """Clips in 8 bits, and the class of each."""

    clips: UInt8[Array, "clip time height width 3"]
    labels: Int[Array, " clip"]


def courses(key: Key[Array, ""], frames: int) -> Course:
    """Draw a course of each class, in the order of :data:`CLASSES`, of random speed and phase."""
    key_values, key_shiver = jax.random.split(key)
    u = jax.random.uniform(key_values, (6,))
    speed, amplitude, phase = 1.5 + 2.0 * u[0], 4.0 + 4.0 * u[1], 2 * math.pi * u[2]
    time = jnp.arange(frames, dtype=jnp.float32)
    since = time - u[3] * (frames - 1)  # from the moment of the random pose
    wave = jnp.sin(2 * math.pi * time / (4.0 + 4.0 * u[4]) + phase)
    turn = 2 * math.pi * since / (6.0 + 6.0 * u[4])
    heading = 2 * math.pi * u[5]
    side = jnp.where(u[5] < 0.5, -1.0, 1.0)
    # As far as the steady motions, but accelerating from rest; then the same backwards.
    faster = speed * (time**2 - (u[3] * (frames - 1)) ** 2) / (frames - 1)
    slower = -faster[::-1] - speed * (2 * u[3] - 1) * (frames - 1)
    shiver = amplitude * jax.random.uniform(key_shiver, (frames, 2), minval=-0.6, maxval=0.6)
    steady, nothing = speed * since, jnp.zeros(frames)

    def along(direction: Float[Array, ""] | float, distance: Float[Array, " time"]) -> Array:
        return jnp.stack([jnp.cos(direction) * distance, jnp.sin(direction) * distance], axis=-1)

    def circle(sense: float) -> Array:
        angle = phase + sense * turn
        there = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        return amplitude * (there - jnp.stack([jnp.cos(phase), jnp.sin(phase)]))

    still = jnp.zeros((frames, 2))
    hop = jnp.stack([nothing, -1.5 * amplitude * jnp.abs(wave)], axis=-1)
    zigzag = jnp.stack([0.6 * side * steady, amplitude * 2 / math.pi * jnp.arcsin(wave)], axis=-1)
    shifts = {
        "up": along(-math.pi / 2, steady), "down": along(math.pi / 2, steady),
        "left": along(math.pi, steady), "right": along(0.0, steady),
        "sway": along(0.0, amplitude * wave), "bob": along(math.pi / 2, amplitude * wave),
        "circle clockwise": circle(1.0), "circle anticlockwise": circle(-1.0), "hop": hop,
        "zigzag": zigzag, "shiver": shiver,
        "speed up": along(heading, faster), "slow down": along(heading, slower),
    }  # fmt: skip
    spin, zoom = 0.09 * steady, 0.03 * steady
    angles = {"clockwise": spin, "anticlockwise": -spin, "swing": 0.1 * amplitude * wave}
    scales = {"grow": zoom, "shrink": -zoom, "pulse": 0.05 * amplitude * wave}
    bends = {"wobble": 0.7 * amplitude * wave}
    return Course(
        shift=jnp.stack([shifts.get(name, still) for name in CLASSES]),
        angle=jnp.stack([angles.get(name, nothing) for name in CLASSES]),
        log_scale=jnp.stack([scales.get(name, nothing) for name in CLASSES]),
        bend=jnp.stack([bends.get(name, nothing) for name in CLASSES]),
    )


def draw(
    key: Key[Array, ""], label: Int[Array, ""] | int, config: ActionConfig
) -> Float[Array, "time height width 3"]:
    """Draw a clip of a class, given by its index in :data:`CLASSES`."""
    key_course, key_pose, key_wave, key_texture, key_noise = jax.random.split(key, 5)
    layers, frames = config.n_others + 2, config.frames
    course = jax.tree.map(lambda leaf: leaf[label], courses(key_course, frames))
    u = jax.random.uniform(key_pose, (6, layers))
    # The object in front is the one that moves; it stays inside the middle of the frame.
    acts = jnp.arange(layers) == layers - 1
    reach = jnp.where(acts, 0.2, 0.45) * config.size * (jnp.arange(layers) > 0)
    place = (reach * (2.0 * u[:2] - 1.0)).T
    pixel = config.size / 64  # smaller frames show the same, smaller
    log_scale = jnp.log(pixel * log_between(u[2], 0.4, 0.8))
    drift = (
        pixel * config.drift * (2.0 * u[3:5, :1] - 1.0)
    )  # the same for all but the one that moves
    time = jnp.arange(frames, dtype=jnp.float32) - (frames - 1) / 2
    drifts = time[:, None, None] * (drift.T * ~acts[:, None])
    waves = jax.vmap(lambda key: collage.random_wave(key, 1.0))(jax.random.split(key_wave, layers))
    bend = (acts * course.bend[:, None])[..., None] * jnp.ones(2)
    # A larger deformation would fold the texture.
    bend = jnp.clip(bend, -0.5 / waves[:, 1], 0.5 / waves[:, 1])
    still = jnp.broadcast_to(waves, (frames, *waves.shape))
    poses = collage.Poses(
        position=place + drifts + pixel * acts[:, None] * course.shift[:, None],
        angle=2 * math.pi * u[5] + acts * course.angle[:, None],
        log_scale=log_scale + acts * course.log_scale[:, None],
        wave=jnp.concatenate([bend[:, :, None], still[:, :, 1:]], axis=2),
    )
    cutouts = collage.cut_out(key_texture, layers - 1, config.texture_size, log_scale=log_scale)
    clip = collage.paint(cutouts, poses, (config.size, config.size))
    return jnp.clip(clip + config.noise * jax.random.normal(key_noise, clip.shape), 0.0, 1.0)


def draw_set(key: Key[Array, ""], count: int, config: ActionConfig) -> LabelledSet:
    """Draw a set; its classes alternate, so that its first clips are balanced for any number."""
    labels = jnp.arange(count) % len(CLASSES)

    def one(item: tuple[Key[Array, ""], Int[Array, ""]]) -> UInt8[Array, "time height width 3"]:
        return jnp.round(255.0 * draw(*item, config)).astype(jnp.uint8)

    keys = jax.random.split(key, count)
    # In batches, because textures of all clips at once would need much memory.
    return LabelledSet(jax.lax.map(one, (keys, labels), batch_size=100), labels)
