# SPDX-License-Identifier: Apache-2.0
"""Scenes as arrays: what a jitted program needs of a scene at the moments of its samples."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int
from PIL import Image

from flavr_jax.extras import install_command
from flavr_jax.render import bvh
from flavr_jax.render.scene import Material, Object, Scene

__all__ = ["Layout", "Materials", "Moment", "World", "compile_scene", "moments"]

PATTERNS = ("plain", "checker", "noise", "bands", "wedges", "dots", "tiles", "image")
_SMOOTH = 0.1  # roughness below this reflects like a mirror: its lobe is too narrow for float32


@dataclasses.dataclass(frozen=True)
class Layout:
    """Structure of a scene, which a program is compiled for.

    Attributes:
        shapes: shape of each object.
        meshes: for each object, the number of its mesh, or −1.
        lights: numbers of the objects that are sampled as lights.
        patterns: patterns that occur.
        has_sun: whether there is a sun.
        bounces: surfaces that a path may meet.
    """

    shapes: tuple[str, ...]
    meshes: tuple[int, ...]
    lights: tuple[int, ...]
    patterns: tuple[str, ...]
    has_sun: bool
    bounces: int


class Materials(NamedTuple):
    """Materials of the objects, a row for each."""

    colour: Float[Array, "object 3"]
    second: Float[Array, "object 3"]
    pattern: Float[Array, " object"]  # index in PATTERNS
    image: Float[Array, " object"]  # number of the image
    scale: Float[Array, " object"]
    is_metal: Float[Array, " object"]
    is_glass: Float[Array, " object"]
    is_light: Float[Array, " object"]
    is_coated: Float[Array, " object"]
    width: Float[Array, " object"]  # of the GGX lobe; 0 is a mirror
    ior: Float[Array, " object"]
    sampled: Float[Array, " object"]  # 1 if the object is sampled as a light


class Moment(NamedTuple):
    """Positions at the time of a sample."""

    position: Float[Array, "*time object 3"]
    rotation: Float[Array, "*time object 3 3"]
    eye: Float[Array, "*time 3"]
    axes: Float[Array, "*time 3 3"]  # right, down, forward
    focus: Float[Array, "*time"]


class World(NamedTuple):
    """Everything that does not move."""

    size: Float[Array, "object 3"]
    materials: Materials
    meshes: tuple[bvh.Bvh, ...]
    images: tuple[Float[Array, "_rows _columns 3"], ...]
    panorama: Float[Array, "rows columns 3"]
    sky: Float[Array, "2 3"]  # zenith, horizon
    sun: Float[Array, "3 3"]  # direction; radiance; (1 − cosine of its radius, 0, 0)
    lens: Float[Array, "2"]  # height of the image at a distance of 1, radius of the aperture
    brightest: Float[Array, ""]


def compile_scene(scene: Scene) -> tuple[Layout, World]:
    """Read meshes and images, and turn a scene into arrays.

    Raises:
        ValueError: the scene has no objects.
        FileNotFoundError: a mesh or an image is missing.
        ModuleNotFoundError: there is a mesh, and trimesh is not installed.
    """
    if not scene.objects:
        raise ValueError("the scene has no objects; give it one in `[[objects]]`.")
    folder = Path(scene.folder)
    used = [scene.materials[each.material] for each in scene.objects]
    files, images = scene.meshes, scene.images
    lights = tuple(
        number
        for number, (each, material) in enumerate(zip(scene.objects, used))
        if material.kind == "emissive" and each.shape in ("sphere", "rectangle")
    )
    layout = Layout(
        shapes=tuple(each.shape for each in scene.objects),
        meshes=tuple(
            files.index(each.file) if each.shape == "mesh" else -1 for each in scene.objects
        ),
        lights=lights,
        patterns=tuple(sorted({each.pattern for each in used})),
        has_sun=max(scene.sun.colour) > 0,
        bounces=scene.bounces,
    )
    environment, sun = scene.environment, scene.sun
    # This is 1 − cosine, without its loss of precision for small angles.
    drop = 2 * math.sin(math.radians(sun.angle) / 2) ** 2
    towards = np.array(sun.direction) / np.linalg.norm(sun.direction)
    # A white surface that faces a cone of radiance L has the radiance L · sin² of its radius.
    light = np.array(sun.colour) / (drop * (2 - drop))
    panorama = _read_image(folder / environment.image) if environment.image else np.zeros((1, 1, 3))
    use_colours = 0.0 if environment.image else environment.strength
    return layout, World(
        size=_float([_extent(each) for each in scene.objects]),
        materials=_materials(used, images, lights),
        meshes=tuple(_read_mesh(folder / file) for file in files),
        images=tuple(_float(_read_image(folder / file)) for file in images),
        panorama=_float(panorama * environment.strength),
        sky=_float(use_colours * np.array([environment.zenith, environment.horizon])),
        sun=_float([towards, light, [drop, 0, 0]]),
        lens=_float(
            [2 * math.tan(math.radians(scene.camera.field_of_view) / 2), scene.camera.aperture]
        ),
        brightest=_float(scene.brightest or math.inf),
    )


def moments(scene: Scene, time: float, samples: int) -> Moment:
    """Return positions at the samples of an exposure that is centred on ``time``.

    With a closed shutter there is one row for all samples.
    """
    shutter = scene.camera.shutter
    steps = (np.arange(samples) + 0.5) / samples - 0.5
    times = time + shutter * steps if shutter else np.full(1, time)
    poses = [[each.at(float(t)) for each in scene.objects] for t in times]
    cameras = [scene.camera.at(float(t)) for t in times]
    columns = (
        np.array([[pose[0] for pose in row] for row in poses]).reshape(len(times), -1, 3),
        np.array([[pose[1] for pose in row] for row in poses]).reshape(len(times), -1, 3, 3),
        *(np.array(column) for column in zip(*cameras)),
    )
    return Moment(*map(_float, columns))


def _materials(used: list[Material], images: list[str], lights: tuple[int, ...]) -> Materials:
    rows: list[tuple[Any, ...]] = [
        (
            each.colour,
            each.second if each.pattern != "plain" else each.colour,
            PATTERNS.index(each.pattern),
            images.index(each.image) if each.pattern == "image" else 0,
            each.scale,
            each.kind == "metal",
            each.kind == "glass",
            each.kind == "emissive",
            each.kind == "glossy",
            # Squared, reflections blur evenly with the roughness (Burley 2012).
            each.roughness**2 if each.roughness >= _SMOOTH else 0.0,
            each.ior,
            number in lights,
        )
        for number, each in enumerate(used)
    ]
    return Materials(*(_float(np.array(column, float)) for column in zip(*rows)))


def _extent(each: Object) -> list[float]:
    """Return three sizes from one, two or three."""
    return [*each.size, *[each.size[-1]] * 3][:3]


def _float(values: Any) -> Array:
    return jnp.asarray(values, jnp.float32)


def _read_image(path: Path) -> Float[np.ndarray, "rows columns 3"]:
    """Read an image as linear light."""
    if not path.exists():
        raise FileNotFoundError(f"there is no image {path}; the scene names it.")
    with Image.open(path) as picture:
        values = np.asarray(picture.convert("RGB"), np.float32) / 255.0
    # The inverse of sRGB's curve (IEC 61966-2-1).
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _read_mesh(path: Path) -> bvh.Bvh:
    """Read a mesh with all of its parts as one."""
    if not path.exists():
        raise FileNotFoundError(f"there is no mesh {path}; the scene names it.")
    try:
        import trimesh
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is read with trimesh, which is not installed: {install_command('render')}."
        ) from error
    # Processing would join the corners that the file keeps apart at sharp edges, and smooth them.
    mesh: Any = trimesh.load(path, force="mesh", process=False)
    faces: Int[np.ndarray, "triangles 3"] = np.asarray(mesh.faces)
    return bvh.build(np.asarray(mesh.vertices), faces, np.asarray(mesh.vertex_normals))
