# SPDX-License-Identifier: Apache-2.0
"""Scenes as settings: objects, materials, lights and a camera, read from a TOML file.

Lengths are in one arbitrary unit, angles in degrees, times in seconds; the z axis points up.
Colours are linear: a reflected fraction of light, or a radiance.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from flavr_jax import config
from flavr_jax.render.motion import Pose, spline

__all__ = ["Camera", "Environment", "Material", "Object", "Scene", "Sun", "load", "shipped"]

Triple = tuple[float, float, float]

_SCENES = Path(__file__).parent / "scenes"


@dataclasses.dataclass(frozen=True)
class Material:
    """A surface.

    Attributes:
        kind: ``diffuse`` (Lambert), ``glossy`` (diffuse under a clear coat), ``metal``, ``glass``
            (smooth) or ``emissive``.
        colour: colour, or radiance of an emissive surface. Metal reflects it; glass transmits it.
        pattern: layout of ``colour`` and ``second``: ``checker`` and ``noise`` in space; ``bands``,
            ``wedges`` and ``dots`` by direction from the object's centre; ``tiles`` (Truchet's) in
            the object's x and y; or ``image``, which replaces both.
        second: second colour of a pattern.
        scale: size of a pattern's cells; width of an image, which repeats.
        image: image file of the pattern ``image``, beside the scene's file.
        roughness: 0 is a mirror; above 0.1 reflections blur (GGX, with the square as its width).
        ior: index of refraction of glass and of a clear coat.
    """

    kind: Literal["diffuse", "glossy", "metal", "glass", "emissive"] = "diffuse"
    colour: Triple = (0.8, 0.8, 0.8)
    pattern: Literal["plain", "checker", "noise", "bands", "wedges", "dots", "tiles", "image"] = (
        "plain"
    )
    second: Triple = (0.2, 0.2, 0.2)
    scale: float = 1.0
    image: str = ""
    roughness: float = 0.0
    ior: float = 1.5


@dataclasses.dataclass(frozen=True)
class Object(Pose):
    """A shape with a material and a motion.

    Attributes:
        shape: ``sphere``; ``box``; ``plane``, infinite, and ``rectangle``, both at z = 0 of the
            object's coordinates; ``mesh``.
        material: name of a material.
        size: radius of a sphere; half extents of a box or rectangle; factor of a mesh.
        file: file of a mesh (OBJ, glTF, PLY …), beside the scene's file.
    """

    shape: Literal["sphere", "box", "plane", "rectangle", "mesh"] = "sphere"
    material: str = ""
    size: tuple[float, ...] = (1.0,)
    file: str = ""


@dataclasses.dataclass(frozen=True)
class Sun:
    """A disc in the sky; ``colour`` is the radiance of a white surface that faces it."""

    direction: Triple = (0.0, 0.0, 1.0)
    colour: Triple = (0.0, 0.0, 0.0)
    angle: float = 1.0  # angular radius; a larger sun makes softer shadows

    def __post_init__(self) -> None:
        if not any(self.direction):
            raise ValueError("the sun's `direction` is zero; give the direction towards it.")
        if not 0 < self.angle <= 90:
            raise ValueError(f"the sun's `angle` is {self.angle}; it is above 0, and at most 90.")


@dataclasses.dataclass(frozen=True)
class Environment:
    """Light from all around: two colours blended from horizon to zenith, or an image.

    Attributes:
        zenith: radiance from above.
        horizon: radiance from the horizon and below it.
        image: panorama of the whole sphere (longitude × latitude), beside the scene's file; it
            replaces both colours.
        strength: factor of all of them.
    """

    zenith: Triple = (0.0, 0.0, 0.0)
    horizon: Triple = (0.0, 0.0, 0.0)
    image: str = ""
    strength: float = 1.0


@dataclasses.dataclass(frozen=True)
class View:
    """Position and target of a camera at one time."""

    time: float
    position: Triple
    target: Triple


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera with a thin lens.

    Attributes:
        position: position; key frames replace it and ``target``.
        target: point in the middle of the image.
        keys: key frames, through which splines run.
        field_of_view: vertical angle of view.
        aperture: radius of the lens; 0 is a pinhole, everything is sharp.
        focus: distance of what is sharp; 0 is the target's.
        shutter: time for which the shutter is open, in seconds; objects blur by their motion.
    """

    position: Triple = (0.0, -10.0, 2.0)
    target: Triple = (0.0, 0.0, 0.0)
    keys: tuple[View, ...] = ()
    field_of_view: float = 40.0
    aperture: float = 0.0
    focus: float = 0.0
    shutter: float = 0.0

    def at(self, time: float) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"], float]:
        """Return position; unit vectors right, down and forward as rows; and distance in focus.

        A camera that looks straight up or down has the x axis on its right.

        Raises:
            ValueError: the camera is where its target is.
        """
        position, target = np.array(self.position, float), np.array(self.target, float)
        if self.keys:
            times = [key.time for key in self.keys]
            position = spline(times, [key.position for key in self.keys], time)
            target = spline(times, [key.target for key in self.keys], time)
        distance = float(np.linalg.norm(target - position))
        if distance == 0:
            raise ValueError(
                f"at {time:g} s the camera is at its target, {position.tolist()}; move one of them."
            )
        forward = (target - position) / distance
        right = np.cross(forward, [0.0, 0.0, 1.0])
        length = np.linalg.norm(right)
        right = right / length if length > 1e-9 else np.array([1.0, 0.0, 0.0])
        axes = np.stack([right, np.cross(forward, right), forward])
        return position, axes, self.focus or distance


@dataclasses.dataclass(frozen=True)
class Scene:
    """Everything that is rendered.

    Attributes:
        objects: objects in the scene; emissive ones light it.
        materials: materials by name.
        camera: camera.
        environment: light from all around.
        sun: light from one direction.
        bounces: surfaces that a path may meet.
        exposure: factor of the light before it becomes a picture.
        brightest: most light that one path may bring by way of a bounce, which limits bright
            specks at the price of a bias; 0 is no limit.
        folder: folder of meshes and images.
    """

    objects: tuple[Object, ...] = ()
    materials: dict[str, Material] = dataclasses.field(default_factory=dict)
    camera: Camera = Camera()
    environment: Environment = Environment()
    sun: Sun = Sun()
    bounces: int = 6
    exposure: float = 1.0
    brightest: float = 0.0
    folder: str = "."

    def __post_init__(self) -> None:
        for number, each in enumerate(self.objects):
            if each.material not in self.materials:
                raise ValueError(
                    f"`objects[{number}].material` is {each.material!r}; known materials are "
                    f"{', '.join(self.materials) or 'none'}."
                )
            if not 1 <= len(each.size) <= 3 or min(each.size) <= 0:
                raise ValueError(
                    f"`objects[{number}].size` is {list(each.size)}; give 1 to 3 numbers above 0."
                )
            if each.shape == "mesh" and not each.file:
                raise ValueError(f"`objects[{number}]` is a mesh without a `file`; name one.")
        for name, each in self.materials.items():
            if each.pattern == "image" and not each.image:
                raise ValueError(f"material {name!r} has no `image`; name a file.")
        if self.bounces < 1:
            raise ValueError(f"`bounces` is {self.bounces}; a path meets at least 1 surface.")

    @property
    def meshes(self) -> list[str]:
        """Files of meshes, each once."""
        return sorted({each.file for each in self.objects if each.shape == "mesh"})

    @property
    def images(self) -> list[str]:
        """Image files of the objects' materials, each once."""
        used = [self.materials[each.material] for each in self.objects]
        return sorted({each.image for each in used if each.pattern == "image"})


def shipped() -> list[str]:
    """Return the names of the scenes that ship."""
    return sorted(each.stem for each in _SCENES.glob("*.toml"))


def load(name: str | Path) -> Scene:
    """Read a scene from a TOML file; the name of a scene that ships needs no folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has unknown keys, or values that do not fit.
    """
    path = Path(name)
    with_suffix = _SCENES / f"{name}.toml"
    if not path.suffix and with_suffix.exists():
        path = with_suffix
    if not path.exists():
        known = ", ".join(shipped())
        raise FileNotFoundError(f"{name} is no scene; give a TOML file, or one of {known}.")
    values: dict[str, Any] = config.read_toml(path)
    materials = {
        key: config.build(Material, value, where=f"{path}: materials.{key}")
        for key, value in values.get("materials", {}).items()
    }
    values |= {"materials": materials, "folder": str(path.parent)}
    return config.build(Scene, values, where=str(path))
