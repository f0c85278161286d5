# SPDX-License-Identifier: Apache-2.0
"""Textures for synthetic clips: drawing, packing and sampling them at fractional positions.

A texel's red, green, blue and coverage are packed into one 32-bit word, 8 bits each. A texture is
enlarged twofold before it is packed. Bilinear sampling blurs fine detail by an amount that
depends on the sub-pixel position; at twice the resolution, only frequencies that frames cannot show
are blurred. Fine detail matters because it is the hardest for networks to move correctly.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key, UInt8, UInt32
from PIL import Image, ImageOps

from flavr_jax.data.sequences import IMAGES, decode
from flavr_jax.data.synthetic import cartoons
from flavr_jax.data.synthetic.motion import normal

__all__ = ["Painting", "colour", "coverage", "pack", "read_pictures", "sample"]


class Painting(NamedTuple):
    """Colours of a texture in [0, 1], noise of unit variance, and the colour of outlines."""

    colours: Float[Array, "size size 3"]
    relief: Float[Array, "size size"]
    ink: Float[Array, "3"]


def colour(
    key: Key[Array, ""],
    size: int,
    frames: UInt8[Array, "n rows columns 3"] | None,
    *,
    real_share: Float[Array, ""] | float,
    photographs: UInt8[Array, "m rows columns 3"] | None = None,
    photograph_share: float = 0.0,
    outline: Float[Array, ""] | float = 0.0,
) -> Painting:
    """Draw the colours of a texture.

    A procedural texture is one of these: 1/f noise, which has the spectrum of natural images;
    edges; stripes or checks of any contrast, down to the size of pixels; smooth gradients.

    Args:
        key: random key.
        size: side of the square texture in texels.
        frames: real frames to crop textures from, or None.
        real_share: probability that a crop of a real picture replaces the procedural texture.
        photographs: still pictures to crop textures from, or None.
        photograph_share: share of photographs among real pictures, if there are frames too.
        outline: width of a cartoon's outlines in texels; 0 for any other texture.
    """
    key_noise, key_values, key_crop = jax.random.split(key, 3)
    is_cartoon = jnp.asarray(outline) > 0
    # Contour lines of noise are smooth if its fine detail is weak.
    shade, tint_a, tint_b, relief = _noise(key_noise, size, steeper=1.5 * is_cartoon)
    x, y = _grid(size)
    # All random values in one call: each call adds a fifth of a second of compilation.
    is_real, kind, *values = jax.random.uniform(key_values, (18,))
    chance, palette = values[:4], jnp.stack(values[4:]).reshape(4, 3)
    pattern = _stripes(shade, chance)
    edges = jnp.tanh(8.0 * shade) + 0.3 * tint_a  # thresholded noise: regions with sharp borders
    plain = (x * (chance[2] - 0.5) + y * (chance[3] - 0.5)) / (size / 4) + 0.1 * shade
    chosen = jnp.clip(kind * 6.0, 0.0, 5.0).astype(jnp.int32)  # 3, 4 and 5 are plain noise
    shade = jnp.select([chosen == 0, chosen == 1, chosen == 2], [pattern, edges, plain], shade)

    # Colours are near grey, as in most pictures. The contrast of patterns is uniform from 0 to 1,
    # that of other textures log-uniform from 0.06 to 0.27.
    base, contrast, mix_a, mix_b = palette
    grey = 0.15 + 0.7 * base[0]
    base = grey + 0.35 * (base - 0.5)
    contrast = jnp.where(chosen == 0, contrast[0], jnp.exp(-2.8 + 1.5 * contrast[0]))
    tints = (mix_a - 0.5) * tint_a[..., None] + (mix_b - 0.5) * tint_b[..., None]
    painted = jnp.clip(base + contrast * (shade[..., None] + 0.6 * tints), 0.0, 1.0)
    drawn, ink = cartoons.paint(
        jax.random.fold_in(key, 3), jnp.stack([shade, tint_a]), jnp.asarray(outline)
    )
    painted = jnp.where(is_cartoon, drawn, painted)
    pictures = [_crop(key_crop, each, size) for each in (frames, photographs) if each is not None]
    if pictures:
        is_photograph = is_real < real_share * photograph_share
        picture = jnp.where(is_photograph, pictures[-1], pictures[0])
        painted = jnp.where(is_real < real_share, picture, painted)
    return Painting(painted, relief, ink)


def _stripes(
    shade: Float[Array, "size size"], chance: list[Float[Array, ""]]
) -> Float[Array, "size size"]:
    """Draw stripes or checks in [-1, 1] from four uniform random values."""
    x, y = _grid(shade.shape[0])
    # Half periods are log-uniform from 0.75 to 40 texels. A network that was not trained on such
    # patterns may give values far outside [0, 1] for them.
    across, along = math.pi / (0.75 * (40.0 / 0.75) ** jnp.stack(chance[:2]))
    # Half of the patterns are distorted by noise. tanh turns sines into square waves, whose edges
    # are the sharper the larger its argument.
    bend = shade * jnp.maximum(0.0, 2.0 * chance[2] - 1.0)
    checks = jnp.where(chance[3] < 0.5, 1.0, jnp.cos(along * y))
    return jnp.tanh(8.0 * chance[2] * jnp.sin(across * x + bend) * checks)


def coverage(
    key: Key[Array, ""],
    relief: Float[Array, "size size"],
    *,
    is_text: Bool[Array, ""] | bool,
    is_large: Bool[Array, ""] | bool = False,
    outline: Float[Array, ""] | float = 0.0,
) -> tuple[Float[Array, "size size"], Float[Array, "size size"]]:
    """Draw an object's coverage (alpha): a blob, a rounded rectangle, bars, glyphs, or a torn blob.

    Args:
        key: random key.
        relief: noise from :func:`colour`, which tears holes into blobs.
        is_text: draw glyphs.
        is_large: draw a blob or rectangle that fills most of the texture.
        outline: width of the outline in texels; 0 for none.

    Returns:
        Coverage in [0, 1], 0 along the texture's border, so that objects end inside the texture;
        and the share of ink, 1 in the outline.
    """
    key_values, key_glyphs = jax.random.split(key)
    kind, edge, *values = jax.random.uniform(key_values, (13,))
    size = relief.shape[0]
    x, y = _grid(size)
    low, high = jnp.where(jnp.asarray(is_large), 0.26, 0.08), jnp.where(is_large, 0.42, 0.34)
    radius = size * (low + (high - low) * jnp.stack(values[:3]))
    # Shapes are signed distances in texels, positive inside. A blob's radius is a sum of harmonics
    # of the direction.
    order = jnp.arange(2, 6, dtype=jnp.float32)
    weight = normal(jnp.stack(values[3:])).reshape(2, 4) * (0.25 / order)
    direction = jnp.arctan2(y, x)[..., None] * order
    bumps = (jnp.cos(direction) * weight[0] + jnp.sin(direction) * weight[1]).sum(-1)
    blob = radius[0] * (1.0 + bumps) - jnp.hypot(x, y)
    board = _board(size, radius[1:])  # bars and glyphs are cut out of it
    period = 10.0 + 0.3 * radius[0]
    bars = jnp.minimum(board, (jnp.sin(2 * math.pi / period * x) - 0.2) * period / 6)
    cell = jnp.where(jnp.asarray(is_text), 0.5, 1.0) * (3.0 + 0.06 * radius[0])  # fine captions
    bits = jax.random.bernoulli(key_glyphs, 0.45, (64, 64))
    row, column = ((axis / cell).astype(jnp.int32) + 32 for axis in (y, x))
    inked = bits[row % 64, column % 64] & (row % 6 > 0)  # every sixth row separates lines of text
    glyphs = jnp.minimum(board, jnp.where(inked, 4.0, -4.0))
    # Holes where the noise is below −0.3; the factor is a typical distance per unit of noise.
    torn = jnp.minimum(blob, 8.0 * (relief + 0.3))

    kind = jnp.where(is_large, 3.0 + 5.0 * kind, 8.0 * kind)
    kind = jnp.where(is_text, 1, kind.astype(jnp.int32))
    distance = jnp.select(
        [kind == 0, kind == 1, kind == 2, kind < 5], [bars, glyphs, torn, board], blob
    )
    border = size / 2 - 3.0 - jnp.maximum(jnp.abs(x), jnp.abs(y))
    outline = jnp.asarray(outline)
    softness = jnp.where(outline > 0, 1.0, jnp.exp(2.0 * edge))  # edges are 1 to 7.4 texels wide
    alpha = jnp.clip(jnp.minimum(distance / softness + 0.5, border), 0.0, 1.0)
    inside = jnp.minimum(distance, border)
    return alpha, (outline > 0) * jnp.clip(outline + 0.5 - inside, 0.0, 1.0)


def _board(size: int, half: Float[Array, "2"]) -> Float[Array, "size size"]:
    """Signed distance in texels from the edge of a rectangle with rounded corners."""
    x, y = _grid(size)
    corner = 0.3 * jnp.minimum(half[0], half[1])
    over_x = jnp.abs(x) - half[0] + corner
    over_y = jnp.abs(y) - half[1] + corner
    outside = jnp.hypot(jnp.maximum(over_x, 0.0), jnp.maximum(over_y, 0.0))
    return corner - outside - jnp.minimum(jnp.maximum(over_x, over_y), 0.0)


def pack(
    colour: Float[Array, "size size 3"],
    alpha: Float[Array, "size size"],
    pixels_per_texel: Float[Array, ""] | float = 1.0,
) -> UInt32[Array, "twice twice"]:
    """Enlarge a texture twofold by Lanczos interpolation and pack it, with 8 bits per value.

    If texels are smaller than pixels, frequencies above the pixel grid's Nyquist frequency are
    removed. They would alias differently in every frame, and a network that cannot predict them
    learns to blur.

    Args:
        colour: colours in [0, 1].
        alpha: coverage in [0, 1].
        pixels_per_texel: scale at which the texture is seen.

    Returns:
        Words with red in the lowest byte, then green, blue and coverage.
    """
    values = jnp.concatenate([colour, alpha[..., None]], axis=-1)
    weights = _lanczos(values.shape[0], jnp.minimum(pixels_per_texel, 1.0))
    values = jnp.einsum("iy,jx,yxc->ijc", weights, weights, values)
    codes = (jnp.clip(values, 0.0, 1.0) * 255.0 + 0.5).astype(jnp.uint32)
    red, green, blue, covered = jnp.moveaxis(codes, -1, 0)
    return red | (green << 8) | (blue << 16) | (covered << 24)


def sample(
    words: UInt32[Array, "twice twice"],
    u: Float[Array, "height width"],
    v: Float[Array, "height width"],
    *,
    mirror: Bool[Array, ""],
) -> list[Float[Array, "height width"]]:
    """Sample a packed texture bilinearly.

    Args:
        words: texture from :func:`pack`.
        u: horizontal positions in texels of the original texture, relative to its centre.
        v: vertical positions.
        mirror: mirror the texture beyond its border; otherwise its border texels are repeated.

    Returns:
        Red, green, blue and coverage in [0, 1].
    """
    size = words.shape[0]
    # Words are half a texel apart, and the centre lies between the middle two.
    u, v = 2.0 * u + (size - 1) / 2, 2.0 * v + (size - 1) / 2
    left, top = jnp.floor(u), jnp.floor(v)
    to_right, to_bottom = u - left, v - top
    columns, rows = left.astype(jnp.int32), top.astype(jnp.int32)
    corners = [
        [
            words[_address(rows + i, size, mirror), _address(columns + j, size, mirror)]
            for j in (0, 1)
        ]
        for i in (0, 1)
    ]

    def channel(shift: int) -> Float[Array, "height width"]:
        (a, b), (c, d) = (
            [((word >> shift) & 255).astype(jnp.float32) / 255.0 for word in pair]
            for pair in corners
        )
        upper, lower = a + to_right * (b - a), c + to_right * (d - c)
        return upper + to_bottom * (lower - upper)

    return [channel(shift) for shift in (0, 8, 16, 24)]


def read_pictures(place: Path, *, side: int = 512) -> UInt8[np.ndarray, "images side side 3"]:
    """Read pictures, scaled and cropped to squares.

    Pictures whose shorter side has fewer than ``side`` pixels are left out, because enlarged ones
    have no fine detail.

    Args:
        place: folder, read with its subfolders, or a JSONL file: each line has a ``file`` in the
            folder of the same name without the suffix (``textures/`` beside ``textures.jsonl``).
        side: side of the squares in pixels.

    Raises:
        FileNotFoundError: there are no pictures, or none is large enough.
        ValueError: a line of the JSONL file has no ``file``.
    """
    found = []
    for path in _listed(place):
        picture = decode(path.read_bytes(), where=str(path))
        if min(picture.shape[:2]) >= side:
            square = ImageOps.fit(Image.fromarray(picture), (side, side), Image.Resampling.LANCZOS)
            found.append(np.asarray(square))
    if not found:
        raise FileNotFoundError(
            f"{place} has no image of {side}×{side} pixels or more; use larger images."
        )
    return np.stack(found)


def _listed(place: Path) -> list[Path]:
    """Paths of the pictures in a folder, or in a list as :func:`read_pictures` describes it."""
    if place.is_dir():
        return sorted(each for each in place.rglob("*") if each.suffix.lower() in IMAGES)
    paths = []
    for number, line in enumerate(place.read_text().splitlines(), start=1):
        try:
            paths.append(place.with_suffix("") / json.loads(line)["file"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'line {number} of {place} names no picture; write {{"file": "NAME.png"}}.'
            ) from error
    return paths


def _lanczos(size: int, bandwidth: Float[Array, ""] | float) -> Float[Array, "twice size"]:
    """Weights of a Lanczos-3 interpolation to twice as many values: a row for each new value.

    ``bandwidth`` is the highest frequency kept, relative to the Nyquist frequency of the old grid.
    """
    # New values lie a quarter of the old spacing before and behind each old one, so the enlarged
    # texture is centred on the old one.
    between = (jnp.arange(2 * size)[:, None] - 0.5) / 2.0 - jnp.arange(size)[None, :]
    distance = between * bandwidth
    weights = jnp.where(jnp.abs(distance) < 3.0, jnp.sinc(distance) * jnp.sinc(distance / 3.0), 0.0)
    # Normalise, so that constants stay constant: a truncated kernel's sum depends on the position.
    return weights / weights.sum(axis=1, keepdims=True)


def _address(
    index: Int[Array, "height width"], size: int, mirror: Bool[Array, ""]
) -> Int[Array, "height width"]:
    """Fold indices outside the texture back into it, by mirroring or by clamping."""
    wrapped = index % (2 * size)
    mirrored = jnp.minimum(wrapped, 2 * size - 1 - wrapped)
    return jnp.where(mirror, mirrored, jnp.clip(index, 0, size - 1))


def _noise(
    key: Key[Array, ""], size: int, *, steeper: Float[Array, ""] | float = 0.0
) -> Float[Array, "4 size size"]:
    """Four periodic noise images of unit variance, with amplitude spectra of 1/f to 1/f².

    ``steeper`` is added to the exponent.
    """
    key_exponent, key_spectrum = jax.random.split(key)
    exponent = 1.0 + steeper + jax.random.uniform(key_exponent, (4, 1, 1))
    down = jnp.fft.fftfreq(size)[:, None] * size
    across = jnp.fft.rfftfreq(size)[None, :] * size
    frequency = jnp.hypot(down, across)
    # Without this limit, waves longer than a third of the texture would dominate: it would look
    # like a single gradient.
    amplitude = jnp.where(frequency > 0, jnp.maximum(frequency, 3.0), jnp.inf) ** -exponent
    parts = jax.random.normal(key_spectrum, (2, 4, size, size // 2 + 1))
    # Shaped white noise: one inverse FFT makes the whole texture, which tiles without a seam.
    noise = jnp.fft.irfft2(amplitude * lax.complex(parts[0], parts[1]), s=(size, size))
    return noise / noise.std(axis=(1, 2), keepdims=True)


def _grid(size: int) -> tuple[Float[Array, "size size"], Float[Array, "size size"]]:
    """Horizontal and vertical positions relative to the texture's centre, in texels."""
    axis = jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2
    y, x = jnp.meshgrid(axis, axis, indexing="ij")
    return x, y


def _crop(
    key: Key[Array, ""], frames: UInt8[Array, "n rows columns 3"], size: int
) -> Float[Array, "size size 3"]:
    """Crop a random square from a random frame, as colours in [0, 1]."""
    n, rows, columns, _ = frames.shape
    limits = jnp.array([n, rows - size + 1, columns - size + 1])
    index, top, left = jax.random.randint(key, (3,), 0, limits)
    crop = lax.dynamic_slice(frames, (index, top, left, 0), (1, size, size, 3))
    return crop[0].astype(jnp.float32) / 255.0
