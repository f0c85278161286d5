# SPDX-License-Identifier: Apache-2.0
"""What an image file says about its pixels: how to turn them, and which colours they mean.

Images that are made between others have to say the same, or a sequence alternates between upright
and lying pictures, or between two looks. Pillow writes both tags; FFmpeg, which writes images of 16
bits, writes neither through PyAV, so that they are put into its files here.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageCms

from flavr_jax.typing import Frame
from flavr_jax.video.pixels.orientation import inverse, turned

__all__ = ["ImageTags", "converted", "display_matrix_of", "is_srgb", "orientation_of", "with_tags"]

_ORIENTATION, _PROFILE = 0x0112, 34675  # TIFF's and EXIF's numbers of the tags
_ONE = 1 << 16
# EXIF's orientations 1 to 8 as FFmpeg's display matrices a, b, c, d: a point (x, y) of the stored
# picture is shown at (a·x + c·y, b·x + d·y).
_MATRICES = [
    (1, 0, 0, 1), (-1, 0, 0, 1), (-1, 0, 0, -1), (1, 0, 0, -1),
    (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0), (0, -1, 1, 0),
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ImageTags:
    """How to show the pixels of an image file.

    Attributes:
        orientation: as EXIF numbers it, 1 to 8; 1 shows them as they are stored.
        profile: the ICC profile of RGB pixels; without one they are sRGB.
    """

    orientation: int = 1
    profile: bytes | None = None

    @classmethod
    def of(cls, image: Image.Image) -> ImageTags:
        """Return the tags of an image that Pillow has opened; unknown values count as none."""
        try:
            # Elsewhere Pillow would decode a PNG to look for EXIF data behind the picture.
            has_exif = image.format != "PNG" or "exif" in image.info
            orientation = image.getexif().get(_ORIENTATION, 1) if has_exif else 1
        except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error):
            orientation = 1
        if orientation not in range(1, 9):
            orientation = 1
        profile = image.info.get("icc_profile")
        # Profiles of grey and CMYK pixels mean nothing for the RGB that these become.
        if not isinstance(profile, bytes) or profile[16:20] != b"RGB ":
            profile = None
        return cls(int(orientation), profile)

    def same_colours(self, other: ImageTags) -> bool:
        """Return whether equal pixels mean equal colours under both tags."""
        ours, theirs = (
            tags.profile if tags.profile is not None and not is_srgb(tags.profile) else None
            for tags in (self, other)
        )
        return ours == theirs

    @property
    def swaps_sides(self) -> bool:
        """Return whether the picture is shown with height and width exchanged."""
        return self.orientation >= 5

    def upright(self, pixels: Frame) -> Shaped[np.ndarray, "_height _width channel"]:
        """Return stored pixels as they are shown."""
        matrix = display_matrix_of(self.orientation)
        return pixels if matrix is None else np.ascontiguousarray(turned(matrix, pixels))

    def stored(self, pixels: Frame) -> Shaped[np.ndarray, "_height _width channel"]:
        """Return upright pixels as they are stored."""
        matrix = display_matrix_of(self.orientation)
        return pixels if matrix is None else np.ascontiguousarray(turned(inverse(matrix), pixels))

    def for_pillow(self, kind: str) -> dict[str, Any]:
        """Return the tags as arguments of Pillow's ``save`` for png, jpg or tiff."""
        arguments: dict[str, Any] = {}
        if self.profile is not None:
            arguments["icc_profile"] = self.profile
        if self.orientation != 1:
            tiff = kind == "tiff"
            arguments["tiffinfo" if tiff else "exif"] = (
                {_ORIENTATION: self.orientation} if tiff else self._exif()
            )
        return arguments

    def _exif(self) -> bytes:
        exif = Image.Exif()
        exif[_ORIENTATION] = self.orientation
        return exif.tobytes()


def display_matrix_of(orientation: int) -> tuple[int, ...] | None:
    """Return EXIF's orientation as FFmpeg's display matrix; None for as it is stored."""
    if orientation == 1:
        return None
    a, b, c, d = (_ONE * value for value in _MATRICES[orientation - 1])
    return (a, b, 0, c, d, 0, 0, 0, 1 << 30)


def orientation_of(matrix: tuple[int, ...] | None) -> int:
    """Return a display matrix as EXIF's orientation; 1 for turns that EXIF does not know."""
    if matrix is None:
        return 1
    a, b, c, d = ((value > 0) - (value < 0) for value in (*matrix[:2], *matrix[3:5]))
    signs = (a, b, c, d)
    return _MATRICES.index(signs) + 1 if signs in _MATRICES else 1


def is_srgb(profile: bytes) -> bool:
    """Return whether an ICC profile is sRGB by its description."""
    return b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile


def converted(pixels: Frame, source: bytes | None, target: bytes | None) -> Frame | None:
    """Return 8-bit RGB or RGBA pixels in another ICC profile, or None where that is impossible.

    Args:
        pixels: in ``source``.
        source: a profile; None for sRGB.
        target: likewise.
    """
    if pixels.dtype != np.uint8:
        return None  # little CMS takes 16 bits, but not from Pillow
    srgb = ImageCms.createProfile("sRGB")
    try:
        before, after = (srgb if icc is None else io.BytesIO(icc) for icc in (source, target))
        colour = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        made = ImageCms.profileToProfile(colour, before, after)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    assert made is not None
    return np.concatenate([np.asarray(made), pixels[..., 3:]], axis=-1)


def with_tags(path: Path, kind: str, tags: ImageTags) -> None:
    """Put tags into a PNG or TIFF file that has none."""
    if tags == ImageTags():
        return
    change = _png_with_tags if kind == "png" else _tiff_with_tags
    path.write_bytes(change(path.read_bytes(), tags))


def _png_with_tags(content: bytes, tags: ImageTags) -> bytes:
    chunks = []
    if tags.profile is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(tags.profile)))
    if tags.orientation != 1:
        # The chunk holds bare TIFF data; the prefix belongs to JPEG.
        chunks.append((b"eXIf", tags._exif().removeprefix(b"Exif\0\0")))
    made = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    start = 8 + 25  # behind the signature and the header chunk, where iCCP has to be
    return content[:start] + made + content[start:]


def _tiff_with_tags(content: bytes, tags: ImageTags) -> bytes:
    """Append a copy of the directory with the tags in it, and point the header at it."""
    order = "<" if content[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, offset)
    starts = [offset + 2 + 12 * number for number in range(count)]
    entries = [content[start : start + 12] for start in starts]
    content += b"\0" * (len(content) % 2)  # offsets are even
    if tags.profile is not None:
        # Type 7 is "undefined", bytes without a meaning to TIFF; they are too long for the entry.
        undefined = struct.pack(order + "HHII", _PROFILE, 7, len(tags.profile), len(content))
        entries.append(undefined)
        content += tags.profile + b"\0" * (len(tags.profile) % 2)
    if tags.orientation != 1:
        short = struct.pack(order + "HHIHH", _ORIENTATION, 3, 1, tags.orientation, 0)
        entries = [entry for entry in entries if entry[:2] != short[:2]] + [short]
    # TIFF 6.0 wants the entries in ascending order of their tags.
    entries.sort(key=lambda entry: struct.unpack_from(order + "H", entry))
    header = content[:4] + struct.pack(order + "I", len(content))
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return header + content[8:] + directory
