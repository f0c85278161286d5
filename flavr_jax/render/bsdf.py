# SPDX-License-Identifier: Apache-2.0
"""How surfaces scatter light: Lambert, GGX and smooth glass.

Diffuse light under a coat is what Fresnel's reflection leaves. Rough reflections are Trowbridge and
Reitz's (GGX; Walter et al. 2007), sampled by visible normals (Dupuy and Benyoub 2023). Vectors are
in coordinates with the normal as z; both directions point away from the surface.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool

from flavr_jax.render import sampling
from flavr_jax.render.surfaces import Scalars, Vectors, dot, normalise
from flavr_jax.render.world import Materials

__all__ = ["Scattered", "evaluate", "sample"]


class Scattered(NamedTuple):
    """A sampled direction.

    Attributes:
        direction: unit vector.
        weight: scattered light per density, cosine included.
        density: probability density per solid angle; infinite for a mirror or glass.
    """

    direction: Vectors
    weight: Vectors
    density: Scalars


def evaluate(
    material: Materials, colour: Vectors, to: Vectors, out: Vectors
) -> tuple[Vectors, Scalars]:
    """Return scattered light × cosine and the density of :func:`sample`, mirrors and glass apart.

    Args:
        material: materials.
        colour: their colours.
        to: directions to the light.
        out: directions back along the path.
    """
    above = to[2] > 0
    diffuse, _, chance = _split(material, colour, out)
    lambert = jnp.maximum(to[2], 0.0) / math.pi
    half = normalise(to + out)
    rough = above & (material.width > 0)
    lobe, density = _lobe(material.width, half, to, out)
    shine = _fresnel(material, colour, jnp.maximum(dot(half, out), 0.0)) * lobe
    has_lobe = (material.is_metal + material.is_coated > 0) & rough
    light = diffuse * lambert + jnp.where(has_lobe, shine, 0.0)
    density = (1 - chance) * lambert + jnp.where(has_lobe, chance * density, 0.0)
    dark = (material.is_glass > 0) | ~above
    return jnp.where(dark, 0.0, light), jnp.where(dark, 0.0, density)


def sample(
    material: Materials,
    colour: Vectors,
    out: Vectors,
    enters: Bool[Array, " ray"],
    choice: Scalars,
    uniform: sampling.Pair,
) -> Scattered:
    """Choose a direction.

    Args:
        material: materials.
        colour: their colours.
        out: directions back along the paths.
        enters: whether the paths come from outside.
        choice: random number that chooses between reflection and the rest.
        uniform: random numbers of the direction.
    """
    _, reflected, chance = _split(material, colour, out)
    reflects = choice < chance
    half = _visible_normal(material.width, out, uniform)
    mirrored = 2 * dot(half, out) * half - out
    direction = jnp.where(reflects, mirrored, sampling.cosine(uniform))
    light, density = evaluate(material, colour, direction, out)
    weight = jnp.where(density > 1e-12, light / jnp.maximum(density, 1e-12), 0.0)
    is_mirror = reflects & (material.width == 0)
    # A perfect mirror has no density; only the chance of choosing it counts. The diffuse part below
    # a perfect mirror was computed without it, with the density of (1 − chance).
    weight = jnp.where(is_mirror, reflected / jnp.maximum(chance, 1e-6), weight)
    density = jnp.where(is_mirror, jnp.inf, density)
    refracted, fresnel = _refract(material.ior, out, enters)
    to_other_side = choice >= fresnel
    through = jnp.where(to_other_side, refracted, out * jnp.array([[-1.0], [-1.0], [1.0]]))
    is_glass = material.is_glass > 0
    # Light is tinted once, at the surface where the path enters.
    tint = jnp.where(to_other_side & enters, colour, 1.0)
    return Scattered(
        jnp.where(is_glass, through, direction),
        jnp.where(is_glass, tint, weight),
        jnp.where(is_glass, jnp.inf, density),
    )


def _split(material: Materials, colour: Vectors, out: Vectors) -> tuple[Vectors, Vectors, Scalars]:
    """Return albedo of the diffuse part, mirror reflection, and the chance to sample the latter."""
    reflects = material.is_metal + material.is_coated
    reflected = reflects * _fresnel(material, colour, out[2])
    diffuse = (1 - material.is_metal) * (1 - reflected) * colour
    diffuse = jnp.where(material.is_light + material.is_glass > 0, 0.0, diffuse)
    share, rest = reflected.mean(axis=0), diffuse.mean(axis=0)
    chance = jnp.where(rest > 0, share / jnp.maximum(share + rest, 1e-6), 1.0)
    return diffuse, reflected, jnp.where(reflects > 0, chance, 0.0)


def _fresnel(material: Materials, colour: Vectors, cosine: Scalars) -> Vectors:
    """Return the reflected part of light (Schlick 1994)."""
    # Fresnel's reflection of light that comes from straight above.
    coat = ((material.ior - 1) / (material.ior + 1)) ** 2
    normal = jnp.where(material.is_metal > 0, colour, coat)
    return normal + (1 - normal) * (1 - jnp.clip(cosine, 0.0, 1.0)) ** 5


def _lobe(width: Scalars, half: Vectors, to: Vectors, out: Vectors) -> tuple[Scalars, Scalars]:
    """Return reflection × cosine without Fresnel's term, and the density of visible normals."""
    # A mirror's width of 0 would divide by 0; its result is not used.
    width = jnp.maximum(width, 1e-3)
    square = width * width
    spread = half[2] ** 2 * (square - 1) + 1
    # GGX's distribution of normals (Walter et al. 2007, equation 33).
    normals = square / (math.pi * spread * spread)
    out_z, to_z = jnp.maximum(out[2], 1e-6), jnp.maximum(to[2], 1e-6)
    of_out = jnp.sqrt(square + (1 - square) * out_z**2)
    of_to = jnp.sqrt(square + (1 - square) * to_z**2)
    # Smith's height-correlated masking, with the 4 cos cos of the reflection cancelled.
    masked = 0.5 / (to_z * of_out + out_z * of_to)
    # Visible normals over reflected directions: G₁ D / (4 cosine), G₁ = 2 cosine / (cosine + root).
    density = normals / (2 * (out_z + of_out))
    return normals * masked * to_z, density


def _visible_normal(width: Scalars, out: Vectors, uniform: sampling.Pair) -> Vectors:
    """Sample a normal of the rough surface that is visible from ``out``; z for a mirror."""
    stretch = jnp.stack([width, width, jnp.ones_like(width)])
    seen = normalise(out * stretch)
    # Rays along `seen` that a sphere reflects fill a spherical cap uniformly; the normal is the
    # half vector.
    z = (1 - uniform[0]) * (1 + seen[2]) - seen[2]
    level = jnp.sqrt(jnp.clip(1 - z * z, 0.0, 1.0))
    angle = 2 * math.pi * uniform[1]
    cap = jnp.stack([level * jnp.cos(angle), level * jnp.sin(angle), z])
    return normalise((cap + seen) * stretch)


def _refract(ior: Scalars, out: Vectors, enters: Bool[Array, " ray"]) -> tuple[Vectors, Scalars]:
    """Return the refracted direction and Fresnel's reflected part, 1 for total reflection."""
    ratio = jnp.where(enters, 1 / ior, ior)
    cosine = jnp.maximum(out[2], 0.0)
    square = 1 - ratio**2 * (1 - cosine**2)
    inner = jnp.sqrt(jnp.maximum(square, 0.0))
    # Fresnel's equations for both polarisations; unpolarised light has their mean.
    parallel = (ratio * cosine - inner) / jnp.maximum(ratio * cosine + inner, 1e-9)
    across = (cosine - ratio * inner) / jnp.maximum(cosine + ratio * inner, 1e-9)
    fresnel = jnp.where(square > 0, 0.5 * (parallel**2 + across**2), 1.0)
    return jnp.stack([-ratio * out[0], -ratio * out[1], -inner]), fresnel
