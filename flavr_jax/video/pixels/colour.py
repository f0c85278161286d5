# SPDX-License-Identifier: Apache-2.0
"""Between a stream's pictures and RGB, by one rule in both directions.

Frames that pass through keep their stored values; frames that are made have been RGB. So that the
two do not flicker when they alternate, the way out is the exact inverse of the way in: chroma is
interpolated linearly, and reduced again by the filters that undo just that (horizontally those of
the LeGall 5/3 wavelet). swscale would not do: measured there and back, its full-range chroma comes
out half a level low, its 12-bit luma seven levels high, and 4:2:0 chroma blurred.
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
# H.273 matrix → luma's share of red and blue: BT.709, FCC, BT.601 (two tags), SMPTE 240M,
# BT.2020 (two tags).
_WEIGHTS = {
    1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114),
    7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593),
}  # fmt: skip
_BT709, _BT601 = 1, 5
# FFmpeg's chroma locations whose chroma lies on a luma column, and on a luma row; the bottom ones
# are rare enough to be taken for the middle.
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
        matrix: how RGB becomes YUV; 0 is RGB itself, 2 untagged.
        levels: 0 untagged, 1 limited (16 to 235), 2 full (0 to 255).
        primaries: 2 is untagged.
        transfer: 2 is untagged.
        siting: where chroma samples lie, as FFmpeg's AVChromaLocation; 0 is untagged.
        headroom: the RGB that this becomes has room for what limited levels leave below black and
            above white, which cameras use: 0 to 255 are levels 0 to 255, not 16 to 235.
    """

    matrix: int = UNTAGGED
    levels: int = 0
    primaries: int = UNTAGGED
    transfer: int = UNTAGGED
    siting: int = 0
    headroom: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Colour:
        """The tags of a decoded frame; untagged grey is full range, as FFmpeg has it."""
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
        """The same with headroom, where levels are limited."""
        limited = self.levels != ColorRange.JPEG and self.matrix != RGB
        return dataclasses.replace(self, headroom=limited)

    def matrix_used(self, height: int) -> int:
        """The matrix to convert by.

        A missing or unknown one is BT.709 from 720 lines on and BT.601 below, as players assume;
        RGB that is to become YUV follows the same rule.
        """
        return self.matrix if self.matrix in _WEIGHTS else (_BT709 if height >= 720 else _BT601)

    def stored_in(self, pixel_format: str, height: int) -> Colour:
        """The tags for a stream of this pixel format that ``from_rgb`` fills.

        Tags are kept, and what was untagged stays so: a player then guesses for the result what
        it guessed for the source. A matrix that is not known here stays too: the one used in its
        place is used both ways.
        """
        if Layout.of(pixel_format).kind == "rgb":
            return dataclasses.replace(self, matrix=RGB, levels=int(ColorRange.JPEG))
        if self.matrix != RGB:
            return self
        levels = int(ColorRange.MPEG)
        return dataclasses.replace(self, matrix=self.matrix_used(height), levels=levels)


SRGB = Colour(matrix=RGB, levels=2, primaries=1, transfer=13)
"""What images without tags are in."""


def to_rgb(frame: av.VideoFrame, colour: Colour) -> Frame:
    """The pixels of a decoded frame as RGB or RGBA: 8-bit, or 16-bit where it has more."""
    layout = Layout.of(frame.format.name)
    if frame.format.name in ("rgb24", "rgba", "rgb48le", "rgba64le"):
        return frame.to_ndarray()
    form, numbers = _conversion(layout.planar, colour, frame.height)
    planes = tuple(samples(plane, form.layout) for plane in repacked(frame, layout.planar).planes)
    with jax.default_device(_host()):
        return np.asarray(_decode(planes, numbers, form, (frame.height, frame.width)))


def from_rgb(pixels: Frame, pixel_format: str, colour: Colour) -> av.VideoFrame:
    """A frame to encode, converted as ``to_rgb`` would read it back.

    Alpha is added (opaque) or dropped as the pixel format asks for.
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
    # Some encoders, such as ProRes's, believe the frames and not the stream.
    frame.colorspace, frame.color_range = tags.matrix, tags.levels
    frame.color_primaries, frame.color_trc = tags.primaries, tags.transfer
    return frame


def standard(pixels: Frame, colour: Colour) -> Frame:
    """RGB or RGBA as displays and image files want it, without headroom."""
    if not colour.headroom:
        return pixels
    form = {(3, 1): "rgb24", (4, 1): "rgba", (3, 2): "rgb48le", (4, 2): "rgba64le"}
    return from_rgb(pixels, form[pixels.shape[2], pixels.itemsize], colour).to_ndarray()


def repacked(frame: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    """The same samples in another pixel format of the same content, or the closest to it."""
    if frame.format.name == pixel_format:
        return frame
    if frame.format.name.replace("yuvj", "yuv") == pixel_format.replace("yuvj", "yuv"):
        copy = av.VideoFrame(frame.width, frame.height, pixel_format)
        layout = Layout.of(pixel_format)
        for target, source in zip(copy.planes, frame.planes, strict=True):
            samples(target, layout)[:] = samples(source, layout)
        return copy
    # Equal levels and matrix on both sides: nothing but the packing changes.
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
    """What a conversion is compiled for; matrix, levels and depth are numbers that it is given."""

    layout: Layout
    on_column: bool
    on_row: bool


class _Numbers(NamedTuple):
    """Luma's share of red and blue, and levels.

    They are those of RGB's 0 and of no chroma, the spans from RGB's 0 to 1 and between the extremes
    of chroma, and the highest of all.
    """

    kr: float
    kb: float
    black: float
    middle: float
    luma: float
    chroma: float
    top: float


def _conversion(planar: str, colour: Colour, height: int) -> tuple[_Form, _Numbers]:
    layout = Layout.of(planar)
    scale, top = 2.0 ** (layout.bits - 8), 2.0**layout.bits - 1
    full = layout.kind == "rgb" or colour.levels == ColorRange.JPEG
    black, luma, chroma = (0.0, top, top) if full else (16 * scale, 219 * scale, 224 * scale)
    if colour.headroom:
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
    """The processor: decoding and encoding happen there, and the network keeps the GPU busy."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # a JAX_PLATFORMS without cpu
        return None


def samples(plane: VideoPlane, layout: Layout) -> np.ndarray:
    """A plane's samples [height, width], to read and to write."""
    kind = np.uint8 if layout.bits <= 8 else np.dtype("<u2")
    rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    return rows[:, : plane.width]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _decode(
    planes: tuple[Array, ...], numbers: _Numbers, form: _Form, size: tuple[int, int]
) -> Array:
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
            for axis, on_sample in ((0, form.on_row), (1, form.on_column)):
                if layout.chroma[1 - axis]:
                    difference = [_finer(plane, axis, on_sample) for plane in difference]
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
    """Twice the samples along an axis, interpolated linearly.

    ``on_sample``: every other new sample lies on an old one; otherwise old ones lie in the middle
    between two new ones.
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
    """Half the samples along an axis, so that ``_coarser(_finer(x)) == x``."""
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
    """Each sample's neighbour ``step`` samples on; beyond the border, the border's."""
    padding = [(0, 0)] * plane.ndim
    padding[axis] = (max(0, -step), max(0, step))
    start = max(0, step)
    inside = (slice(None),) * axis + (slice(start, start + plane.shape[axis]),)
    return jnp.pad(plane, padding, mode="edge")[inside]
