# SPDX-License-Identifier: Apache-2.0
"""Reading and writing a single image file: its size, its tags and its pixels.

Images of 8 bits go through Pillow. FFmpeg reads and writes those of 16 bits, which Pillow supports
only in grey, and those of floating point.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import imageio.v3 as imageio
import numpy as np
from av.error import FFmpegError
from PIL import Image

from flavr_jax.typing import Frame
from flavr_jax.video.files.names import ONE_FILE, file_url
from flavr_jax.video.pixels.colour import SRGB, to_rgb
from flavr_jax.video.pixels.layout import Layout
from flavr_jax.video.stills import exr
from flavr_jax.video.stills.tags import ImageTags, with_tags

__all__ = ["ImageHeader", "eight_bits", "read_header", "read_image", "write_image"]

_PNG_DEPTH = 24  # offset of the byte in a PNG file that gives the bits per channel
# PNG's level 3 is three times as fast as the default and a few per cent larger.
_COMPRESSION: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 3},
    "tiff": {"compression": "tiff_lzw"},
    "jpg": {"quality": 95, "subsampling": 0},
}
_PILLOW_NAMES = {"jpg": "JPEG", "png": "PNG", "tiff": "TIFF"}


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """Properties of an image that are known before its pixels are read.

    Attributes:
        width: in pixels, as stored.
        height: in pixels, as stored.
        tags: how to show the pixels.
    """

    width: int
    height: int
    tags: ImageTags = ImageTags()  # noqa: RUF009

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of the image as it is shown."""
        if self.tags.swaps_sides:
            return self.height, self.width
        return self.width, self.height


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the errors of Pillow and FFmpeg into one that names the image."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds of error, some only by accident
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error


def read_header(path: Path) -> ImageHeader:
    """Return the size and tags of an image.

    Raises:
        ValueError: it cannot be read as an image.
    """
    with _explained(path):
        if path.suffix.lower() == ".exr":
            with av.open(file_url(path), options=ONE_FILE) as container:
                stream = container.streams.video[0]
                return ImageHeader(stream.width, stream.height)
        with Image.open(path) as image:
            (width, height), tags = image.size, ImageTags.of(image)
            if image.format == "TIFF" and tags.swaps_sides:
                width, height = height, width  # Pillow turns TIFFs upright, but no other format
            return ImageHeader(width, height, tags)


def read_image(path: Path, tags: ImageTags) -> Frame:
    """Return the stored pixels of an image as RGB or RGBA of 8 or 16 bits; grey becomes RGB.

    Args:
        path: the image; linear light (EXR) is converted to ACEScct.
        tags: of its header.

    Raises:
        ValueError: it cannot be read as an image.
    """
    suffix = path.suffix.lower()
    if suffix == ".exr":
        return exr.from_linear(exr.read(path))
    if suffix in (".png", ".tif", ".tiff") and (deep := _read_16_bits(path)) is not None:
        return deep
    with _explained(path):
        mode = imageio.immeta(path, plugin="pillow", index=0)["mode"]
        # CMYK has four channels too, but the fourth is not alpha.
        as_mode = "RGB" if mode == "CMYK" else None
        pixels = imageio.imread(path, plugin="pillow", index=0, mode=as_mode)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path} holds {pixels.dtype} values; 8 or 16 bits a channel are read.")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    alpha = [pixels[..., -1:]] if pixels.shape[-1] in (2, 4) else []
    colour = pixels[..., : pixels.shape[-1] - len(alpha)]
    colour = np.broadcast_to(colour, (*colour.shape[:2], 3))
    pixels = np.concatenate([colour, *alpha], axis=-1)
    # Pillow turns TIFFs upright when it decodes them; this turns them back.
    return tags.stored(pixels) if suffix in (".tif", ".tiff") else pixels


def _read_16_bits(path: Path) -> Frame | None:
    """Read an image of more than 8 bits through FFmpeg; None for images that Pillow should read."""
    with path.open("rb") as file:
        header = file.read(_PNG_DEPTH + 1)
    if path.suffix.lower() == ".png" and header[_PNG_DEPTH:] != b"\x10":
        return None
    try:
        with av.open(file_url(path), options=ONE_FILE) as container:
            frame = next(container.decode(video=0))
    except (FFmpegError, StopIteration):
        return None
    if Layout.of(frame.format.name).bits <= 8:
        return None
    return to_rgb(frame, SRGB)


def eight_bits(pixels: Frame) -> Frame:
    """Return pixels rounded to 8 bits."""
    if pixels.dtype == np.uint8:
        return pixels
    # 257 levels of 16 bits are one of 8 bits; half of them are added to round to the nearest.
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def write_image(path: Path, kind: str, pixels: Frame, tags: ImageTags) -> None:
    """Write RGB or RGBA pixels of 8 or 16 bits.

    Args:
        path: of the file.
        kind: png, jpg (which drops alpha and depth) or tiff.
        pixels: as they are to be stored.
        tags: how to show them.
    """
    if kind == "jpg":
        pixels = eight_bits(pixels[..., :3])
    if pixels.dtype == np.uint8:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(path, _PILLOW_NAMES[kind], **_COMPRESSION[kind], **tags.for_pillow(kind))
    else:
        _write_16_bits(path, kind, pixels)
        with_tags(path, kind, tags)


def _write_16_bits(path: Path, kind: str, pixels: Frame) -> None:
    order = "be" if kind == "png" else "le"  # the byte orders that FFmpeg's encoders accept
    stem = "rgba64" if pixels.shape[2] == 4 else "rgb48"
    frame = av.VideoFrame.from_ndarray(pixels, f"{stem}le").reformat(format=stem + order)
    options = {"compression_level": "3"} if kind == "png" else {"compression_algo": "lzw"}
    path.write_bytes(exr.encoded(kind, frame, options))
