# SPDX-License-Identifier: Apache-2.0
"""The content of a pixel format: depth, chroma resolution, alpha.

FFmpeg has two hundred pixel formats, but their content is one of three kinds of picture; the rest
is packing. Colours are converted in a planar format, which stores each channel in an array of its
own; nearly every format has a planar equivalent.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import av

__all__ = ["Layout"]

Kind = Literal["rgb", "yuv", "grey"]
# log₂ of chroma subsampling (horizontal, vertical) → its name.
_CHROMA = {(1, 1): "420", (1, 0): "422", (0, 0): "444", (0, 1): "440"}
# Bits for which FFmpeg has a planar format, by the stem of its name.
_DEPTHS = {
    "yuv420": (8, 9, 10, 12, 14, 16), "yuv422": (8, 9, 10, 12, 14, 16),
    "yuv444": (8, 9, 10, 12, 14, 16), "yuv440": (8, 10, 12),
    "yuva420": (8, 9, 10, 16), "yuva422": (8, 9, 10, 12, 16), "yuva444": (8, 9, 10, 12, 16),
    "gbr": (8, 9, 10, 12, 14, 16), "gbra": (8, 10, 12, 14, 16), "gray": (8, 9, 10, 12, 14, 16),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Layout:
    """The content of a pixel format.

    Attributes:
        kind: RGB, luma with chroma, or luma alone.
        bits: depth of each channel.
        alpha: whether there is an alpha channel.
        chroma: log₂ of the subsampling of chroma, horizontal and vertical; (1, 1) is 4:2:0.
    """

    kind: Kind
    bits: int = 8
    alpha: bool = False
    chroma: tuple[int, int] = (0, 0)

    @classmethod
    @functools.cache
    def of(cls, pixel_format: str) -> Layout:
        """Return the content of the FFmpeg pixel format with this name."""
        # Subsampling is read off the chroma size of a picture of 64×64.
        form = av.VideoFormat(pixel_format, 64, 64)
        alpha = form.has_palette or any(part.is_alpha for part in form.components)
        bits = max((part.bits for part in form.components), default=8)
        # Palettes hold RGB colours; XYZ of digital cinema has three full channels like RGB.
        if form.is_rgb or form.has_palette or pixel_format.startswith("xyz"):
            return cls("rgb", bits, alpha)
        if len(form.components) - alpha < 3:
            return cls("grey", bits, alpha)
        coarser = (64 // form.chroma_width(64), 64 // form.chroma_height(64))
        return cls("yuv", bits, alpha, (coarser[0].bit_length() - 1, coarser[1].bit_length() - 1))

    @property
    def planar(self) -> str:
        """Name of the planar format with this content, or of the smallest one that can hold it.

        Grey with alpha becomes RGB, chroma at a quarter of the width becomes 4:4:4, and floating
        point becomes 16 bits.
        """
        if self.kind == "rgb" or (self.kind == "grey" and self.alpha):
            stem, tail = ("gbra", "p") if self.alpha else ("gbr", "p")
        elif self.kind == "grey":
            stem, tail = "gray", ""
        else:
            stem, tail = f"yuv{'a' * self.alpha}{_CHROMA.get(self.chroma, '444')}", "p"
            if stem not in _DEPTHS:  # 4:4:0 with alpha
                stem = "yuva444"
        bits = next((depth for depth in _DEPTHS[stem] if depth >= self.bits), 16)
        return f"{stem}{tail}" if bits == 8 else f"{stem}{tail}{bits}le"

    @property
    def pixel_bits(self) -> Literal[8, 16]:
        """Bits per channel of the RGB pixels that such pictures are converted to."""
        return 8 if self.bits <= 8 else 16
