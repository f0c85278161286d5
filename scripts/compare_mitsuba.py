# SPDX-License-Identifier: Apache-2.0
"""Render two scenes with this path tracer and with Mitsuba 3, and compare images and times.

Needs ``pip install mitsuba`` and, for its variant ``llvm_ad_rgb``, LLVM's shared library. Each
renderer makes several independent images of a scene, whose spread gives the noise of the means.
If both renderers are right, the difference of the means is as large as that noise.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from flavr_jax import cli, render
from flavr_jax.render import Camera, Environment, Material, Object, Scene

_SKY, _EYE, _TARGET = 0.2, (0.0, -8.0, 3.0), (0.0, 0.0, 0.8)
_BOUNCES, _ANGLE = 8, 40.0
Images = Float[np.ndarray, "image height width 3"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare this path tracer with Mitsuba 3 on two scenes: diffuse, and glass and metal."""

    size: tuple[int, int] = (64, 96)
    """Height and width in pixels."""
    samples: int = 64
    """Samples per pixel of each image."""
    images: int = 8
    """Independent images of each renderer, 2 or more."""
    variant: str = "llvm_ad_rgb"
    """Variant of Mitsuba."""


def main(options: Options) -> None:
    """Compare both scenes, and print a line for each."""
    if options.images < 2:
        raise ValueError(f"`images` is {options.images}; the noise needs 2 or more.")
    mitsuba: Any = importlib.import_module("mitsuba")
    mitsuba.set_variant(options.variant)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, mitsuba {mitsuba.__version__}")
    for name, ours, theirs in (
        ("diffuse", _diffuse(), _mitsuba_diffuse(mitsuba)),
        ("glass and metal", _shiny(), _mitsuba_shiny(mitsuba)),
    ):
        first, first_seconds = _timed(_ours(ours, options), options.images)
        scene = mitsuba.load_dict(_mitsuba_scene(mitsuba, theirs, options))
        second, second_seconds = _timed(_theirs(mitsuba, scene, options), options.images)
        print(f"{name}: {_comparison(first, second)}")
        print(
            f"  seconds per image of {options.samples} samples: {first_seconds:.2f} here, ", end=""
        )
        print(f"{second_seconds:.2f} in Mitsuba")


def _timed(draw: Callable[[int], np.ndarray], count: int) -> tuple[Images, float]:
    """Return images with seeds from 1, and the seconds of each without compilation."""
    draw(0)
    started = time.perf_counter()
    images = np.array([draw(seed) for seed in range(1, count + 1)])
    return images, (time.perf_counter() - started) / count


def _comparison(first: Images, second: Images) -> str:
    """Describe the difference of means, relative to the noise that the images' spread predicts."""
    grey = [each.mean(-1) for each in (first, second)]
    means = [each.mean(0) for each in grey]
    noise = np.sqrt(sum(each.var(0, ddof=1) / len(each) for each in grey))
    apart = means[0] - means[1]
    level = means[1].mean()
    ratio = means[0].mean() / level
    return (
        f"means {means[0].mean():.4f} and {level:.4f} ({100 * (ratio - 1):+.2f} %), "
        f"RMS difference {100 * np.sqrt((apart**2).mean()) / level:.2f} % of the mean, "
        f"expected from noise {100 * np.sqrt((noise**2).mean()) / level:.2f} %"
    )


def _ours(scene: Scene, options: Options) -> Callable[[int], np.ndarray]:
    renderer = render.Renderer(scene)
    height, width = options.size

    def draw(seed: int) -> np.ndarray:
        image = renderer.render(0.0, height=height, width=width, samples=options.samples, seed=seed)
        return np.asarray(image.light)

    return draw


def _theirs(mitsuba: Any, scene: Any, options: Options) -> Callable[[int], np.ndarray]:
    return lambda seed: np.array(mitsuba.render(scene, spp=options.samples, seed=seed))


def _scene(objects: tuple[Object, ...], materials: dict[str, Material]) -> Scene:
    return Scene(
        objects=objects,
        materials={"floor": Material("diffuse", (0.6, 0.6, 0.6)), **materials},
        environment=Environment((_SKY, _SKY, _SKY), (_SKY, _SKY, _SKY)),
        camera=Camera(_EYE, _TARGET, field_of_view=_ANGLE),
        bounces=_BOUNCES,
    )


def _mitsuba_scene(mitsuba: Any, shapes: dict[str, Any], options: Options) -> dict[str, Any]:
    to_world = mitsuba.ScalarTransform4f().look_at(
        origin=list(_EYE), target=list(_TARGET), up=[0, 0, 1]
    )
    film = {"type": "hdrfilm", "rfilter": {"type": "box"}}
    film |= {"height": options.size[0], "width": options.size[1]}
    return {
        "type": "scene",
        # A path of 8 surfaces ends at the light that follows: 9 segments.
        "integrator": {"type": "path", "max_depth": _BOUNCES + 1, "rr_depth": 5},
        "sensor": {
            "type": "perspective",
            "fov": _ANGLE,
            "fov_axis": "y",
            "to_world": to_world,
            "film": film,
            "sampler": {"type": "independent"},
        },
        "sky": {"type": "constant", "radiance": _rgb(_SKY, _SKY, _SKY)},
        **shapes,
    }


def _diffuse() -> Scene:
    return _scene(
        (
            Object(material="red", position=(0.0, 0.0, 1.0)),
            Object(
                shape="box",
                material="blue",
                size=(0.6, 0.6, 0.6),
                position=(2.0, 0.5, 0.6),
                rotation=(0.0, 0.0, 30.0),
            ),
            Object(shape="rectangle", material="floor", size=(20.0, 20.0)),
            Object(shape="sphere", material="lamp", size=(0.5,), position=(-2.0, -1.0, 5.0)),
        ),
        {
            "red": Material("diffuse", (0.8, 0.2, 0.1)),
            "blue": Material("diffuse", (0.2, 0.3, 0.7)),
            "lamp": Material("emissive", (20.0, 20.0, 16.0)),
        },
    )


def _mitsuba_diffuse(mitsuba: Any) -> dict[str, Any]:
    transform = mitsuba.ScalarTransform4f()
    return {
        "ball": _sphere((0, 0, 1), 1, _matt(0.8, 0.2, 0.1)),
        "box": {
            "type": "cube",
            "to_world": transform.translate([2, 0.5, 0.6]).rotate([0, 0, 1], 30).scale(0.6),
            "bsdf": _matt(0.2, 0.3, 0.7),
        },
        "floor": _floor(mitsuba),
        "lamp": _lamp((-2, -1, 5), 0.5, (20, 20, 16)),
    }


def _shiny() -> Scene:
    return _scene(
        (
            Object(material="glass", position=(-1.1, 0.0, 1.01)),
            Object(material="metal", position=(1.2, 0.4, 1.0)),
            Object(shape="rectangle", material="floor", size=(20.0, 20.0)),
            Object(material="lamp", size=(0.8,), position=(-2.0, 2.0, 5.0)),
        ),
        {
            "glass": Material("glass", (1.0, 1.0, 1.0)),
            "metal": Material("metal", (1.0, 1.0, 1.0), roughness=0.5),
            "lamp": Material("emissive", (12.0, 12.0, 12.0)),
        },
    )


def _mitsuba_shiny(mitsuba: Any) -> dict[str, Any]:
    glass = {"type": "dielectric", "int_ior": 1.5, "ext_ior": 1.0}
    # The width of the lobe is the square of the roughness.
    metal = {"type": "roughconductor", "material": "none", "distribution": "ggx", "alpha": 0.25}
    return {
        "glass": _sphere((-1.1, 0, 1.01), 1, glass),
        "metal": _sphere((1.2, 0.4, 1), 1, metal),
        "floor": _floor(mitsuba),
        "lamp": _lamp((-2, 2, 5), 0.8, (12, 12, 12)),
    }


def _rgb(*values: float) -> dict[str, Any]:
    return {"type": "rgb", "value": list(values)}


def _matt(*colour: float) -> dict[str, Any]:
    return {"type": "diffuse", "reflectance": _rgb(*colour)}


def _sphere(centre: tuple[float, ...], radius: float, bsdf: dict[str, Any]) -> dict[str, Any]:
    return {"type": "sphere", "center": list(centre), "radius": radius, "bsdf": bsdf}


def _lamp(centre: tuple[float, ...], radius: float, light: tuple[float, ...]) -> dict[str, Any]:
    emitter = {"type": "area", "radiance": _rgb(*light)}
    return {**_sphere(centre, radius, _matt(0, 0, 0)), "emitter": emitter}


def _floor(mitsuba: Any) -> dict[str, Any]:
    return {
        "type": "rectangle",
        "to_world": mitsuba.ScalarTransform4f().scale([20, 20, 1]),
        "bsdf": {"type": "twosided", "bsdf": _matt(0.6, 0.6, 0.6)},
    }


if __name__ == "__main__":
    cli.run(main, Options)
