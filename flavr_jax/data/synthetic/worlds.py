# SPDX-License-Identifier: Apache-2.0
"""Random worlds in three dimensions: what stands where at any time, as the camera sees it.

A world is a room with a few rigid objects, each made of up to three parts that interpenetrate: an
ellipsoid and two convex solids (boxes, boards, bars, prisms, pyramids, rocks). Objects and camera
follow smooth paths. All positions are computed from the time alone, so frames at any times agree.

World coordinates are those of the camera at the time ``MIDDLE``, if it stood still: x to the right,
y down, z forward. Most objects are 1 to 6 units away.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key

from flavr_jax.data.synthetic.motion import MIDDLE, MotionConfig, log_between, normal

__all__ = ["N_FACES", "Finish", "View", "World", "WorldConfig", "random_world", "view"]

N_FACES = 8
"""Faces of a solid; shapes with fewer have some of them twice."""

_NEAR, _FAR = 1.2, 6.0  # depths of objects
_SOLIDS_PER_OBJECT = 2


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """Content and motion of rendered worlds.

    Attributes:
        n_objects: number of objects; one in ten is invisible.
        motion: ranges of motion in pixels and radians per interval. A speed holds at the object's
            depth, and the camera's at a depth between 1.2 and 3 units. Rotations about any axis
            reach four times ``max_turn``; ``max_zoom``, ``tilt`` and ``max_bend`` are not used.
        n_textures: number of textures in a world, shared among its surfaces.
    """

    n_objects: int = 4
    motion: MotionConfig = dataclasses.field(default_factory=MotionConfig)
    n_textures: int = 4


class _Paths(NamedTuple):
    """Polynomials in time − MIDDLE, constants first, for each moving body."""

    position: Float[Array, "*bodies 4 3"]
    turn: Float[Array, "*bodies 3 3"]  # rotation vector


class _Balls(NamedTuple):
    """Ellipsoids in their object's coordinates, as maps to the unit sphere."""

    matrix: Float[Array, "*balls 3 3"]
    centre: Float[Array, "*balls 3"]
    radius: Float[Array, "*balls"]  # 1, or -1 for a ball that does not exist


class _Solids(NamedTuple):
    """Convex solids in their object's coordinates; the last one is the room."""

    normals: Float[Array, "*solids faces 3"]
    heights: Float[Array, "*solids faces"]
    across: Float[Array, "*solids faces 3"]  # direction of a texture's u axis


class Finish(NamedTuple):
    """Appearance of balls, then of solids, then of the room's faces."""

    texture: Int[Array, " surfaces"]
    density: Float[Array, " surfaces"]  # texels per unit of length
    shift: Float[Array, "surfaces 2"]  # position of a texture in texels
    tint: Float[Array, "surfaces 3"]
    gloss: Float[Array, " surfaces"]
    shininess: Float[Array, " surfaces"]


class _Light(NamedTuple):
    """Light from one direction and from everywhere, and fog."""

    direction: Float[Array, "3"]
    sun: Float[Array, "3"]
    sky: Float[Array, "3"]
    drift: Float[Array, ""]  # change of the logarithm of the brightness per interval
    fog: Float[Array, "4"]  # colour, and extinction per unit of length


class World(NamedTuple):
    """Everything that determines a clip, apart from its textures."""

    camera: _Paths
    shake: Float[Array, "3 2"]  # amplitude, angular frequency and phase, about x and y
    focal: Float[Array, ""]  # focal length in image heights
    objects: _Paths
    balls: _Balls
    solids: _Solids
    finish: Finish
    light: _Light


class View(NamedTuple):
    """A world at one time in the camera's coordinates, with the camera in the origin."""

    matrix: Float[Array, "balls 3 3"]
    centre: Float[Array, "balls 3"]
    radius: Float[Array, " balls"]
    normals: Float[Array, "solids faces 3"]
    heights: Float[Array, "solids faces"]
    across: Float[Array, "solids faces 4"]  # u = across · (x, y, z, 1), a length
    down: Float[Array, "solids faces 4"]
    direction: Float[Array, "3"]  # towards the sun
    up: Float[Array, "3"]
    sun: Float[Array, "3"]
    sky: Float[Array, "3"]
    fog: Float[Array, "4"]


def random_world(key: Key[Array, ""], size: tuple[int, int], config: WorldConfig) -> World:
    """Draw a world.

    Args:
        key: random key.
        size: height and width of a frame in pixels; speeds are relative to it.
        config: ranges of content and motion.
    """
    key_camera, key_objects, key_parts, key_room, key_finish = jax.random.split(key, 5)
    u = jax.random.uniform(key_camera, (40,))
    focal = log_between(u[0], 0.8, 2.0)
    unit = 1.0 / (focal * size[0])  # width of a pixel at a depth of 1
    camera, shake = _camera(u[1:], unit, config.motion)
    count = config.n_objects
    values = jax.random.uniform(key_objects, (count, 32))
    objects, radius = jax.vmap(lambda u: _object(u, size, unit, config.motion))(values)
    solids_of = jnp.repeat(jnp.arange(count), _SOLIDS_PER_OBJECT)
    values = jax.random.uniform(key_parts, (3 * count, 60))
    is_seen = values[:count, 0] < 0.9
    balls = jax.vmap(_ball)(values[:count], radius, is_seen)
    solids = jax.vmap(_solid)(values[count:], radius[solids_of], is_seen[solids_of])
    solids = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b[None]]),
        solids,
        _room(jax.random.uniform(key_room, (12,))),
    )
    depths = jnp.concatenate([objects.position[:, 0, 2], objects.position[solids_of, 0, 2]])
    depths = jnp.concatenate([depths, jnp.maximum(solids.heights[-1], 1.0)])
    values = jax.random.uniform(key_finish, (len(depths), 11))
    finish = _finish(values, depths, unit, config.n_textures)
    light = _light(jax.random.uniform(jax.random.fold_in(key_finish, 1), (20,)))
    return World(camera, shake, focal, objects, balls, solids, finish, light)


def view(world: World, time: Float[Array, ""]) -> View:
    """Return the world as the camera sees it at one time."""
    since = time - MIDDLE
    eye, turn = _at(world.camera, since)
    amplitude, frequency, phase = world.shake
    sway = amplitude * jnp.sin(frequency * since + phase)
    axes = _rotation(turn + jnp.concatenate([sway, jnp.zeros(1)]))  # columns: the camera's axes
    place, turn = jax.vmap(lambda paths: _at(paths, since))(world.objects)
    # The room is at rest, the last body.
    place = jnp.concatenate([place, jnp.zeros((1, 3))]) - eye
    turn = jnp.concatenate([turn, jnp.zeros((1, 3))])
    rotation = jax.vmap(lambda turn: _product(axes.T, _rotation(turn)))(turn)
    place = _product(place, axes)  # the product with the transposed axes, from the left

    balls, solids = world.balls, world.solids
    count = len(balls.matrix)
    centre = place[:count] + _apply(rotation[:count], balls.centre)
    matrix = jax.vmap(lambda m, r: _product(m, r.T))(balls.matrix, rotation[:count])
    body = np.append(np.repeat(np.arange(count), _SOLIDS_PER_OBJECT), count)
    rotation, place = rotation[body][:, None], place[body][:, None]
    normals = _apply(rotation, solids.normals)
    across = _apply(rotation, solids.across)
    down = jnp.cross(normals, across)

    def with_offset(axis: Float[Array, "solids faces 3"]) -> Float[Array, "solids faces 4"]:
        return jnp.concatenate([axis, -(axis * place).sum(-1, keepdims=True)], axis=-1)

    light = world.light
    brightness = jnp.exp(light.drift * since)
    return View(
        matrix,
        centre,
        balls.radius,
        normals,
        solids.heights + (normals * place).sum(-1),
        with_offset(across),
        with_offset(down),
        direction=_product(light.direction[None], axes)[0],
        up=-axes[1],
        sun=brightness * light.sun,
        sky=brightness * light.sky,
        fog=light.fog,
    )


def _camera(
    u: Float[Array, " values"], unit: Float[Array, ""], config: MotionConfig
) -> tuple[_Paths, Float[Array, "3 2"]]:
    """Draw the camera's path, and its shake in radians; one camera in five stands still."""
    moves, travels, pans, tracks = (u[:4] < jnp.array([0.8, 0.75, 0.5, 0.4])).astype(jnp.float32)
    depth = log_between(u[4], _NEAR, 3.0)
    speed = moves * travels * log_between(u[5], config.min_speed, config.max_speed) * unit * depth
    heading = normal(u[6:9]) * jnp.array([1.0, 0.5, 0.6])
    position = _polynomial(speed * _unit(heading), u[9:15], config.curvature)
    # A camera that tracks turns towards a point at `depth`, which then stays in place.
    towards = position[:, [1, 0, 2]] * jnp.array([1.0, -1.0, 0.0]) / depth
    speed = moves * pans * log_between(u[15], config.min_speed, config.max_speed) * unit
    angle = 2 * math.pi * u[16]
    heading = jnp.stack([jnp.sin(angle), jnp.cos(angle), jnp.zeros(())])
    turn = _polynomial(speed * heading, u[17:23], config.curvature) + tracks * towards
    roll = moves * config.max_turn * (2.0 * u[23] - 1.0) ** 3
    turn = turn[:3].at[1, 2].add(roll)
    # Frequencies as in `motion.random_path`: below one oscillation in two intervals.
    amplitude = config.max_shake * unit * moves * (u[24] < 1 / 3) * u[25:27] ** 2
    shake = jnp.stack([amplitude, 3.0 * u[27:29], 2 * math.pi * u[29:31]])
    return _Paths(position, turn), shake


def _object(
    u: Float[Array, " values"], size: tuple[int, int], unit: Float[Array, ""], config: MotionConfig
) -> tuple[_Paths, Float[Array, ""]]:
    """Draw an object's path and its radius; one in five stands still."""
    depth = log_between(u[0], _NEAR, _FAR)
    half_frame = jnp.array([size[1] / 2, size[0] / 2]) * unit * depth
    place = jnp.append(0.85 * half_frame * (2.0 * u[1:3] - 1.0), depth)
    radius = log_between(u[3], 0.08, 0.33) * size[0] * unit * depth
    moves = (u[4] < 0.8).astype(jnp.float32)
    speed = moves * log_between(u[5], config.min_speed, config.max_speed) * unit * depth
    heading = _unit(normal(u[6:9]) * jnp.array([1.0, 1.0, 0.5]))
    position = _polynomial(speed * heading, u[9:15], config.curvature).at[0].set(place)
    axis, start = _unit(normal(u[15:18])), 2 * math.pi * u[18]
    # Cubes of uniform values favour slow turns.
    rate = moves * 4.0 * config.max_turn * (2.0 * u[19] - 1.0) ** 3
    angles = jnp.stack([start, rate, 0.5 * config.curvature * rate * normal(u[20])])
    return _Paths(position, angles[:, None] * axis), radius


def _polynomial(
    velocity: Float[Array, "3"], u: Float[Array, "6"], curvature: float
) -> Float[Array, "4 3"]:
    """Return coefficients of a curved path through the origin."""
    speed = jnp.sqrt((velocity**2).sum())
    # Taylor terms of second and third order, as in `motion.random_path`.
    bends = speed * curvature * normal(u).reshape(2, 3) * jnp.array([[1 / 2], [1 / 6]])
    return jnp.concatenate([jnp.zeros((1, 3)), velocity[None], bends])


def _ball(u: Float[Array, " values"], radius: Float[Array, ""], is_seen: Bool[Array, ""]) -> _Balls:
    """Draw an ellipsoid; half of them are spheres, and every second object has one."""
    stretch = jnp.where(u[1] < 0.5, 1.0, jnp.exp(0.35 * normal(u[2:5])))
    radii = radius * (0.5 + 0.5 * u[5]) * stretch
    rotation = _rotation(2.0 * normal(u[6:9]))
    exists = is_seen & (u[9] < 0.5)
    centre = _offset(u[10:14], radius)
    return _Balls(rotation / radii[:, None], centre, jnp.where(exists, 1.0, -1.0))


def _solid(
    u: Float[Array, " values"], radius: Float[Array, ""], is_seen: Bool[Array, ""]
) -> _Solids:
    """Draw a convex solid; two in five are boards or bars."""
    kind = (u[1] * len(_SHAPES)).astype(jnp.int32)
    normals, heights = jnp.asarray(_SHAPES)[kind], jnp.asarray(_HEIGHTS)[kind]
    jitter = jnp.where(u[2] < 0.4, 0.15, 0.0)
    normals = _unit(normals + jitter * normal(u[3 : 3 + 3 * N_FACES]).reshape(N_FACES, 3))
    stretch = log_between(u[30:33], 0.6, 1.2)
    thin = jnp.where(u[33] < 0.25, jnp.array([1.0, 1.0, 0.06]), jnp.ones(3))
    thin = jnp.where(u[33] > 0.85, jnp.array([0.08, 0.08, 1.3]), thin)
    scale = radius * stretch * thin
    rotation = jnp.where(u[34] < 0.4, jnp.eye(3), _rotation(2.0 * normal(u[35:38])))
    # Stretching a solid by `scale` divides the normals of its faces by it.
    normals = normals / scale
    length = jnp.sqrt((normals**2).sum(-1))
    normals = _apply(rotation, normals / length[:, None])
    centre = _offset(u[38:42], radius)
    heights = heights / length + (normals * centre).sum(-1)
    exists = is_seen & (u[42] < jnp.where(u[43] < 0.5, 0.9, 0.5))
    # Planes far behind the centre leave nothing of the solid.
    return _Solids(normals, jnp.where(exists, heights, -1e6), _tangents(normals))


def _room(u: Float[Array, "12"]) -> _Solids:
    """Draw a box around the camera; its walls are 1 to 12 units away, its floor may be closer."""
    low = jnp.array([1.0, 1.0, 1.0, 0.5, 2.5, 2.5])
    high = jnp.array([8.0, 8.0, 8.0, 3.0, 12.0, 3.0])
    heights = low * (high / low) ** u[:6]
    normals = jnp.asarray(_SHAPES[0])
    rotation = _rotation(jnp.array([0.25, 0.6, 0.12]) * (2.0 * u[6:9] - 1.0))
    # A room has six faces; two occur twice, so that it fits beside the solids.
    order = np.array([0, 1, 2, 3, 4, 5, 0, 1])
    normals = _apply(rotation, normals)
    return _Solids(normals, heights[order], _tangents(normals))


def _finish(
    u: Float[Array, "surfaces 11"],
    depths: Float[Array, " surfaces"],
    unit: Float[Array, ""],
    n_textures: int,
) -> Finish:
    """Draw surfaces; at their depth, texels are 0.5 to 1.2 pixels wide."""
    return Finish(
        texture=(u[:, 0] * n_textures).astype(jnp.int32),
        density=1.0 / (log_between(u[:, 1], 0.5, 1.2) * unit * depths),
        # Surfaces that share a texture show different parts of it, mirrored beyond its border.
        shift=2000.0 * u[:, 9:],
        tint=jnp.exp(0.15 * normal(u[:, 2:5])) * jnp.exp(0.2 * normal(u[:, 5:6])),
        gloss=jnp.where(u[:, 6] < 0.4, u[:, 7], 0.0),
        shininess=log_between(u[:, 8], 15.0, 200.0),
    )


def _light(u: Float[Array, " values"]) -> _Light:
    """Draw sun and sky; 3 worlds in 10 have fog, and 3 in 10 a drift in brightness."""
    towards = _unit(jnp.array([-1.0, -1.1, -1.0]) + jnp.array([2.0, 1.2, 1.4]) * u[:3])
    share = 0.35 + 0.45 * u[3]  # of the light that comes from the sun
    whole = 1.0 + 0.4 * (u[4] - 0.5)
    tint = 1.0 + 0.3 * (u[5:8] - 0.5)
    grey = 0.2 + 0.7 * u[15]
    fog = jnp.append(grey + 0.25 * (u[8:11] - 0.5), 0.15 * (u[11] < 0.3) * u[12])
    drift = (u[13] < 0.3) * 0.06 * normal(u[14])
    return _Light(towards, 1.4 * whole * share * tint, whole * (1.0 - share) / tint, drift, fog)


def _shapes() -> tuple[np.ndarray, np.ndarray]:
    """Return normals and heights of the faces of basic shapes of about unit size."""
    box = [(1, 0, 0), (-1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1)]
    bevelled = [*box, (1, 1, 1), (-1, 1, -1)]
    angles = np.arange(6) * math.pi / 3
    prism = [(math.cos(a), math.sin(a), 0) for a in angles] + [(0, 0, 1), (0, 0, -1)]
    octahedron = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    pyramid = [(0, 0, -1), (1, 0, 0.5), (-1, 0, 0.5), (0, 1, 0.5), (0, -1, 0.5)]
    tetrahedron = [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
    table = [
        (box + box[:2], [0.7] * 8),
        (bevelled, [0.7] * 6 + [0.9] * 2),
        (prism, [0.8] * 6 + [0.6] * 2),
        (octahedron, [0.7] * 8),
        (pyramid + pyramid[1:4], [0.5] * 8),
        (tetrahedron * 2, [0.45] * 8),
    ]
    normals = np.array([faces for faces, _ in table], np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return normals, np.array([heights for _, heights in table], np.float32)


_SHAPES, _HEIGHTS = _shapes()


def _tangents(normals: Float[Array, "faces 3"]) -> Float[Array, "faces 3"]:
    """Return a direction in each face."""
    # The cross product needs an axis that is not nearly parallel to the normal.
    other = jnp.where(jnp.abs(normals[:, 2:]) < 0.7, jnp.array([0.0, 0, 1]), jnp.array([1.0, 0, 0]))
    return _unit(jnp.cross(normals, other))


def _offset(u: Float[Array, "4"], radius: Float[Array, ""]) -> Float[Array, "3"]:
    return 0.7 * radius * u[3] * _unit(normal(u[:3]))


def _at(paths: _Paths, since: Float[Array, ""]) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
    """Return a body's position and rotation vector."""
    powers = jnp.stack([jnp.ones_like(since), since, since**2, since**3])[:, None]
    return (paths.position * powers).sum(0), (paths.turn * powers[:3]).sum(0)


def _rotation(turn: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """Return the matrix of a rotation vector (Rodrigues)."""
    # The small number keeps the axis finite where nothing turns.
    angle = jnp.sqrt((turn**2).sum() + 1e-20)
    x, y, z = turn / angle
    zero = jnp.zeros_like(x)
    cross = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    return jnp.eye(3) + jnp.sin(angle) * cross + (1.0 - jnp.cos(angle)) * _product(cross, cross)


def _product(a: Float[Array, "n 3"], b: Float[Array, "3 3"]) -> Float[Array, "n 3"]:
    # See `motion.product`: a GPU's default precision moves surfaces visibly.
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _apply(matrix: Float[Array, "... 3 3"], vectors: Float[Array, "... 3"]) -> Array:
    return (matrix * vectors[..., None, :]).sum(-1)


def _unit(vectors: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    return vectors * lax.rsqrt((vectors**2).sum(-1, keepdims=True) + 1e-12)
