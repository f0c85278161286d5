# SPDX-License-Identifier: Apache-2.0
"""Static HDR metadata: the display that a film was graded on, and how bright the film gets.

PyAV reads the metadata from frames but cannot set it on an output. Encoders whose bitstream carries
it take it as a parameter. For other encoders it belongs in the container. PyAV copies such metadata
only from a stream used as a template, so this module builds a Matroska header with one such stream.
"""

from __future__ import annotations

import dataclasses
import io
import struct

import av
from av.container import InputContainer

__all__ = ["StaticHDR", "template"]

# libavutil's AVMasteringDisplayMetadata: ten rationals, then two flags: has primaries, luminance.
_RATIONALS = struct.Struct("=20i2i")
_MOVING = ("DYNAMIC_HDR_PLUS", "DOVI_METADATA", "DOVI_RPU_BUFFER")
_LIGHT = struct.Struct("=2I")  # AVContentLightMetadata: MaxCLL, MaxFALL


@dataclasses.dataclass(frozen=True)
class StaticHDR:
    """SMPTE ST 2086 and CTA-861.3 metadata.

    Attributes:
        mastering: chromaticities x, y of red, green, blue and white, then the least and the
            greatest luminance in cd/m²; None if unknown.
        light: greatest light level of any pixel (MaxCLL) and greatest average of any frame
            (MaxFALL) in cd/m²; None if unknown.
    """

    mastering: tuple[float, ...] | None = None
    light: tuple[int, int] | None = None

    @classmethod
    def of(cls, frame: av.VideoFrame) -> StaticHDR | None:
        """Return the metadata of a decoded frame, or None."""
        try:
            display = frame.side_data.get("MASTERING_DISPLAY_METADATA")
            light = frame.side_data.get("CONTENT_LIGHT_LEVEL")
        except ValueError:  # PyAV 18 refuses frames with side data that it has no name for
            return None
        mastering = _mastering(bytes(display)) if display else None
        levels = _LIGHT.unpack_from(bytes(light)) if light else None
        return cls(mastering, levels) if mastering or levels else None

    @staticmethod
    def moving(frame: av.VideoFrame) -> bool:
        """Return whether a frame has dynamic metadata: HDR10+ or Dolby Vision."""
        try:
            return any(frame.side_data.get(name) for name in _MOVING)
        except ValueError:  # as above
            return False

    def parameters(self, encoder: str) -> list[str]:
        """Return the metadata as an encoder's own parameters.

        The list is empty for encoders whose bitstream cannot carry it.
        """
        if encoder not in _NAMES:
            return []
        display_name, light_name, scale = _NAMES[encoder]
        found = []
        if self.mastering is not None:
            points = [f"{v * scale[0]:.{scale[2]}f}" for v in self.mastering[:8]]
            least, greatest = (f"{v * scale[1]:.{scale[2]}f}" for v in self.mastering[8:])
            red, green, blue, white = (f"({x},{y})" for x, y in zip(points[::2], points[1::2]))
            found.append(f"{display_name}=G{green}B{blue}R{red}WP{white}L({greatest},{least})")
        if self.light is not None:
            found.append(f"{light_name}={self.light[0]},{self.light[1]}")
        return found


# Encoder → its names of both parameters, and how it writes values: units per 1 of chromaticity,
# units per cd/m² of luminance, and decimals.
_NAMES = {
    "libx264": ("mastering-display", "cll", (50_000, 10_000, 0)),
    "libx265": ("master-display", "max-cll", (50_000, 10_000, 0)),
    "libsvtav1": ("mastering-display", "content-light", (1, 1, 5)),
}


def _mastering(data: bytes) -> tuple[float, ...] | None:
    """Return the numbers of libavutil's structure; None if a part of them is missing."""
    *numbers, has_primaries, has_luminance = _RATIONALS.unpack_from(data)
    if not (has_primaries and has_luminance):
        return None
    return tuple(n / d if d else 0.0 for n, d in zip(numbers[::2], numbers[1::2]))


def template(codec: str, width: int, height: int, hdr: StaticHDR) -> InputContainer:
    """Return an open Matroska file that has one video stream with this metadata and no frames.

    Args:
        codec: Matroska's name of the codec, such as ``V_VP9``.
        width: of the frames, in pixels.
        height: of the frames, in pixels.
        hdr: the metadata.
    """
    # The hexadecimal numbers are element IDs of RFC 9559 (Matroska); 55BC, for instance, is MaxCLL.
    light, mastering = b"", b""
    if hdr.light is not None:
        light = _element("55BC", hdr.light[0]) + _element("55BD", hdr.light[1])
    if hdr.mastering is not None:
        # Elements 55D1 to 55DA have the same order, except that the greatest luminance comes before
        # the least.
        values = [*hdr.mastering[:8], hdr.mastering[9], hdr.mastering[8]]
        parts = [_element(f"{0x55D1 + n:X}", float(value)) for n, value in enumerate(values)]
        mastering = _element("55D0", b"".join(parts))
    size = _element("B0", width) + _element("BA", height)
    video = _element("E0", size + _element("55B0", light + mastering))
    kind = _element("D7", 1) + _element("73C5", 1) + _element("83", 1) + _element("86", codec)
    header = [("4286", 1), ("42F7", 1), ("42F2", 4), ("42F3", 8), ("4282", "matroska")]
    content = [
        # Matroska's usual unit of time, in nanoseconds.
        _element("1549A966", _element("2AD7B1", 1_000_000)),
        _element("1654AE6B", _element("AE", kind + video)),
        _element("1F43B675", _element("E7", 0)),
    ]
    data = _element("1A45DFA3", b"".join(_element(*part) for part in header))
    return av.open(io.BytesIO(data + _element("18538067", b"".join(content))), "r")


def _element(identifier: str, payload: bytes | str | int | float) -> bytes:
    """Return an EBML element: identifier (given in hexadecimal), length in eight bytes, payload."""
    if isinstance(payload, int):
        payload = payload.to_bytes(max(1, (payload.bit_length() + 7) // 8), "big")
    elif isinstance(payload, float):
        payload = struct.pack(">d", payload)
    elif isinstance(payload, str):
        payload = payload.encode()
    # The first byte of a length of eight bytes is 01 and says only that (RFC 8794).
    return bytes.fromhex(identifier) + ((1 << 56) | len(payload)).to_bytes(8, "big") + payload
