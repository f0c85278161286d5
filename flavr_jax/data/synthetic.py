# SPDX-License-Identifier: Apache-2.0
"""Clips drawn on the device, with the exact picture at any time.

A clip is a textured background and a few textured objects in front of it, each moved by its own
smooth path and seen by one moving camera. A frame is a function of its time alone, so the frame
at t = 1.5 is as exact as the input at t = 1: real footage never gives that, and gives large
motion rarely. With real frames as textures, known motion is applied to natural detail.

Colour and coverage of a layer are drawn once, on a texture; a frame only looks them up. The
four 8-bit values of a texel share one 32-bit word: a look-up costs the same for one byte as
for four.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key, UInt8, UInt32

from flavr_jax.data import textures as painting

__all__ = ["SyntheticConfig", "draw"]

_MIDDLE = 1.5  # the time about which paths are expanded: objects are in view then


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """What synthetic clips look like; lengths in pixels, times in intervals between inputs.

    Attributes:
        texture_size: side of a layer's square texture in texels, each 0.5 to 1.2 pixels wide.
        n_objects: layers in front of the background; about one in five stays invisible.
        min_speed: slowest speed of a moving camera or object, in pixels per interval.
        max_speed: fastest one; speeds are log-uniform, every octave is equally frequent.
        real_share: share of layers textured with crops of real frames, where there are any.
    """

    texture_size: int = 352
    n_objects: int = 4
    min_speed: float = 0.5
    max_speed: float = 36.0
    real_share: float = 0.75


class _Path(NamedTuple):
    """A smooth motion of a plane: polynomials in time since the middle, lowest order first."""

    position: Float[Array, "4 2"]
    angle: Float[Array, "3"]
    log_scale: Float[Array, "3"]  # pixels per unit of the plane
    tilt: Float[Array, "2 2"]
    shake: Float[Array, "3 2"]  # amplitude, frequency and phase of a horizontal and a vertical sway


class _Layer(NamedTuple):
    """A packed texture and where it is."""

    texels: UInt32[Array, "size size"]
    path: _Path
    wave: Float[Array, "4 2"]  # of the bending: amplitude, wave number, phase and speed
    is_background: Bool[Array, ""]  # goes on beyond its texture
    is_overlay: Bool[Array, ""]  # stays in place on the image, as a caption or a logo does


Colours: TypeAlias = tuple[Float[Array, "time height width"], ...]


def draw(
    key: Key[Array, ""],
    times: Float[Array, " time"],
    size: tuple[int, int],
    config: SyntheticConfig,
    textures: UInt8[Array, "n rows columns 3"] | None = None,
) -> Float[Array, "time height width 3"]:
    """One clip seen at the given times; the same key is the same clip at whatever times.

    Args:
        key: chooses everything about the clip.
        times: in intervals between inputs; the inputs of a window are at 0, 1, 2 and 3.
        size: height and width of a frame.
        config: ranges of content and motion.
        textures: real frames to cut textures from, at least ``texture_size`` on either side.
    """
    key_camera, key_moves, key_light, key_layers = jax.random.split(key, 4)
    camera_moves = jax.random.bernoulli(key_moves, 0.8).astype(jnp.float32)
    camera = _random_path(
        key_camera, size, config, moves=camera_moves, pixels_per_texel=(1.0, 1.0), spread=0.0
    )
    view = jax.vmap(functools.partial(_plane_from_image, camera))(times)
    layers = jax.vmap(functools.partial(_random_layer, size, config, textures))(
        jnp.arange(config.n_objects + 1), jax.random.split(key_layers, config.n_objects + 1)
    )

    def paint_over(behind: Colours, layer: _Layer) -> tuple[Colours, None]:
        look_up = jax.vmap(functools.partial(_look_up, layer, size))
        *front, alpha = look_up(view, times)
        return tuple(back + alpha * (new - back) for back, new in zip(behind, front)), None

    blank = jnp.zeros((times.shape[0], *size))
    # A scan keeps one layer's look-ups in flight: unrolled, compilation takes a minute.
    colours, _ = lax.scan(paint_over, (blank, blank, blank), layers)
    drift = 0.06 * _sometimes_normal(key_light, probability=0.3)
    light = jnp.exp(drift * (times - _MIDDLE))[:, None, None, None]
    return jnp.clip(light * jnp.stack(colours, axis=-1), 0.0, 1.0)


def _random_layer(
    size: tuple[int, int],
    config: SyntheticConfig,
    textures: UInt8[Array, "n rows columns 3"] | None,
    index: Int[Array, ""],
    key: Key[Array, ""],
) -> _Layer:
    """Layer 0 is the background, fixed to the world; the last is an overlay one time in three."""
    key_paint, key_cover, key_path, key_wave, key_flags = jax.random.split(key, 5)
    colour, relief = painting.colour(
        key_paint, config.texture_size, textures, real_share=config.real_share
    )
    chance = jax.random.uniform(key_flags, (3,))
    is_object = index > 0
    overlay = (index == config.n_objects) & (chance[0] < 0.35)
    alpha = (chance[1] < 0.8) * painting.coverage(key_cover, relief)
    moves = (is_object & ~overlay & (chance[2] < 0.85)).astype(jnp.float32)
    path = _random_path(
        key_path,
        size,
        config,
        moves=moves,
        pixels_per_texel=(0.5, 1.2),
        spread=0.9 * is_object.astype(jnp.float32),
    )
    return _Layer(
        texels=painting.pack(colour, jnp.where(is_object, alpha, 1.0)),
        path=path,
        wave=moves * _random_wave(key_wave),
        is_background=~is_object,
        is_overlay=overlay,
    )


def _random_path(
    key: Key[Array, ""],
    size: tuple[int, int],
    config: SyntheticConfig,
    *,
    moves: Float[Array, ""],
    pixels_per_texel: tuple[float, float],
    spread: Float[Array, ""] | float,
) -> _Path:
    """A path that in the middle of the clip passes within ``spread`` half frames of the centre.

    Acceleration is a fraction of the speed, so that fast things curve most; ``moves`` is 0 or 1.
    """
    keys = jax.random.split(key, 8)
    speed = _log_uniform(keys[0], config.min_speed, config.max_speed)
    heading = jax.random.uniform(keys[1], (), maxval=2 * math.pi)
    velocity = speed * jnp.stack([jnp.cos(heading), jnp.sin(heading)])
    bends = speed * jnp.array([[0.12], [0.03]]) * jax.random.normal(keys[2], (2, 2))
    half_frame = jnp.array([size[1] / 2, size[0] / 2])
    place = spread * half_frame * jax.random.uniform(keys[3], (2,), minval=-1.0)
    start = jnp.stack(
        [
            jax.random.uniform(keys[4], (), maxval=2 * math.pi),
            jnp.log(_log_uniform(keys[5], *pixels_per_texel)),
        ]
    )
    turn, zoom, tilt_x, tilt_y = jax.random.normal(keys[6], (4, 2)) * jnp.array(
        [[0.03, 0.008], [0.02, 0.005], [4e-4, 1e-4], [4e-4, 1e-4]]
    )
    amplitude = 2.5 * _sometimes_normal(keys[7], probability=0.3)
    frequency, phase = jax.random.uniform(keys[7], (2, 2)) * jnp.array([[5.0], [2 * math.pi]])
    return _Path(
        position=jnp.concatenate([place[None], moves * velocity[None], moves * bends]),
        angle=jnp.concatenate([start[:1], moves * turn]),
        log_scale=jnp.concatenate([start[1:], moves * zoom]),
        tilt=moves * jnp.stack([tilt_x, tilt_y], axis=1),
        shake=jnp.stack([jnp.full((2,), moves * amplitude), frequency, phase]),
    )


def _random_wave(key: Key[Array, ""]) -> Float[Array, "4 2"]:
    """A travelling sine that bends two layers of five by up to 6 texels."""
    key_bends, key_shape = jax.random.split(key)
    bends = jax.random.bernoulli(key_bends, 0.4).astype(jnp.float32)
    amplitude, number, phase, speed = jax.random.uniform(key_shape, (4, 2))
    return jnp.stack(
        [bends * 6.0 * amplitude, 0.01 + 0.09 * number, 2 * math.pi * phase, 2.0 * speed - 1.0]
    )


def _plane_from_image(path: _Path, time: Float[Array, ""]) -> Float[Array, "3 3"]:
    """The homography from image positions, in pixels from the centre, to the moving plane."""
    since = time - _MIDDLE
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
    return _product(turn, shift)


def _product(left: Float[Array, "3 3"], right: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """A product in full precision: the rounding that is a GPU's default would jolt the motion."""
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _look_up(
    layer: _Layer, size: tuple[int, int], view: Float[Array, "3 3"], time: Float[Array, ""]
) -> list[Float[Array, "height width"]]:
    """Red, green, blue and coverage of a layer at every pixel of the image at one time."""
    view = jnp.where(layer.is_overlay, jnp.eye(3), view)
    matrix = _product(_plane_from_image(layer.path, time), view)
    y = jnp.arange(size[0], dtype=jnp.float32)[:, None] - (size[0] - 1) / 2
    x = jnp.arange(size[1], dtype=jnp.float32)[None, :] - (size[1] - 1) / 2
    u, v, depth = (row[0] * x + row[1] * y + row[2] for row in matrix)
    depth = jnp.maximum(depth, 0.2)  # planes seen edge-on would end at their horizon
    u, v = u / depth, v / depth
    amplitude, number, phase, speed = layer.wave
    angle = phase + speed * (time - _MIDDLE)
    bent_u = u + amplitude[0] * jnp.sin(number[0] * v + angle[0])
    bent_v = v + amplitude[1] * jnp.sin(number[1] * u + angle[1])
    return painting.sample(layer.texels, bent_u, bent_v, mirror=layer.is_background)


def _log_uniform(key: Key[Array, ""], low: float, high: float) -> Float[Array, ""]:
    return jnp.exp(jax.random.uniform(key, (), minval=math.log(low), maxval=math.log(high)))


def _sometimes_normal(key: Key[Array, ""], *, probability: float) -> Float[Array, ""]:
    """A normal value, or exactly 0 in most cases."""
    key_happens, key_value = jax.random.split(key)
    return jax.random.bernoulli(key_happens, probability) * jax.random.normal(key_value)
