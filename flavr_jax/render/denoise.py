# SPDX-License-Identifier: Apache-2.0
"""Removes the noise of images with few samples.

Intel's network Open Image Denoise is better; the filter needs no package and runs on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from flavr_jax.extras import install_command
from flavr_jax.render.tracer import Image

__all__ = ["DENOISERS", "Denoiser", "by_filter", "by_network"]

Denoiser: TypeAlias = Literal["no", "oidn", "filter"]
"""How noise is removed: not at all, by Open Image Denoise, or by the edge-avoiding filter."""

_LEVELS = 5  # the last one reaches 32 pixels
_SPLINE = np.array([1, 4, 6, 4, 1]) / 16
_ALBEDO = 0.1  # difference of albedos at which the weight is 1/e
_LIGHT = 2.0  # difference of logarithms of the light, at the first level; halved at each


def by_network(image: Image) -> Float[np.ndarray, "height width 3"]:
    """Return an image's light with less noise; albedo and normals tell edges from noise.

    The network runs on the CPU.

    Raises:
        ModuleNotFoundError: the package pyoidn is not installed.
    """
    try:
        import pyoidn
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Open Image Denoise is in the package pyoidn: {install_command('denoise')}. "
            "`--denoise filter` needs no package."
        ) from error
    light, albedo, normal = (np.asarray(each, np.float32) for each in image)
    # hdr, because light is linear and may exceed 1.
    return pyoidn.denoise(light, albedo=albedo, normal=normal, hdr=True)


@jax.jit
def by_filter(image: Image) -> Float[Array, "height width 3"]:
    """Return an image's light with less noise, by edge-avoiding wavelets.

    Each level averages 5×5 pixels at twice the spacing of the last, weighted by how much albedo,
    normal and light are alike. Light is divided by albedo before, so that textures stay sharp.

    Dammertz et al. 2010, https://jo.dreggn.org/home/2010_atrous.pdf
    """
    colour = jnp.maximum(image.albedo, 0.02)
    light = image.light / colour
    weights = jnp.asarray(np.outer(_SPLINE, _SPLINE).reshape(-1), jnp.float32)
    down, across = (jnp.asarray(each.reshape(-1)) for each in np.mgrid[:5, :5])
    for level in range(_LEVELS):
        spacing = 2**level
        edge = ((2 * spacing, 2 * spacing), (2 * spacing, 2 * spacing), (0, 0))
        here = jnp.concatenate([light, image.albedo, image.normal], axis=-1)
        around = jnp.pad(here, edge, mode="edge")

        def add(
            sums: tuple[Array, Array],
            tap: tuple[Array, Array, Array],
            here: Array = here,
            around: Array = around,
            spacing: int = spacing,
        ) -> tuple[tuple[Array, Array], None]:
            weight, row, column = tap
            start = (row * spacing, column * spacing, jnp.zeros_like(row))
            there = lax.dynamic_slice(around, start, here.shape)
            weight = weight * _likeness(here, there, _LIGHT / spacing)
            return (sums[0] + weight[..., None] * there[..., :3], sums[1] + weight), None

        empty = (jnp.zeros_like(light), jnp.zeros(light.shape[:2]))
        # A scan, because XLA takes long to compile 25 shifted images in one expression.
        (total, weight), _ = lax.scan(add, empty, (weights, down, across))
        light = total / weight[..., None]
    return light * colour


def _likeness(
    here: Float[Array, "height width 9"], there: Float[Array, "height width 9"], most: float
) -> Float[Array, "height width"]:
    """Weight from 0 to 1 of pixels for each other, by light, albedo and normal.

    Args:
        here: light without albedo, albedo and normal.
        there: those of the other pixels.
        most: difference of logarithms of the light at which the weight is 1/e.
    """
    brightness = [jnp.log(each[..., :3].mean(axis=-1) + 1e-2) for each in (here, there)]
    of_light = jnp.abs(brightness[0] - brightness[1]) / most
    of_albedo = jnp.square((here - there)[..., 3:6]).sum(axis=-1) / _ALBEDO**2
    # The cosine of unit normals; the sky, which has none, is like itself.
    cosine = 1.0 - jnp.square((here - there)[..., 6:]).sum(axis=-1) / 2
    return jnp.exp(-of_light - of_albedo) * jnp.maximum(cosine, 0.0) ** 32


DENOISERS: dict[str, Callable[[Image], Array | np.ndarray]] = {
    "oidn": by_network,
    "filter": by_filter,
}
"""Denoisers by name."""
