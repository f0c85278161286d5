# SPDX-License-Identifier: Apache-2.0
"""Removes the noise of images with few samples, guided by albedo and normals.

Light is divided by albedo first and multiplied afterwards, so that textures stay sharp.
"""

from __future__ import annotations

import functools
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from flavr_jax.extras import install_command
from flavr_jax.render.tracer import Image

__all__ = ["Denoiser", "denoised"]

Denoiser: TypeAlias = Literal["off", "wavelet", "oidn"]
"""``wavelet`` is a filter in JAX; ``oidn`` is Intel's network in the package pyoidn, on the CPU."""

Plane: TypeAlias = Float[Array, "height width 3"]

_LEVELS = 5  # the last one has holes of 15 pixels between its taps
_SPLINE = np.array([1, 4, 6, 4, 1], np.float32) / 16
_DARKEST = 0.02  # albedo that light is divided by, at least
_LIGHT, _NORMAL, _ALBEDO = 1.0, 0.3, 0.1  # differences that count as an edge


def denoised(image: Image, how: Denoiser) -> Plane:
    """Return an image's light with less noise.

    Raises:
        ModuleNotFoundError: ``how`` is ``oidn``, and pyoidn is not installed.
    """
    if how == "wavelet":
        return _wavelet(image)
    return _network(image) if how == "oidn" else image.light


def _network(image: Image) -> Plane:
    try:
        import pyoidn
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Open Image Denoise needs pyoidn, which is not installed: "
            f"{install_command('denoise')}. Or use the denoiser wavelet."
        ) from error
    light, albedo, normal = (np.asarray(each, np.float32) for each in image)
    return jnp.asarray(pyoidn.denoise(light, albedo=albedo, normal=normal, hdr=True))


@jax.jit
def _wavelet(image: Image) -> Plane:
    """Filter with an edge-avoiding à-trous wavelet transform (Dammertz et al. 2010)."""
    albedo = jnp.maximum(image.albedo, _DARKEST)
    # The logarithm makes bright and dark noise alike, and single bright specks weak.
    light = jnp.log1p(jnp.maximum(image.light, 0.0) / albedo)
    level = functools.partial(_level, albedo=image.albedo, normal=image.normal)
    return jnp.expm1(lax.fori_loop(0, _LEVELS, level, light)) * albedo


def _level(number: Int[Array, ""], light: Plane, *, albedo: Plane, normal: Plane) -> Plane:
    """Average each pixel with 25 others, 2^``number`` pixels apart, that are alike."""
    step = 1 << number
    edge = 2 << (_LEVELS - 1)
    # What is left of the noise halves with each level; so does the difference that is an edge.
    widths = _LIGHT * 0.5 ** number.astype(jnp.float32), _ALBEDO, _NORMAL
    planes = light, albedo, normal
    wide = [jnp.pad(each, ((edge, edge), (edge, edge), (0, 0)), mode="edge") for each in planes]

    def add(tap: Int[Array, ""], sums: tuple[Array, Array]) -> tuple[Array, Array]:
        down, across = jnp.divmod(tap, 5)
        start = (edge + (down - 2) * step, edge + (across - 2) * step, 0)
        others = [lax.dynamic_slice(each, start, light.shape) for each in wide]
        apart = sum(
            ((other - plane) ** 2).sum(-1, keepdims=True) / width**2
            for other, plane, width in zip(others, planes, widths)
        )
        spline = jnp.asarray(_SPLINE)
        weight = spline[down] * spline[across] * jnp.exp(-apart)
        return sums[0] + weight * others[0], sums[1] + weight

    zero = jnp.zeros_like(light), jnp.zeros_like(light[..., :1])
    total, weight = lax.fori_loop(0, 25, add, zero)
    return total / weight
