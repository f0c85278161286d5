# SPDX-License-Identifier: Apache-2.0
"""Static HDR metadata: the display that a film was graded on, and how bright it gets.

PyAV reads it off frames but has no way to set it on an output. Encoders whose bitstream carries
it take it as a parameter. For the others it has to be in the container, and PyAV takes over a
container's metadata from a stream that serves as a template; so a Matroska header with nothing
but one such stream is made for it here.
"""

from __future__ import annotations

import dataclasses
import io
import struct

import av
from av.container import InputContainer

__all__ = ["StaticHDR", "template"]

# libavutil's AVMasteringDisplayMetadata: ten rationals, and which of them count.
_RATIONALS = struct.Struct("=20i2i")
_MOVING = ("DYNAMIC_HDR_PLUS", "DOVI_METADATA", "DOVI_RPU_BUFFER")
_LIGHT = struct.Struct("=2I")


@dataclasses.dataclass(frozen=True)
class StaticHDR:
    """SMPTE ST 2086 and CTA-861.3 metadata.

    Attributes:
        mastering: x, y of red, green, blue and white, then the least and the greatest luminance
            in cd/m²; or None.
        light: greatest light level of a pixel and of a frame's average in cd/m²; or None.
    """

    mastering: tuple[float, ...] | None = None
    light: tuple[int, int] | None = None

    @classmethod
    def of(cls, frame: av.VideoFrame) -> StaticHDR | None:
        """What a decoded frame says, or None."""
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
        """Whether a frame has metadata that changes from frame to frame: HDR10+, Dolby Vision."""
        try:
            return any(frame.side_data.get(name) for name in _MOVING)
        except ValueError:  # as above
            return False

    def parameters(self, encoder: str) -> list[str]:
        """For an encoder's own parameter string; empty where the container has to carry it."""
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


# Encoder → its names for both, and the units of chromaticity and of luminance and their decimals.
_NAMES = {
    "libx264": ("mastering-display", "cll", (50_000, 10_000, 0)),
    "libx265": ("master-display", "max-cll", (50_000, 10_000, 0)),
    "libsvtav1": ("mastering-display", "content-light", (1, 1, 5)),
}


def _mastering(data: bytes) -> tuple[float, ...] | None:
    *numbers, has_primaries, has_luminance = _RATIONALS.unpack_from(data)
    if not (has_primaries and has_luminance):
        return None
    return tuple(n / d if d else 0.0 for n, d in zip(numbers[::2], numbers[1::2]))


def template(codec: str, width: int, height: int, hdr: StaticHDR) -> InputContainer:
    """An opened file that holds one video stream with this metadata, and no frames.

    Args:
        codec: Matroska's name of the codec, such as ``V_VP9``.
        width: of the frames.
        height: likewise.
        hdr: the metadata.
    """
    light, mastering = b"", b""
    if hdr.light is not None:
        light = _element("55BC", hdr.light[0]) + _element("55BD", hdr.light[1])
    if hdr.mastering is not None:
        values = [*hdr.mastering[:8], hdr.mastering[9], hdr.mastering[8]]
        parts = [_element(f"{0x55D1 + n:X}", float(value)) for n, value in enumerate(values)]
        mastering = _element("55D0", b"".join(parts))
    size = _element("B0", width) + _element("BA", height)
    video = _element("E0", size + _element("55B0", light + mastering))
    kind = _element("D7", 1) + _element("73C5", 1) + _element("83", 1) + _element("86", codec)
    header = [("4286", 1), ("42F7", 1), ("42F2", 4), ("42F3", 8), ("4282", "matroska")]
    content = [
        _element("1549A966", _element("2AD7B1", 1_000_000)),
        _element("1654AE6B", _element("AE", kind + video)),
        _element("1F43B675", _element("E7", 0)),
    ]
    data = _element("1A45DFA3", b"".join(_element(*part) for part in header))
    return av.open(io.BytesIO(data + _element("18538067", b"".join(content))), "r")


def _element(identifier: str, payload: bytes | str | int | float) -> bytes:
    """An EBML element: its identifier in hexadecimal, its length in eight bytes, its payload."""
    if isinstance(payload, int):
        payload = payload.to_bytes(max(1, (payload.bit_length() + 7) // 8), "big")
    elif isinstance(payload, float):
        payload = struct.pack(">d", payload)
    elif isinstance(payload, str):
        payload = payload.encode()
    return bytes.fromhex(identifier) + ((1 << 56) | len(payload)).to_bytes(8, "big") + payload
