# SPDX-License-Identifier: Apache-2.0
"""Colours of surfaces: procedural patterns in an object's coordinates, and images."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from flavr_jax.render.intersect import dot
from flavr_jax.render.world import PATTERNS, Materials

__all__ = ["bilinear", "colour"]


def colour(
    used: tuple[str, ...],
    images: tuple[Float[Array, "_rows _columns 3"], ...],
    material: Materials,
    local: Float[Array, "3 ray"],
    size: Float[Array, "3 ray"],
) -> Float[Array, "3 ray"]:
    """Return the colour of materials at points in objects' coordinates.

    Args:
        used: names of the patterns that occur; others are not computed.
        images: images of the pattern ``image``.
        material: materials at the points.
        local: points.
        size: sizes of the objects.
    """
    place = local / material.scale
    unit = local / size[0]
    mix = jnp.zeros(local.shape[1])
    for name in used:
        if name in _MIXES:
            here = material.pattern == PATTERNS.index(name)
            mix = jnp.where(here, _MIXES[name](unit if name in _RADIAL else place), mix)
    found = material.colour + mix * (material.second - material.colour)
    if "image" in used:
        is_image = material.pattern == PATTERNS.index("image")
        for number, image in enumerate(images):
            u, v = place[0] % 1.0, place[1] % 1.0
            # The first row of an image is its top.
            texel = bilinear(image, u, 1.0 - v)
            found = jnp.where(is_image & (material.image == number), texel, found)
    return found


def bilinear(
    image: Float[Array, "rows columns 3"], u: Float[Array, " ray"], v: Float[Array, " ray"]
) -> Float[Array, "3 ray"]:
    """Sample an image at positions from 0 to 1, which repeats beyond them."""
    rows, columns, _ = image.shape
    x, y = u * columns - 0.5, v * rows - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    across, down = x - left, y - top
    i, j = top.astype(jnp.int32), left.astype(jnp.int32)

    def at(row: Int[Array, " ray"], column: Int[Array, " ray"]) -> Float[Array, "3 ray"]:
        return image[row % rows, column % columns].T

    upper = at(i, j) + across * (at(i, j + 1) - at(i, j))
    lower = at(i + 1, j) + across * (at(i + 1, j + 1) - at(i + 1, j))
    return upper + down * (lower - upper)


def _checker(place: Float[Array, "3 ray"]) -> Float[Array, " ray"]:
    # Shifted off zero, where the faces of many objects lie and rounding would decide.
    return jnp.floor(place + 1e-3).sum(axis=0) % 2.0


def _bands(local: Float[Array, "3 ray"]) -> Float[Array, " ray"]:
    height = 1.2 * local[2]
    return (height - jnp.floor(height) < 0.5).astype(jnp.float32)


def _wedges(local: Float[Array, "3 ray"]) -> Float[Array, " ray"]:
    x, y, z = local
    # The first factors have the sign of sin 4φ; the last one makes caps at the poles.
    return (x * y * (x * x - y * y) * (0.93 - jnp.abs(z)) > 0).astype(jnp.float32)


def _dots(local: Float[Array, "3 ray"]) -> Float[Array, " ray"]:
    cell = 2.6 * local + 0.5
    offset = cell - jnp.round(cell)
    return (dot(offset, offset) < 0.11).astype(jnp.float32)


def _tiles(place: Float[Array, "3 ray"]) -> Float[Array, " ray"]:
    """Truchet's arcs: ribbons that run one of two ways in each tile, and a shade per tile."""
    corner = jnp.floor(place[:2])
    u, v = place[:2] - corner
    bits = _hash(*jnp.clip(corner, -1e6, 1e6).astype(jnp.int32))
    u = jnp.where((bits >> 16) & 1, u, 1 - u)
    nearest = jnp.minimum(u * u + v * v, (1 - u) ** 2 + (1 - v) ** 2)
    off_arc = jnp.abs(jnp.sqrt(nearest) - 0.5)
    shade = ((bits >> 20) & 7) / 7.0
    line = jnp.where(jnp.abs(off_arc - 0.26) < 0.03, 0.6, 0.22 * shade)
    mix = jnp.where(off_arc < 0.16, 0.82 + 0.18 * shade, line)
    # Far away, tiles are smaller than pixels: they fade to their mean.
    return 0.4 + (mix - 0.4) * jnp.exp(-dot(place, place) / 25.0**2)


def _noise(place: Float[Array, "3 ray"]) -> Float[Array, " ray"]:
    """Value noise of four octaves, from 0 to 1."""
    total = jnp.zeros(place.shape[1])
    for octave in range(4):
        scaled = place * 2.0**octave
        corner = jnp.floor(scaled)
        # Slopes of 0 at both ends, so that cells meet smoothly.
        x, y, z = (t * t * (3.0 - 2.0 * t) for t in scaled - corner)
        # Far away, numbers of cells would exceed the range of int32.
        i, j, k = jnp.clip(corner, -1e6, 1e6).astype(jnp.int32)

        def value(a: int, b: int, c: int, at: tuple[Array, ...] = (i, j, k)) -> Array:
            bits = _hash(at[0] + a + 7919 * (at[2] + c), at[1] + b)
            return (bits & 0xFFFF) / 65535.0

        layers = []
        for c in (0, 1):
            near = value(0, 0, c) + x * (value(1, 0, c) - value(0, 0, c))
            far = value(0, 1, c) + x * (value(1, 1, c) - value(0, 1, c))
            layers.append(near + y * (far - near))
        total += 0.5**octave * (layers[0] + z * (layers[1] - layers[0]))
    # 1 + 1/2 + 1/4 + 1/8
    return total / 1.875


def _hash(x: Int[Array, " ray"], y: Int[Array, " ray"]) -> Int[Array, " ray"]:
    # The primes are those of Teschner et al. 2003 (Optimized Spatial Hashing).
    bits = (x * 73856093) ^ (y * 19349663)
    bits = (bits ^ (bits >> 13)) * 1274126177
    return bits ^ (bits >> 16)


_RADIAL = ("bands", "wedges", "dots")
_MIXES = {
    "checker": _checker,
    "noise": _noise,
    "bands": _bands,
    "wedges": _wedges,
    "dots": _dots,
    "tiles": _tiles,
}
