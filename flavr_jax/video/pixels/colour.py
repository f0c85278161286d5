# SPDX-License-Identifier: Apache-2.0
"""Conversion between a stream's pictures and RGB, each direction the exact inverse of the other.

Original frames keep their stored values, while interpolated frames are converted from RGB. If that
conversion were not exact, the two would differ and flicker as they alternate. Chroma is upsampled
linearly on the way in, and downsampled on the way out by the filter that undoes this (at co-sited
samples the analysis filter of the LeGall 5/3 wavelet). swscale is not exact enough: after a round
trip its full-range chroma is half a level too low, its 12-bit luma seven levels too high, and 4:2:0
chroma is blurred.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import av
import jax
import jax.numpy as jnp
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Interpolation
from jax import Array

from flavr_jax.typing import Frame
from flavr_jax.video.pixels.layout import Layout

__all__ = [
    "RGB",
    "SRGB",
    "UNTAGGED",
    "Colour",
    "from_rgb",
    "repacked",
    "samples",
    "standard",
    "to_rgb",
]

RGB, UNTAGGED = 0, 2
# H.273 matrix → weights of red and blue in luma: BT.709, FCC, BT.601 (two tags), SMPTE 240M,
# BT.2020 (two tags).
_WEIGHTS = {
    1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114),
    7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593),
}  # fmt: skip
_BT709, _BT601 = 1, 5
# Values of FFmpeg's AVChromaLocation at which chroma samples lie on a luma column, and on a luma
# row. The rare bottom locations are treated as the middle.
_ON_COLUMN, _ON_ROW = (0, 1, 3, 5), (3, 4)
_EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)


@dataclasses.dataclass(frozen=True)
class Colour:
    """A stream's colour tags, as FFmpeg and ITU-T H.273 number them.

    Attributes:
        matrix: the matrix from RGB to YUV; 0 is RGB itself, 2 is untagged.
        levels: 0 is untagged, 1 limited (16 to 235), 2 full (0 to 255).
        primaries: 2 is untagged.
        transfer: 2 is untagged.
        siting: position of chroma samples, as FFmpeg's AVChromaLocation; 0 is untagged.
        headroom: whether RGB 0 to 255 represents levels 0 to 255 of limited-range video, instead of
            16 to 235. Cameras also use the levels below black and above white.
    """

    matrix: int = UNTAGGED
    levels: int = 0
    primaries: int = UNTAGGED
    transfer: int = UNTAGGED
    siting: int = 0
    headroom: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Colour:
        """Return the tags of a decoded frame; untagged grey is full range, as in FFmpeg."""
        kind, levels = Layout.of(frame.format.name).kind, int(frame.color_range)
        if frame.format.name.startswith("yuvj") or (kind == "grey" and not levels):
            levels = int(ColorRange.JPEG)
        return cls(
            matrix=RGB if kind == "rgb" else int(frame.colorspace),
            levels=levels,
            primaries=int(frame.color_primaries),
            transfer=int(frame.color_trc),
            siting=int(getattr(frame, "chroma_location", 0)),  # PyAV 18 does not tell
        )

    def with_headroom(self) -> Colour:
        """Return these tags with headroom, if levels are limited."""
        limited = self.levels != ColorRange.JPEG and self.matrix != RGB
        return dataclasses.replace(self, headroom=limited)

    def matrix_used(self, height: int) -> int:
        """Return the matrix to convert with.

        A missing or unknown matrix is taken as BT.709 from 720 lines on and BT.601 below, as
        players do. RGB that is converted to YUV follows the same rule.
        """
        return self.matrix if self.matrix in _WEIGHTS else (_BT709 if height >= 720 else _BT601)

    def stored_in(self, pixel_format: str, height: int) -> Colour:
        """Return the tags of a stream of this pixel format whose frames come from ``from_rgb``.

        Tags are kept, and untagged stays untagged: a player then assumes the same for the output
        as for the source. An unknown matrix is kept too, because both directions replace it alike.
        """
        if Layout.of(pixel_format).kind == "rgb":
            return dataclasses.replace(self, matrix=RGB, levels=int(ColorRange.JPEG))
        if self.matrix != RGB:
            return self
        levels = int(ColorRange.MPEG)
        return dataclasses.replace(self, matrix=self.matrix_used(height), levels=levels)


SRGB = Colour(matrix=RGB, levels=2, primaries=1, transfer=13)
"""Tags for images, which have none of their own."""


def to_rgb(frame: av.VideoFrame, colour: Colour) -> Frame:
    """Convert a decoded frame to RGB or RGBA [height, width, channel].

    Pixels are uint8, or uint16 if the frame has more than 8 bits.
    """
    layout = Layout.of(frame.format.name)
    if frame.format.name in ("rgb24", "rgba", "rgb48le", "rgba64le"):
        return frame.to_ndarray()
    form, numbers = _conversion(layout.planar, colour, frame.height)
    planes = tuple(samples(plane, form.layout) for plane in repacked(frame, layout.planar).planes)
    with jax.default_device(_host()):
        return np.asarray(_decode(planes, numbers, form, (frame.height, frame.width)))


def from_rgb(pixels: Frame, pixel_format: str, colour: Colour) -> av.VideoFrame:
    """Return a frame to encode, which ``to_rgb`` would read back as ``pixels``.

    If the pixel format needs alpha, an opaque channel is added; if it has none, alpha is dropped.
    """
    height, width = pixels.shape[:2]
    planar = Layout.of(pixel_format).planar
    frame = av.VideoFrame(width, height, planar)
    form, numbers = _conversion(planar, colour, height)
    with jax.default_device(_host()):
        planes = _encode(pixels, numbers, form)
    for plane, values in zip(frame.planes, planes, strict=True):
        samples(plane, form.layout)[:] = values
    frame = repacked(frame, pixel_format)
    tags = colour.stored_in(pixel_format, height)
    # Some encoders, such as that of ProRes, take the tags of the frames, not of the stream.
    frame.colorspace, frame.color_range = tags.matrix, tags.levels
    frame.color_primaries, frame.color_trc = tags.primaries, tags.transfer
    return frame


def standard(pixels: Frame, colour: Colour) -> Frame:
    """Return RGB or RGBA without headroom, as displays and image files need it."""
    if not colour.headroom:
        return pixels
    form = {(3, 1): "rgb24", (4, 1): "rgba", (3, 2): "rgb48le", (4, 2): "rgba64le"}
    return from_rgb(pixels, form[pixels.shape[2], pixels.itemsize], colour).to_ndarray()


def repacked(frame: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    """Return the samples in another pixel format, unchanged if it has the same content."""
    if frame.format.name == pixel_format:
        return frame
    if frame.format.name.replace("yuvj", "yuv") == pixel_format.replace("yuvj", "yuv"):
        copy = av.VideoFrame(frame.width, frame.height, pixel_format)
        layout = Layout.of(pixel_format)
        for target, source in zip(copy.planes, frame.planes, strict=True):
            samples(target, layout)[:] = samples(source, layout)
        return copy
    # With equal levels and matrix on both sides, swscale changes nothing but the packing.
    full = Layout.of(pixel_format).kind == "rgb"
    levels = ColorRange.JPEG if full else ColorRange.MPEG
    return frame.reformat(
        format=pixel_format,
        src_color_range=levels,
        dst_color_range=levels,
        interpolation=_EXACT,
    )


@dataclasses.dataclass(frozen=True)
class _Form:
    """The static part of a conversion: a program is compiled for each value.

    Matrix, levels and depth are arguments instead, so few programs serve all combinations.

    Attributes:
        layout: of the planes; its depth is that of the arrays, 8 or 16 bits.
        on_column: whether chroma samples lie on a luma column, not between two.
        on_row: likewise for rows.
    """

    layout: Layout
    on_column: bool
    on_row: bool


class _Numbers(NamedTuple):
    """The numeric part of a conversion: weights of the matrix, and levels of the samples.

    Attributes:
        kr: weight of red in luma.
        kb: weight of blue in luma.
        black: luma of RGB 0.
        middle: chroma of grey.
        luma: number of levels from RGB 0 to RGB 1.
        chroma: number of levels between the extremes of chroma.
        top: the highest level that a sample can hold.
    """

    kr: float
    kb: float
    black: float
    middle: float
    luma: float
    chroma: float
    top: float


def _conversion(planar: str, colour: Colour, height: int) -> tuple[_Form, _Numbers]:
    """Return the static and the numeric part of a conversion."""
    layout = Layout.of(planar)
    scale, top = 2.0 ** (layout.bits - 8), 2.0**layout.bits - 1
    full = layout.kind == "rgb" or colour.levels == ColorRange.JPEG
    black, luma, chroma = (0.0, top, top) if full else (16 * scale, 219 * scale, 224 * scale)
    if colour.headroom:
        # RGB 0 to 1 then spans 255 levels instead of 219, and its 0 lies 16 levels below black.
        wider = 255 / 219
        black, luma, chroma = black - luma * 16 / 219, luma * wider, chroma * wider
    kr, kb = _WEIGHTS[colour.matrix_used(height)]
    numbers = _Numbers(kr, kb, black, 128 * scale, luma, chroma, top)
    form = _Form(
        layout=dataclasses.replace(layout, bits=layout.pixel_bits),
        on_column=colour.siting in _ON_COLUMN,
        on_row=colour.siting in _ON_ROW,
    )
    return form, numbers


def _host() -> jax.Device | None:  # pyright: ignore[reportInvalidTypeForm]
    """Return the CPU, where decoding and encoding happen; the network keeps the GPU busy."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # a JAX_PLATFORMS without cpu
        return None


def samples(plane: VideoPlane, layout: Layout) -> np.ndarray:
    """Return a writable view of a plane's samples [height, width]."""
    kind = np.uint8 if layout.bits <= 8 else np.dtype("<u2")
    rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    return rows[:, : plane.width]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _decode(
    planes: tuple[Array, ...], numbers: _Numbers, form: _Form, size: tuple[int, int]
) -> Array:
    """Convert planes to RGB or RGBA of ``size`` (height, width)."""
    layout = form.layout
    colours = [plane.astype(jnp.float32) for plane in planes]
    alpha = [colours.pop() / numbers.top] if layout.alpha else []
    if layout.kind == "rgb":
        green, blue, red = ((plane - numbers.black) / numbers.luma for plane in colours)
    else:
        luma = (colours[0] - numbers.black) / numbers.luma
        red = green = blue = luma
        if layout.kind == "yuv":
            difference = [(plane - numbers.middle) / numbers.chroma for plane in colours[1:]]
            # Rows first here, columns first in _encode: an inverse applies its steps in reverse.
            for axis, on_sample in ((0, form.on_row), (1, form.on_column)):
                if layout.chroma[1 - axis]:
                    difference = [_finer(plane, axis, on_sample) for plane in difference]
            # The chroma size of an odd side is rounded up, so upsampling gives one row or column
            # too many.
            cb, cr = (plane[: size[0], : size[1]] for plane in difference)
            red = luma + 2 * (1 - numbers.kr) * cr
            blue = luma + 2 * (1 - numbers.kb) * cb
            green = luma - numbers.kr * red - numbers.kb * blue
            green = green / (1 - numbers.kr - numbers.kb)
    most, kind = (255, jnp.uint8) if layout.bits == 8 else (65535, jnp.uint16)
    pixels = jnp.stack([red, green, blue, *alpha], axis=-1)
    return jnp.rint(jnp.clip(pixels, 0, 1) * most).astype(kind)


@functools.partial(jax.jit, static_argnums=2)
def _encode(pixels: Array, numbers: _Numbers, form: _Form) -> list[Array]:
    """Convert RGB or RGBA to the planes of a layout, rounded and clipped."""
    layout = form.layout
    most = 255 if pixels.dtype == jnp.uint8 else 65535
    red, green, blue, *alpha = (pixels[..., c] / jnp.float32(most) for c in range(pixels.shape[-1]))
    planes = [part * numbers.luma + numbers.black for part in (green, blue, red)]
    if layout.kind != "rgb":
        kr, kb = numbers.kr, numbers.kb
        luma = kr * red + (1 - kr - kb) * green + kb * blue
        planes = [luma * numbers.luma + numbers.black]
        if layout.kind == "yuv":
            chroma = [(blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))]
            for axis, on_sample in ((1, form.on_column), (0, form.on_row)):
                if layout.chroma[1 - axis]:
                    chroma = [_coarser(plane, axis, on_sample) for plane in chroma]
            planes += [plane * numbers.chroma + numbers.middle for plane in chroma]
    if layout.alpha:
        planes.append((alpha[0] if alpha else jnp.ones_like(red)) * numbers.top)
    kind = jnp.uint8 if layout.bits == 8 else jnp.uint16
    return [jnp.rint(jnp.clip(plane, 0, numbers.top)).astype(kind) for plane in planes]


def _finer(plane: Array, axis: int, on_sample: bool) -> Array:
    """Double the samples along an axis by linear interpolation.

    With ``on_sample``, every other new sample lies on an old one; otherwise each old sample lies
    midway between two new ones.
    """
    before, after = _shifted(plane, axis, -1), _shifted(plane, axis, 1)
    if on_sample:
        pair = [plane, (plane + after) / 2]
    else:
        pair = [(3 * plane + before) / 4, (3 * plane + after) / 4]
    shape = list(plane.shape)
    shape[axis] *= 2
    return jnp.stack(pair, axis + 1).reshape(shape)


def _coarser(plane: Array, axis: int, on_sample: bool) -> Array:
    """Halve the samples along an axis, so that ``_coarser(_finer(x)) == x``."""
    # Filters of unit gain (after the division by 8). Interpolation followed by the filter gives
    # weight 1 to the sample itself and 0 to all others.
    taps = (-1, 2, 6, 2, -1) if on_sample else (0, -2, 6, 6, -2)
    padding = [(0, 0)] * plane.ndim
    padding[axis] = (2, 2 + plane.shape[axis] % 2)
    padded = jnp.pad(plane, padding, mode="edge")
    length = padded.shape[axis] - 4
    parts = [
        weight * padded[(slice(None),) * axis + (slice(k, k + length, 2),)]
        for k, weight in enumerate(taps)
        if weight
    ]
    return functools.reduce(jnp.add, parts) / 8


def _shifted(plane: Array, axis: int, step: int) -> Array:
    """Return, for each sample, the sample ``step`` further along an axis; border samples repeat."""
    padding = [(0, 0)] * plane.ndim
    padding[axis] = (max(0, -step), max(0, step))
    start = max(0, step)
    inside = (slice(None),) * axis + (slice(start, start + plane.shape[axis]),)
    return jnp.pad(plane, padding, mode="edge")[inside]
