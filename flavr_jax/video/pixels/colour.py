# SPDX-License-Identifier: Apache-2.0
"""A stream's colour tags, and its pictures as RGB and back.

Original frames keep their stored values, while interpolated frames are converted from RGB. If that
conversion were not exact, the two would differ and flicker as they alternate. swscale is not exact
enough: after a round trip its full-range chroma is half a level too low, its 12-bit luma seven
levels too high, and 4:2:0 chroma is blurred.
"""

from __future__ import annotations

import dataclasses
import functools

import av
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Interpolation

from flavr_jax.typing import Frame
from flavr_jax.video.pixels.conversion import Conversion, Form, Numbers, Samples, on_host
from flavr_jax.video.pixels.layout import Layout
from flavr_jax.video.pixels.picture import Planar

__all__ = [
    "RGB",
    "SRGB",
    "UNTAGGED",
    "Colour",
    "conversion",
    "from_rgb",
    "from_samples",
    "picture",
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
    found = picture(frame, colour)
    return found.pixels if isinstance(found, Planar) else found


def picture(frame: av.VideoFrame, colour: Colour) -> Frame | Planar:
    """Return a decoded frame as ``to_rgb`` would, or planes that are converted when needed."""
    if frame.format.name in ("rgb24", "rgba", "rgb48le", "rgba64le"):
        return frame.to_ndarray()
    planar = Layout.of(frame.format.name).planar
    how = conversion(planar, colour, frame.height)

    def planes() -> list[np.ndarray]:
        return [samples(plane, how.form.layout) for plane in repacked(frame, planar).planes]

    return Planar(planes, how, (frame.height, frame.width))


def from_rgb(pixels: Frame, pixel_format: str, colour: Colour) -> av.VideoFrame:
    """Return a frame to encode, which ``to_rgb`` would read back as ``pixels``.

    If the pixel format needs alpha, an opaque channel is added; if it has none, alpha is dropped.
    """
    height, width = pixels.shape[:2]
    how = conversion(Layout.of(pixel_format).planar, colour, height)
    with on_host():
        values = np.asarray(how.encode(pixels))
    return from_samples(values, (height, width), pixel_format, colour)


def from_samples(
    values: Samples, size: tuple[int, int], pixel_format: str, colour: Colour
) -> av.VideoFrame:
    """Return a frame to encode from the samples of its planes.

    Args:
        values: as ``conversion(…).encode`` returns them.
        size: height and width.
        pixel_format: with the content of the planes, in any packing.
        colour: the tags, as for ``from_rgb``.
    """
    planar = Layout.of(pixel_format).planar
    frame, layout = av.VideoFrame(size[1], size[0], planar), Layout.of(planar)
    how = conversion(planar, colour, size[0])
    for plane, part in zip(frame.planes, how.split(values, size), strict=True):
        samples(plane, layout)[:] = part
    frame = repacked(frame, pixel_format)
    tags = colour.stored_in(pixel_format, size[0])
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


@functools.lru_cache(maxsize=64)
def conversion(planar: str, colour: Colour, height: int) -> Conversion:
    """Return the conversion between planes of a planar pixel format and RGB.

    Args:
        planar: ``Layout.planar`` of a pixel format.
        colour: the tags of the planes.
        height: of the frames, which stands for the matrix where there is none.
    """
    layout = Layout.of(planar)
    scale, top = 2.0 ** (layout.bits - 8), 2.0**layout.bits - 1
    # Limited range has luma from 16 to 235 and chroma from 16 to 240 in 8 bits (ITU-T H.273).
    full = layout.kind == "rgb" or colour.levels == ColorRange.JPEG
    black, luma, chroma = (0.0, top, top) if full else (16 * scale, 219 * scale, 224 * scale)
    if colour.headroom:
        # RGB 0 to 1 then spans 255 levels instead of 219, and its 0 lies 16 levels below black.
        wider = 255 / 219
        black, luma, chroma = black - luma * 16 / 219, luma * wider, chroma * wider
    kr, kb = _WEIGHTS[colour.matrix_used(height)]
    numbers = Numbers(kr, kb, black, 128 * scale, luma, chroma, top)
    form = Form(
        layout=dataclasses.replace(layout, bits=layout.pixel_bits),
        on_column=colour.siting in _ON_COLUMN,
        on_row=colour.siting in _ON_ROW,
    )
    return Conversion(form, numbers)


def samples(plane: VideoPlane, layout: Layout) -> np.ndarray:
    """Return a writable view of a plane's samples [height, width]."""
    kind = np.uint8 if layout.bits <= 8 else np.dtype("<u2")
    # FFmpeg pads rows for alignment.
    rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    return rows[:, : plane.width]
