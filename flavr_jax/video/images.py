# SPDX-License-Identifier: Apache-2.0
"""Folders of images as clips, both ways; single images go through imageio."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import imageio.v3 as imageio
import numpy as np

from flavr_jax.typing import Frame
from flavr_jax.video.colour import RGB, Colour
from flavr_jax.video.frames import ClipInfo, TimedFrame, claim

__all__ = ["ImageFolder", "ImageFolderWriter"]

logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
_SRGB = Colour(matrix=RGB, levels=2, primaries=1, transfer=13)


class ImageFolder:
    """The images of a folder as a clip, in natural order: ``2.png`` comes before ``10.png``.

    Other files are ignored. Grey becomes RGB, 16 bits become 8, and alpha is dropped; the last two
    are logged. All images have the size of the first.
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
        self.info = ClipInfo(width, height, rate, 1 / rate, len(self.paths), colour=_SRGB)

    def __iter__(self) -> Iterator[TimedFrame]:
        lost: set[str] = set()
        for index, path in enumerate(self.paths):
            pixels, reduced = _read(path)
            for what in sorted(reduced - lost):
                logger.warning("%s: %s", path, what)
            lost |= reduced
            yield TimedFrame(pixels, index / self.info.rate, 1 / self.info.rate)


class ImageFolderWriter:
    """A folder of PNG files, ``frame_000001.png`` and on; their times are not kept."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        """Prepare the folder.

        Raises:
            OSError: it cannot be made, or exists and may not be replaced; a folder with anything
                but images in it never is.
        """
        content = list(path.iterdir()) if path.is_dir() else []
        for entry in content:
            if entry.suffix.lower() not in SUFFIXES:
                raise FileExistsError(
                    f"{path} holds {entry.name}, which is not an image, so that it is never "
                    "replaced. Use another --output."
                )
        empty = path.is_dir() and not content
        self.path = path
        self._partial = claim(path, overwrite=overwrite or empty, folder=True)
        self._count = 0

    def write(self, frame: TimedFrame) -> None:
        """Add a frame."""
        self._count += 1
        # Level 3 is three times as fast as the default and a few per cent larger.
        imageio.imwrite(
            self._partial / f"frame_{self._count:06d}.png", frame.pixels, compress_level=3
        )

    def __enter__(self) -> ImageFolderWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        if self.path.exists():
            shutil.rmtree(self.path)
        self._partial.rename(self.path)


def _natural(name: str) -> list[str | int]:
    """A sorting key in which runs of digits count as numbers."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _size(path: Path) -> tuple[int, int]:
    """Width and height of an image, from its header."""
    try:
        shape = imageio.improps(path, plugin="pillow", index=0).shape
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error
    return shape[1], shape[0]


def _read(path: Path) -> tuple[Frame, set[str]]:
    """An image as 8-bit RGB, and what was lost on the way."""
    lost = set()
    try:
        mode = imageio.immeta(path, plugin="pillow", index=0)["mode"]
        # CMYK has four channels too, but the last is no alpha.
        as_mode = "RGB" if mode == "CMYK" else None
        pixels = imageio.imread(path, plugin="pillow", index=0, mode=as_mode)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype == np.uint16:
        lost.add("16-bit images are reduced to 8 bits.")
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise ValueError(f"{path} holds {pixels.dtype} values; 8 or 16 bits a channel are read.")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[-1] in (2, 4):
        lost.add("transparency is dropped.")
        pixels = pixels[..., :-1]
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))), lost
