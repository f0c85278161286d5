# SPDX-License-Identifier: Apache-2.0
"""Synthetic clips, rendered on the device at any time.

A clip is a textured background with a few textured objects in front of it. Each layer follows its
own smooth path and is seen by one moving camera. A frame depends on its time alone, so the frame at
t = 1.5 is as exact as the input at t = 1. Real footage does not have exact in-between frames, and
rarely has large motion. With real frames as textures, natural detail moves in a known way.

Some clips are of special kinds, such as cartoons or dark scenes (``kinds``). Kinds only change
parameters and textures: a layer is sampled once per frame in every clip, because under ``vmap`` a
choice between two ways to render would compute both.

Colour and coverage of a layer are drawn once, as a texture; frames only sample it. The four 8-bit
values of a texel share one 32-bit word, because a gather costs the same for one byte as for four.
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

from flavr_jax.data import augment
from flavr_jax.data.synthetic import kinds, motion
from flavr_jax.data.synthetic import textures as painter
from flavr_jax.data.synthetic.motion import MIDDLE, MotionConfig

__all__ = ["SyntheticConfig", "draw", "draw_many"]


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """Content of synthetic clips; lengths in pixels, times in intervals between inputs.

    Attributes:
        texture_size: side of a layer's square texture in texels, each 0.5 to 1.2 pixels wide.
        n_objects: number of layers in front of the background; about one in five is invisible.
        motion: ranges of motion.
        shares: shares of clips of special kinds.
        real_share: probability that a layer is textured with a crop of a real picture, if there are
            any.
        photograph_share: share of still photographs among real pictures, if there are frames of
            clips too.
        blur_share: share of a batch's clips with motion blur, rounded down to whole clips.
        blur_samples: number of moments averaged into a blurred frame; rendering takes that many
            times as long.
        max_exposure: longest exposure time.
        sharpness: largest ``amount`` of :func:`augment.sharpen`, which imitates a camera's
            sharpening.
        cut_share: share of clips with a cut between the first two or the last two inputs; the outer
            input then shows another scene. There is never a cut between the middle two inputs,
            because its time could not be inferred from them.
    """

    texture_size: int = 352
    n_objects: int = 4
    motion: MotionConfig = dataclasses.field(default_factory=MotionConfig)
    shares: kinds.Shares = dataclasses.field(default_factory=kinds.Shares)
    real_share: float = 0.75
    photograph_share: float = 0.3
    blur_share: float = 0.15
    blur_samples: int = 6
    max_exposure: float = 0.3
    sharpness: float = 1.5
    cut_share: float = 0.03


class _Layer(NamedTuple):
    """A packed texture with its motion."""

    texels: UInt32[Array, "twice twice"]
    path: motion.Path
    wave: Float[Array, "4 2"]
    is_background: Bool[Array, ""]  # continues beyond its texture, mirrored
    is_overlay: Bool[Array, ""]  # fixed to the image like a caption or a logo
    clock: kinds.Clock  # the layer's time as a function of the scene's


class _Light(NamedTuple):
    """Brightness, as logarithms of gains: its level, a drift in time and a travelling wave."""

    level: Float[Array, ""]
    drift: Float[Array, ""]
    amplitude: Float[Array, ""]
    wave: Float[Array, "3"]  # wave numbers along x and y, and speed
    phase: Float[Array, ""]


class _Cut(NamedTuple):
    """A cut: at times before ``before`` or after ``after``, another view and white balance."""

    before: Float[Array, ""]
    after: Float[Array, ""]
    elsewhere: Float[Array, "3 3"]
    gain: Float[Array, "3"]


class _Scene(NamedTuple):
    """Everything that determines a clip's frames, apart from the camera's exposure and noise."""

    clock: kinds.Clock
    camera: motion.Path
    layers: _Layer
    light: _Light
    cut: _Cut


class _Lens(NamedTuple):
    """Exposure time in intervals, amount of sharpening, strength of the noise and its seed."""

    exposure: Float[Array, ""]
    sharpness: Float[Array, ""]
    grain: Float[Array, ""]
    seed: UInt32[Array, ""]


class _Pictures(NamedTuple):
    """Real pictures to cut textures from."""

    frames: UInt8[Array, "n rows columns 3"] | None
    photographs: UInt8[Array, "m rows columns 3"] | None


Colours: TypeAlias = tuple[Float[Array, "time height width"], ...]


def draw_many(
    keys: Key[Array, " clips"],
    times: Float[Array, "clips time"],
    size: tuple[int, int],
    config: SyntheticConfig,
    textures: UInt8[Array, "n rows columns 3"] | None = None,
    photographs: UInt8[Array, "m rows columns 3"] | None = None,
) -> Float[Array, "clips time height width 3"]:
    """Draw one clip for each key at its times; the first ``blur_share`` of them have motion blur.

    Blurred clips take ``blur_samples`` times as long, so they are rendered as a batch of their own:
    ``vmap`` over a choice would compute both versions of every clip. See :func:`draw`.
    """
    n_blurred = int(len(keys) * config.blur_share)
    pictures = _Pictures(textures, photographs)
    make = functools.partial(_random_scene, size=size, config=config, pictures=pictures)
    scenes, lenses = jax.vmap(make)(keys)
    sharp = functools.partial(_film, size=size, samples=1)
    blurred = functools.partial(_film, size=size, samples=config.blur_samples)
    some, others = (
        jax.tree.map(lambda leaf, part=part: leaf[part], (scenes, lenses, times))
        for part in (slice(None, n_blurred), slice(n_blurred, None))
    )
    parts = [jax.vmap(blurred)(*some)] if n_blurred else []
    parts += [jax.vmap(sharp)(*others)] if n_blurred < len(keys) else []
    return jnp.concatenate(parts)


def draw(
    key: Key[Array, ""],
    times: Float[Array, " time"],
    size: tuple[int, int],
    config: SyntheticConfig,
    textures: UInt8[Array, "n rows columns 3"] | None = None,
    photographs: UInt8[Array, "m rows columns 3"] | None = None,
    *,
    blurred: bool = False,
) -> Float[Array, "time height width 3"]:
    """Render one clip at the given times; the key alone determines the clip.

    Args:
        key: random key that determines scene and motion.
        times: times in intervals between inputs; the inputs of a window are at 0, 1, 2 and 3.
        size: height and width of a frame in pixels.
        config: ranges of content and motion.
        textures: real frames to cut textures from, at least ``texture_size`` high and wide.
        photographs: still pictures to cut textures from, likewise.
        blurred: whether frames have motion blur, with one exposure time for the clip.
    """
    scene, lens = _random_scene(key, size, config, _Pictures(textures, photographs))
    return _film(scene, lens, times, size, config.blur_samples if blurred else 1)


def _film(
    scene: _Scene,
    lens: _Lens,
    times: Float[Array, " time"],
    size: tuple[int, int],
    samples: int,
) -> Float[Array, "time height width 3"]:
    """Render frames at the given times, averaged over the exposure if ``samples`` > 1."""
    times = kinds.read(scene.clock, times)
    if samples == 1:
        frames = _render(scene, times, size)
    else:
        moments = lens.exposure * ((jnp.arange(samples) + 0.5) / samples - 0.5)
        # A sensor adds up light, so the mean is taken in linear light (gamma 2.2). `map` renders
        # one moment at a time: all of them together would take `samples` times the memory.
        light = lax.map(lambda moment: _render(scene, times + moment, size) ** 2.2, moments)
        frames = jnp.maximum(light.mean(axis=0), 1e-9) ** (1 / 2.2)
    noise = lens.grain * kinds.grain(lens.seed, times, size)
    return jnp.clip(augment.sharpen(frames, lens.sharpness) + noise, 0.0, 1.0)


def _render(
    scene: _Scene, times: Float[Array, " time"], size: tuple[int, int]
) -> Float[Array, "time height width 3"]:
    """Render instantaneous frames: layers are composited from back to front."""
    # The camera's homography maps positions in the image to the world; from there each layer's
    # homography maps them to its texture.
    view = jax.vmap(functools.partial(motion.plane_from_image, scene.camera))(times)
    is_cut = ((times < scene.cut.before) | (times > scene.cut.after))[:, None, None]
    elsewhere = jax.vmap(functools.partial(motion.product, scene.cut.elsewhere))(view)
    view = jnp.where(is_cut, elsewhere, view)

    light = jax.vmap(functools.partial(_brightness, scene.light, size))(times)
    gain = jnp.where(is_cut[..., None], scene.cut.gain, 1.0)

    def paint_over(behind: Colours, layer: _Layer) -> tuple[Colours, None]:
        look_up = jax.vmap(functools.partial(_look_up, layer, size))
        *front, alpha = look_up(view, kinds.read(layer.clock, times))
        # The scene's light and white balance do not reach what is laid over the image.
        lit = [jnp.where(layer.is_overlay, 1.0, light * gain[..., i]) for i in range(3)]
        painted = (back + alpha * (by * new - back) for back, new, by in zip(behind, front, lit))
        return tuple(painted), None

    blank = jnp.zeros((times.shape[0], *size))
    # A scan compiles one layer's look-ups once; unrolled, compilation takes a minute.
    colours, _ = lax.scan(paint_over, (blank, blank, blank), scene.layers)
    return jnp.clip(jnp.stack(colours, axis=-1), 0.0, 1.0)


def _random_scene(
    key: Key[Array, ""],
    size: tuple[int, int],
    config: SyntheticConfig,
    pictures: _Pictures,
) -> tuple[_Scene, _Lens]:
    """Draw a scene and the camera's exposure, sharpening and noise."""
    key_camera, key_values, key_light, key_cut, key_layers = jax.random.split(key, 5)
    chance, open_share, sharp_share = jax.random.uniform(key_values, (3,))
    kind = kinds.random_kind(jax.random.fold_in(key, 5), config.shares)
    camera_moves = (chance < 0.8).astype(jnp.float32)
    camera = motion.random_path(
        key_camera, size, config.motion, moves=camera_moves, pixels_per_texel=(1.0, 1.0), spread=0.0
    )
    layers = jax.vmap(functools.partial(_random_layer, size, config, pictures, kind))(
        jnp.arange(config.n_objects + 1), jax.random.split(key_layers, config.n_objects + 1)
    )
    # Camera and fastest layer may move in opposite directions.
    speeds = jax.vmap(functools.partial(motion.speed, size=size))(layers.path, layers.wave)
    fastest = motion.speed(camera, jnp.zeros((4, 2)), size) + speeds.max()
    pace = jnp.where(kind.slow, jnp.minimum(1.0, kind.pace / fastest), 1.0)
    scene = _Scene(
        clock=kinds.slowed(kinds.repeated(kind), pace),
        camera=camera,
        layers=layers,
        light=_random_light(key_light, kind),
        cut=_random_cut(key_cut, size, config),
    )
    film = (~kind.cartoon).astype(jnp.float32)  # drawings are neither blurred nor sharpened
    lens = _Lens(
        exposure=film * pace * config.max_exposure * open_share,
        sharpness=film * config.sharpness * sharp_share,
        grain=kind.grain,
        seed=jax.random.bits(jax.random.fold_in(key, 6), (), jnp.uint32),
    )
    return scene, lens


def _random_layer(
    size: tuple[int, int],
    config: SyntheticConfig,
    pictures: _Pictures,
    kind: kinds.Kind,
    index: Int[Array, ""],
    key: Key[Array, ""],
) -> _Layer:
    """Draw a layer; 0 is the background, fixed to the world, and the last may be an overlay."""
    key_paint, key_cover, key_path, key_wave, key_flags = jax.random.split(key, 5)
    chance = jax.random.uniform(key_flags, (3,))
    phase, opacity, *tint = jax.random.uniform(jax.random.fold_in(key_flags, 1), (5,))
    is_object = index > 0
    # Clips of the overlay kind have two overlays, one of them text, of one colour each.
    is_display = is_object & kind.overlay & (index >= config.n_objects - 1)
    overlay = is_display | ((index == config.n_objects) & (chance[0] < 0.35))
    is_text = overlay & jnp.where(is_display, index == config.n_objects, chance[1] < 0.5)
    passes = kind.occluder & (index == max(1, config.n_objects - 1)) & ~overlay
    painting = painter.colour(
        key_paint,
        config.texture_size,
        pictures.frames,
        # Cartoon characters often move in front of painted backgrounds, which have texture.
        real_share=config.real_share * jnp.where(kind.cartoon, 0.4 * ~is_object, 1.0),
        photographs=pictures.photographs,
        photograph_share=config.photograph_share,
        outline=kind.outline,
    )
    covered, inked = painter.coverage(
        key_cover, painting.relief, is_text=is_text, is_large=passes, outline=kind.outline
    )
    colour = jnp.where(is_display, jnp.stack(tint), painting.colours)
    colour = colour + (is_object * inked)[..., None] * (painting.ink - colour)
    # One object in five is invisible: their number varies.
    alpha = ((chance[1] < 0.8) | is_display | passes) * covered
    # Three overlays in five are semi-transparent (opacity from 0.25).
    alpha = alpha * jnp.where(overlay, jnp.minimum(0.25 + 1.25 * opacity, 1.0), 1.0)
    moves = (is_object & ~overlay & ((chance[2] < 0.85) | passes)).astype(jnp.float32)
    path = motion.random_path(
        key_path,
        size,
        config.motion,
        moves=moves,
        pixels_per_texel=(0.5, 1.2),
        spread=0.9 * is_object.astype(jnp.float32),
    )
    velocity = jnp.hypot(*path.position[1])
    faster = jnp.where(passes, jnp.maximum(1.0, config.motion.max_speed / 4 / velocity), 1.0)
    # Bends grow with the speed, to which curvature is relative; the place stays.
    hurry = jnp.stack([jnp.ones(()), faster, faster, faster])[:, None]
    upright = jnp.where(overlay, 0.0, path.angle)  # captions and logos are not rotated
    wave = moves * motion.random_wave(key_wave, config.motion, always=kind.cartoon)
    return _Layer(
        texels=painter.pack(colour, jnp.where(is_object, alpha, 1.0), jnp.exp(path.log_scale[0])),
        path=path._replace(angle=upright, position=hurry * path.position),
        wave=wave * jnp.where(kind.cartoon, jnp.array([1.0, 1.0, 1.0, 2.0]), 1.0)[:, None],
        is_background=~is_object,
        is_overlay=overlay,
        clock=kinds.held(kind.hold, phase),
    )


def _random_light(key: Key[Array, ""], kind: kinds.Kind) -> _Light:
    """Draw changes of light: 3 clips in 10 drift in brightness, 3 in 10 have a travelling wave."""
    u = jax.random.uniform(key, (8,))
    happens = u[:2] < 0.3
    sizes = jnp.array([0.06, 0.15]) * motion.normal(u[2:4])
    return _Light(
        level=jnp.log(kind.light),
        drift=happens[0] * sizes[0],
        amplitude=happens[1] * ~kind.cartoon * sizes[1],  # flat colours stay flat
        wave=jnp.array([0.02, 0.02, 0.8]) * (2.0 * u[4:7] - 1.0),
        phase=2 * math.pi * u[7],
    )


def _brightness(
    light: _Light, size: tuple[int, int], time: Float[Array, ""]
) -> Float[Array, "height width"]:
    """Gain of the light at every pixel at one time."""
    y, x = _image(size)
    since = time - MIDDLE
    angle = light.wave[0] * x + light.wave[1] * y + light.wave[2] * since + light.phase
    return jnp.exp(light.level + light.drift * since + light.amplitude * jnp.sin(angle))


def _random_cut(key: Key[Array, ""], size: tuple[int, int], config: SyntheticConfig) -> _Cut:
    """Draw a cut to a rotated view far from the objects, with another white balance."""
    chance, early, when, heading, angle, *gains = jax.random.uniform(key, (8,))
    happens = chance < config.cut_share
    heading, angle = 2 * math.pi * heading, 2 * math.pi * angle
    away = 3.0 * max(size)  # farther than any object
    cos, sin, zero, one = jnp.cos(angle), jnp.sin(angle), jnp.zeros(()), jnp.ones(())
    x, y = away * jnp.cos(heading), away * jnp.sin(heading)
    elsewhere = jnp.stack([cos, sin, x, -sin, cos, y, zero, zero, one]).reshape(3, 3)
    return _Cut(
        before=jnp.where(happens & (early < 0.5), 0.2 + 0.6 * when, -jnp.inf),
        after=jnp.where(happens & (early >= 0.5), 2.2 + 0.6 * when, jnp.inf),
        elsewhere=elsewhere,
        gain=jnp.exp(jnp.stack(gains) - 0.7),
    )


def _look_up(
    layer: _Layer, size: tuple[int, int], view: Float[Array, "3 3"], time: Float[Array, ""]
) -> list[Float[Array, "height width"]]:
    """Sample red, green, blue and coverage of a layer at every pixel at one time."""
    view = jnp.where(layer.is_overlay, jnp.eye(3), view)
    matrix = motion.product(motion.plane_from_image(layer.path, time), view)
    y, x = _image(size)
    u, v, depth = (row[0] * x + row[1] * y + row[2] for row in matrix)
    # A strongly tilted plane has a horizon, where the depth is 0 and positions are infinite.
    depth = jnp.maximum(depth, 0.2)
    u, v = motion.bend(layer.wave, u / depth, v / depth, time)
    return painter.sample(layer.texels, u, v, mirror=layer.is_background)


def _image(size: tuple[int, int]) -> tuple[Float[Array, "height 1"], Float[Array, "1 width"]]:
    """Vertical and horizontal positions of pixels relative to the image's centre."""
    y = jnp.arange(size[0], dtype=jnp.float32)[:, None] - (size[0] - 1) / 2
    x = jnp.arange(size[1], dtype=jnp.float32)[None, :] - (size[1] - 1) / 2
    return y, x
