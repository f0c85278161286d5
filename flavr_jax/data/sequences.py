# SPDX-License-Identifier: Apache-2.0
"""Clips and sequences: the common form into which every data set is read.

Data sets differ in their folders and in which frames are inputs and targets. Each reader therefore
returns sequences, and packing, training and evaluation work on those alone. Frames are decoded only
when they are read, so a list of a hundred thousand clips costs no more than its file names.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

__all__ = [
    "IMAGES",
    "N_INPUTS",
    "ArrayClip",
    "Clip",
    "ImageClip",
    "Picture",
    "Pictures",
    "Sequence",
    "decode",
    "encode",
    "images_of",
    "regular",
    "subfolders",
]

Picture: TypeAlias = UInt8[np.ndarray, "height width 3"]
Pictures: TypeAlias = UInt8[np.ndarray, "_time height width 3"]

N_INPUTS = 4
"""Number of input frames of a window, in every data set and in synthetic clips."""

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")
_PPM = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")


@runtime_checkable
class Clip(Protocol):
    """Frames of one scene at a constant frame rate, readable in any order."""

    @property
    def name(self) -> str:
        """Name, unique within the data set."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Picture:
        """Decode one frame."""
        ...

    def encoded(self, index: int) -> bytes:
        """Return one frame as an image file that decodes to the same pixels."""
        ...


@dataclasses.dataclass(frozen=True)
class ImageClip:
    """A clip whose frames are image files."""

    name: str
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Picture:
        """Decode one frame.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not an image, or has more than 8 bits a channel.
        """
        return decode(self.encoded(index), where=str(self.paths[index]))

    def encoded(self, index: int) -> bytes:
        """Return the image file of one frame, byte for byte."""
        return self.paths[index].read_bytes()


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayClip:
    """A clip whose frames are in memory."""

    name: str
    frames: Pictures

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, index: int) -> Picture:
        """Return one frame."""
        return self.frames[index]

    def encoded(self, index: int) -> bytes:
        """Encode one frame as a PPM file."""
        return encode(self.frames[index], "raw")


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A clip together with the frames that are inputs and those to be predicted.

    Attributes:
        clip: the clip that holds the frames.
        factor: ratio of the frame rate with the targets to that of the inputs.
        inputs: indices of the input frames, equally far apart in time.
        targets: for each window of four inputs, the indices of the ``factor`` − 1 true frames
            inside its middle interval; empty if they are not public.
        crop: height and width of the centre crop of each frame; None keeps whole frames.
    """

    clip: Clip
    factor: int
    inputs: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]
    crop: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Return the number of windows."""
        return max(0, len(self.inputs) - N_INPUTS + 1)

    def windows(self) -> Iterator[Pictures]:
        """Yield the four inputs of each window; inputs shared by windows are read once."""
        held: dict[int, Picture] = {}
        for first in range(len(self)):
            wanted = self.inputs[first : first + N_INPUTS]
            held = {index: held[index] if index in held else self.read(index) for index in wanted}
            yield np.stack([held[index] for index in wanted])

    def truths(self) -> Iterator[Pictures]:
        """Yield the true frames (the targets) of each window."""
        for indices in self.targets:
            yield np.stack([self.read(index) for index in indices])

    def read(self, index: int) -> Picture:
        """Read one frame and crop it.

        Raises:
            ValueError: the frame is smaller than the crop.
        """
        frame = self.clip.read(index)
        if self.crop is None:
            return frame
        height, width = self.crop
        top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
        if top < 0 or left < 0:
            raise ValueError(
                f"{self.clip.name} is {frame.shape[1]}×{frame.shape[0]}, but {width}×{height} is "
                "cropped from it; use the data set in its original resolution."
            )
        return frame[top : top + height, left : left + width]


def regular(clip: Clip, factor: int) -> Sequence:
    """Make the sequence whose inputs are every ``factor``-th frame, starting with the first.

    The official protocols of Vimeo-90K, GoPro, Adobe240 and DAVIS all follow this rule, each with
    its own factor. Like them, it leaves out frames after the last input.
    """
    inputs = tuple(range(0, len(clip), factor))
    starts = inputs[: max(0, len(inputs) - N_INPUTS + 1)]
    targets = tuple(tuple(range(s + factor + 1, s + 2 * factor)) for s in starts)
    return Sequence(clip, factor, inputs, targets)


def decode(data: bytes, *, where: str = "an image") -> Picture:
    """Decode an image file into 8-bit RGB.

    Args:
        data: bytes of the image file.
        where: name of the image in error messages.

    Raises:
        ValueError: the data is not an image, is cut off, or has more than 8 bits a channel.
    """
    if header := _PPM.match(data):  # frames packed raw: neither a decoder nor a copy is needed
        width, height = int(header[1]), int(header[2])
        size, present = 3 * width * height, len(data) - header.end()
        if present < size:
            raise ValueError(f"{where} is cut off: it has {present} of {size} bytes of pixels.")
        pixels = np.frombuffer(data, np.uint8, size, offset=header.end())
        return pixels.reshape(height, width, 3)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{where} has more than 8 bits a channel; convert it to 8.")
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} cannot be read as an image: {error}.") from error


def encode(frame: Picture, encoding: Literal["png", "jpeg", "raw"]) -> bytes:
    """Encode a frame as an image file: PNG, JPEG (quality 95, 4:4:4), or PPM for ``raw``."""
    options: dict[str, dict[str, Any]] = {
        # Level 1 is 5 times as fast as the default level; its files are a sixth larger.
        "png": {"format": "PNG", "compress_level": 1},
        "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
        "raw": {"format": "PPM"},
    }
    file = io.BytesIO()
    Image.fromarray(frame).save(file, **options[encoding])
    return file.getvalue()


def images_of(folder: Path) -> tuple[Path, ...]:
    """List the image files of a folder in natural order: ``2.png`` comes before ``10.png``."""
    found = (
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGES and not path.name.startswith(".")
    )
    return tuple(sorted(found, key=_natural))


def subfolders(folder: Path, *, layout: str) -> list[Path]:
    """List the subfolders of a folder in natural order.

    Args:
        folder: folder to look into.
        layout: expected folder layout, for the error message.

    Raises:
        FileNotFoundError: the folder does not exist or has no subfolders.
    """
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(f"{folder} holds no folders; the layout read is {layout}.")
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[str | int]:
    """Sort key that compares runs of digits as numbers."""
    # Splitting at a group keeps the digits, at every odd index.
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]
