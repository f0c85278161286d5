# SPDX-License-Identifier: Apache-2.0
"""Tags of image files: how to turn the pixels, and the colour profile that they are in.

Interpolated images need the same tags as their neighbours; otherwise orientation or colours would
alternate along the sequence. Pillow writes both tags. Images of 16 bits are written by FFmpeg,
which through PyAV writes neither, so this module inserts them into the files.
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

_ORIENTATION, _PROFILE = 0x0112, 34675  # tag numbers in TIFF and EXIF
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
        orientation: EXIF's number, 1 to 8; 1 shows the pixels as stored.
        profile: the ICC profile of RGB pixels; None means sRGB.
    """

    orientation: int = 1
    profile: bytes | None = None

    @classmethod
    def of(cls, image: Image.Image) -> ImageTags:
        """Return the tags of an image opened with Pillow; unknown values count as missing."""
        try:
            # If EXIF data is not before the picture, Pillow would decode the PNG to look behind it.
            has_exif = image.format != "PNG" or "exif" in image.info
            orientation = image.getexif().get(_ORIENTATION, 1) if has_exif else 1
        except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error):
            orientation = 1
        if orientation not in range(1, 9):
            orientation = 1
        profile = image.info.get("icc_profile")
        # Grey and CMYK pixels are converted to RGB, for which their profiles are not valid.
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
        """Return whether height and width are exchanged when the picture is shown."""
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
    """Convert an EXIF orientation to FFmpeg's display matrix; None to show pixels as stored."""
    if orientation == 1:
        return None
    a, b, c, d = (_ONE * value for value in _MATRICES[orientation - 1])
    return (a, b, 0, c, d, 0, 0, 0, 1 << 30)


def orientation_of(matrix: tuple[int, ...] | None) -> int:
    """Convert a display matrix to an EXIF orientation; 1 for turns that EXIF does not know."""
    if matrix is None:
        return 1
    a, b, c, d = ((value > 0) - (value < 0) for value in (*matrix[:2], *matrix[3:5]))
    signs = (a, b, c, d)
    return _MATRICES.index(signs) + 1 if signs in _MATRICES else 1


def is_srgb(profile: bytes) -> bool:
    """Return whether an ICC profile contains the name sRGB, as its description does."""
    # Version 2 of ICC profiles writes the description in ASCII, version 4 in UTF-16.
    return b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile


def converted(pixels: Frame, source: bytes | None, target: bytes | None) -> Frame | None:
    """Convert 8-bit RGB or RGBA pixels to another ICC profile; None if that is impossible.

    Args:
        pixels: colours in the profile ``source``.
        source: the present profile; None for sRGB.
        target: the profile to convert to; None for sRGB.
    """
    if pixels.dtype != np.uint8:
        return None  # Little CMS can convert 16 bits, but Pillow does not offer it
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
    """Insert tags into a PNG or TIFF file that has none."""
    if tags == ImageTags():
        return
    change = _png_with_tags if kind == "png" else _tiff_with_tags
    path.write_bytes(change(path.read_bytes(), tags))


def _png_with_tags(content: bytes, tags: ImageTags) -> bytes:
    chunks = []
    if tags.profile is not None:
        # A name, the end of the name, and compression method 0, which is zlib's.
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(tags.profile)))
    if tags.orientation != 1:
        # The chunk holds TIFF data without the prefix, which JPEG needs.
        chunks.append((b"eXIf", tags._exif().removeprefix(b"Exif\0\0")))
    made = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    start = 8 + 25  # after the signature and the header chunk; iCCP has to precede the pixels
    return content[:start] + made + content[start:]


def _tiff_with_tags(content: bytes, tags: ImageTags) -> bytes:
    """Append a copy of the TIFF directory that has the tags too, and point the header to it."""
    order = "<" if content[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, offset)
    starts = [offset + 2 + 12 * number for number in range(count)]
    entries = [content[start : start + 12] for start in starts]
    content += b"\0" * (len(content) % 2)  # offsets are even
    if tags.profile is not None:
        # Type 7, "undefined", is raw bytes. They do not fit in the entry, so it holds their offset.
        undefined = struct.pack(order + "HHII", _PROFILE, 7, len(tags.profile), len(content))
        entries.append(undefined)
        content += tags.profile + b"\0" * (len(tags.profile) % 2)
    if tags.orientation != 1:
        short = struct.pack(order + "HHIHH", _ORIENTATION, 3, 1, tags.orientation, 0)
        entries = [entry for entry in entries if entry[:2] != short[:2]] + [short]
    # TIFF 6.0 requires entries in ascending order of their tags.
    entries.sort(key=lambda entry: struct.unpack_from(order + "H", entry))
    header = content[:4] + struct.pack(order + "I", len(content))
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return header + content[8:] + directory
