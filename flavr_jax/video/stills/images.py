# SPDX-License-Identifier: Apache-2.0
"""Folders of images as clips, both ways.

8-bit images go through Pillow; 16-bit ones, which it knows only in grey, and floating-point ones
through FFmpeg.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import imageio.v3 as imageio
import numpy as np
from av.error import FFmpegError

from flavr_jax.partial import Partial
from flavr_jax.typing import Frame
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.frames import ClipInfo, Origin, TimedFrame
from flavr_jax.video.pixels.colour import SRGB, Colour, standard, to_rgb
from flavr_jax.video.pixels.layout import Layout
from flavr_jax.video.stills import exr

__all__ = ["ImageFolder", "ImageFolderWriter", "displayed", "is_linear", "without_headroom"]

logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".exr")
_FORMATS = {(3, 8): "rgb24", (4, 8): "rgba", (3, 16): "rgb48le", (4, 16): "rgba64le"}
_PNG_DEPTH = 24  # where a PNG file says how many bits a channel has
_COMPRESSION: dict[str, Any] = {"png": {"compress_level": 3}, "tiff": {"compression": "tiff_lzw"}}
_PQ_AND_HLG = (16, 18)


class ImageFolder:
    """The images of a folder as a clip, in natural order: ``2.png`` comes before ``10.png``.

    Other files are ignored, grey becomes RGB. Size, depth and whether there is alpha are those of
    the first image; another size is an error, the others are fitted, with a line where it loses
    something. EXR images are linear light; here they are ACEScct, ``info.pixel_format`` being
    one of floats.
    """

    def __init__(self, path: Path, *, rate: Fraction = Fraction(24)) -> None:
        """Look through the folder; ``rate`` is what an image sequence cannot say itself.

        Raises:
            ValueError: no images, an unreadable one, or images of several sizes.
        """
        self.paths = sorted(
            (
                entry
                for entry in path.iterdir()
                if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
            ),
            key=lambda entry: _natural(entry.name),
        )
        if not self.paths:
            raise ValueError(f"{path} holds no images ({', '.join(SUFFIXES)}).")
        width, height = _size(self.paths[0])
        for other in self.paths[1:]:
            if _size(other) != (width, height):
                raise ValueError(
                    f"{other} is {'×'.join(map(str, _size(other)))} pixels, but "
                    f"{self.paths[0].name} is {width}×{height}; a clip has one size."
                )
        self.damage: str | None = None
        first = _read(self.paths[0])
        self._stored = _FORMATS[first.shape[2], 8 * first.dtype.itemsize]
        linear = self.paths[0].suffix.lower() == ".exr"
        self.info = ClipInfo(
            width,
            height,
            rate,
            1 / rate,
            len(self.paths),
            colour=SRGB,
            pixel_format=("gbrapf32le" if first.shape[2] == 4 else "gbrpf32le")
            if linear
            else self._stored,
        )

    def __iter__(self) -> Iterator[TimedFrame]:
        told: set[str] = set()
        for index, path in enumerate(self.paths):
            pixels, lost = _fitted(_read(path), Layout.of(self._stored))
            for what in sorted(lost - told):
                logger.warning("%s: %s", path, what)
            told |= lost
            original = av.VideoFrame.from_ndarray(pixels, self._stored)
            original.opaque = Origin(index, path)
            yield TimedFrame(pixels, index / self.info.rate, 1 / self.info.rate, original)


class ImageFolderWriter:
    """A folder of images, ``frame_000001.png`` and on; their times are not kept.

    An original that comes from a file of the same kind is copied as that file.
    """

    def __init__(
        self,
        path: Path,
        info: ClipInfo,
        *,
        encoding: Encoding = Encoding(),
        overwrite: bool = False,
    ) -> None:
        """Prepare the folder.

        Args:
            path: of the folder.
            info: of the frames to come.
            encoding: the kind of images.
            overwrite: whether ``path`` may exist.

        Raises:
            OSError: it cannot be made, or exists and may not be replaced. A folder that holds
                anything but images of a writer such as this one never is.
            ValueError: HDR video is to become linear light.
        """
        if overwrite:
            _check_only_ours(path)
        linear = is_linear(info)
        self._kind = encoding.images
        if self._kind == "auto":
            self._kind = "exr" if linear else "png"
        if self._kind == "exr" and info.colour.transfer in _PQ_AND_HLG:
            raise ValueError("PQ and HLG video is not written as exr; use --images png or tiff.")
        self._light: Callable[[Frame], np.ndarray] = (
            exr.to_linear if linear else exr.linear_of_display
        )
        if self._kind == "jpg" and Layout.of(info.pixel_format).alpha:
            logger.warning("%s: JPEG images lose transparency; --images png keeps it.", path)
        self.path = path
        self._partial = Partial(path, overwrite=overwrite, folder=True, ours=_is_ours)
        self._count = 0

    def write(self, frame: TimedFrame) -> None:
        """Add a frame."""
        self._count += 1
        target = self._partial.path / f"frame_{self._count:06d}.{self._kind}"
        origin = frame.original.opaque if frame.original is not None else None
        if isinstance(origin, Origin) and origin.path is not None and self._same(origin.path):
            shutil.copyfile(origin.path, target)
        elif self._kind == "exr":
            exr.write(target, self._light(frame.pixels))
        elif self._kind == "jpg":
            pixels = frame.pixels[..., :3]
            imageio.imwrite(target, _eight_bits(pixels), quality=95, subsampling=0)
        elif frame.pixels.dtype == np.uint8:
            # Level 3 is three times as fast as the default and a few per cent larger.
            imageio.imwrite(target, frame.pixels, plugin="pillow", **_COMPRESSION[self._kind])
        else:
            _write_16_bits(target, self._kind, frame.pixels)

    def __enter__(self) -> ImageFolderWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._partial.__exit__(kind, error, traceback)

    def _same(self, path: Path) -> bool:
        suffixes = {"jpg": (".jpg", ".jpeg"), "tiff": (".tif", ".tiff")}
        return path.suffix.lower() in suffixes.get(self._kind, (f".{self._kind}",))


def without_headroom(colour: Colour, frame: TimedFrame) -> TimedFrame:
    """A frame for outputs that have no headroom."""
    return dataclasses.replace(frame, pixels=standard(frame.pixels, colour))


def is_linear(info: ClipInfo) -> bool:
    """Whether frames are the ACEScct of linear light."""
    return info.pixel_format in ("gbrpf32le", "gbrapf32le")


def _is_ours(entry: Path) -> bool:
    """True for an image that ``ImageFolderWriter`` wrote, by its name."""
    match = re.fullmatch(r"frame_[0-9]{6,}(\.[a-z]+)", entry.name)
    return match is not None and match[1] in SUFFIXES and entry.is_file()


def _check_only_ours(path: Path) -> None:
    """Raise an error if a folder holds anything that an ``ImageFolderWriter`` did not write."""
    for entry in path.iterdir() if path.is_dir() else ():
        if not _is_ours(entry):
            raise FileExistsError(
                f"{path} holds {entry.name}, which is not a frame that this program wrote, so "
                "that the folder is never replaced. Use another --output."
            )


def displayed(frame: TimedFrame) -> TimedFrame:
    """A frame of linear light as sRGB, for outputs that end at white."""
    return dataclasses.replace(frame, pixels=exr.displayed(frame.pixels), original=None)


def _natural(name: str) -> list[str | int]:
    """A sorting key in which runs of digits count as numbers."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _size(path: Path) -> tuple[int, int]:
    """Width and height of an image, from its header."""
    try:
        if path.suffix.lower() == ".exr":
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                return stream.width, stream.height
        shape = imageio.improps(path, plugin="pillow", index=0).shape
    except (OSError, ValueError, SyntaxError, FFmpegError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error
    return shape[1], shape[0]


def _read(path: Path) -> Frame:
    """An image as RGB or RGBA of 8 or 16 bits."""
    suffix = path.suffix.lower()
    if suffix == ".exr":
        return exr.from_linear(exr.read(path))
    if suffix in (".png", ".tif", ".tiff") and (deep := _read_16_bits(path)) is not None:
        return deep
    try:
        mode = imageio.immeta(path, plugin="pillow", index=0)["mode"]
        # CMYK has four channels too, but the last is no alpha.
        as_mode = "RGB" if mode == "CMYK" else None
        pixels = imageio.imread(path, plugin="pillow", index=0, mode=as_mode)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path} holds {pixels.dtype} values; 8 or 16 bits a channel are read.")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    alpha = [pixels[..., -1:]] if pixels.shape[-1] in (2, 4) else []
    colour = pixels[..., : pixels.shape[-1] - len(alpha)]
    colour = np.broadcast_to(colour, (*colour.shape[:2], 3))
    return np.concatenate([colour, *alpha], axis=-1)


def _read_16_bits(path: Path) -> Frame | None:
    """An image through FFmpeg, if it has more than 8 bits; others are for Pillow."""
    with path.open("rb") as file:
        header = file.read(_PNG_DEPTH + 1)
    if path.suffix.lower() == ".png" and header[_PNG_DEPTH:] != b"\x10":
        return None
    try:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
    except (FFmpegError, StopIteration):
        return None
    if Layout.of(frame.format.name).bits <= 8:
        return None
    return to_rgb(frame, SRGB)


def _fitted(pixels: Frame, target: Layout) -> tuple[Frame, set[str]]:
    """Pixels in the depth and with the alpha of a clip, and what is lost by that."""
    lost = set()
    kind = np.dtype(np.uint8 if target.bits == 8 else np.uint16)
    if pixels.dtype.itemsize > kind.itemsize:
        lost.add("16 bits are reduced to the 8 of the first image.")
        pixels = _eight_bits(pixels)
    elif pixels.dtype.itemsize < kind.itemsize:
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    if target.alpha and pixels.shape[2] == 3:
        opaque = np.full((*pixels.shape[:2], 1), np.iinfo(kind).max, kind)
        pixels = np.concatenate([pixels, opaque], axis=-1)
    elif pixels.shape[2] == 4 and not target.alpha:
        lost.add("transparency is dropped, since the first image has none.")
        pixels = pixels[..., :3]
    return np.ascontiguousarray(pixels), lost


def _eight_bits(pixels: Frame) -> Frame:
    if pixels.dtype == np.uint8:
        return pixels
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _write_16_bits(path: Path, kind: str, pixels: Frame) -> None:
    order = "be" if kind == "png" else "le"
    stem = "rgba64" if pixels.shape[2] == 4 else "rgb48"
    frame = av.VideoFrame.from_ndarray(pixels, f"{stem}le").reformat(format=stem + order)
    options = {"compression_level": "3"} if kind == "png" else {"compression_algo": "lzw"}
    path.write_bytes(exr.encoded(kind, frame, options))
