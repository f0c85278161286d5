# SPDX-License-Identifier: Apache-2.0
"""Between a stream's YUV and the network's RGB, by one rule in both directions.

A matrix guessed differently on the way in and on the way out shifts every colour, so both ways
live here. swscale by itself takes untagged video for BT.601, and its fast paths are up to 2.5
levels off for 4:2:0; with the flags below it is within rounding of the formulas of ITU-T H.273.
"""

from __future__ import annotations

import dataclasses

import av
from av.video.reformatter import ColorRange, Interpolation

from flavr_jax.typing import Frame

__all__ = ["RGB", "Colour", "from_rgb", "to_rgb"]

RGB, UNTAGGED = 0, 2
_BT709, _BT601 = 1, 5
# H.273 matrix → swscale's: BT.709, FCC, BT.601 (two tags), SMPTE 240M, BT.2020 (two tags).
_SWSCALE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_ACCURATE = (
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
    """

    matrix: int = UNTAGGED
    levels: int = 0
    primaries: int = UNTAGGED
    transfer: int = UNTAGGED

    def conversion(self, height: int) -> tuple[int, int]:
        """The matrix and levels to convert by, as swscale counts them.

        A missing or unknown matrix is BT.709 from 720 lines on and BT.601 below, as players
        assume; missing levels are limited. RGB that is to become YUV follows the same rule.
        """
        default = _BT709 if height >= 720 else _BT601
        limited = self.levels != ColorRange.JPEG or self.matrix == RGB
        return _SWSCALE.get(self.matrix, default), ColorRange.MPEG if limited else ColorRange.JPEG

    def stored_in(self, pixel_format: str, height: int) -> Colour:
        """The tags for a stream of this pixel format that ``from_rgb`` fills.

        Tags are kept, and what was untagged stays so: a player then guesses for the result what
        it guessed for the source. Only a matrix that cannot be kept is replaced.
        """
        if av.VideoFormat(pixel_format).is_rgb:
            return dataclasses.replace(self, matrix=RGB, levels=int(ColorRange.JPEG))
        if self.matrix in _SWSCALE or self.matrix == UNTAGGED:
            return self
        matrix, levels = self.conversion(height)
        return dataclasses.replace(self, matrix=matrix, levels=int(levels))


def to_rgb(frame: av.VideoFrame, colour: Colour) -> Frame:
    """The pixels of a decoded frame as 8-bit RGB."""
    matrix, levels = colour.conversion(frame.height)
    # Formats that are full range by their name ("yuvj420p") or hold RGB leave no choice.
    if frame.format.is_rgb or frame.format.name.startswith("yuvj"):
        levels = ColorRange.JPEG
    return frame.to_ndarray(
        format="rgb24",
        src_colorspace=matrix,
        src_color_range=levels,
        dst_color_range=ColorRange.JPEG,
        interpolation=_ACCURATE,
    )


def from_rgb(pixels: Frame, pixel_format: str, colour: Colour) -> av.VideoFrame:
    """A frame to encode, converted as ``to_rgb`` would read it back."""
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    if av.VideoFormat(pixel_format).is_rgb:
        return frame.reformat(format=pixel_format)
    matrix, levels = colour.conversion(frame.height)
    return frame.reformat(
        format=pixel_format,
        dst_colorspace=matrix,
        src_color_range=ColorRange.JPEG,
        dst_color_range=levels,
        interpolation=_ACCURATE,
    )
