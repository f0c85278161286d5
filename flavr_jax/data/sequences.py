# SPDX-License-Identifier: Apache-2.0
"""What every data set is made of: clips, and which of their frames are given and which are sought.

A data set differs from another in its folders and in the frames it asks for, not in what is done
with them. So each is read into sequences, and whatever packs, trains or scores sees only those.
Nothing is decoded before it is needed: a list of a hundred thousand clips is a list of names.
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

N_INPUTS = 4  # of a window, in every data set and in what synthetic paths are laid out for
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")
_PPM = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")


@runtime_checkable
class Clip(Protocol):
    """The frames of one scene, equally far apart in time, readable in any order."""

    @property
    def name(self) -> str:
        """Unique within its data set."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Picture:
        """One frame, decoded."""
        ...

    def encoded(self, index: int) -> bytes:
        """One frame as the bytes of an image file that decodes to the same pixels."""
        ...


@dataclasses.dataclass(frozen=True)
class ImageClip:
    """A clip whose frames are image files."""

    name: str
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Picture:
        """One frame, decoded.

        Raises:
            FileNotFoundError: the file is not there.
            ValueError: it is not an image, or has 16 bits a channel.
        """
        return decode(self.encoded(index), where=str(self.paths[index]))

    def encoded(self, index: int) -> bytes:
        """The file's bytes."""
        return self.paths[index].read_bytes()


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayClip:
    """A clip whose frames are in memory."""

    name: str
    frames: Pictures

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, index: int) -> Picture:
        """One frame, as it is."""
        return self.frames[index]

    def encoded(self, index: int) -> bytes:
        """One frame as a PPM file."""
        return encode(self.frames[index], "raw")


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A clip with the frames that a method is given, and those it has to find.

    Attributes:
        clip: where the frames are.
        factor: how many times the frame rate grows.
        inputs: indices of the given frames, equally far apart in time.
        targets: for each window of four inputs, the ``factor`` − 1 frames inside its middle
            interval; empty where they are not public.
        crop: height and width cut from the centre of each frame; None keeps the whole of it.
    """

    clip: Clip
    factor: int
    inputs: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]
    crop: tuple[int, int] | None = None

    def __len__(self) -> int:
        """The number of windows."""
        return max(0, len(self.inputs) - N_INPUTS + 1)

    def windows(self) -> Iterator[Pictures]:
        """The four inputs of each window; an input that windows share is read once."""
        held: dict[int, Picture] = {}
        for first in range(len(self)):
            wanted = self.inputs[first : first + N_INPUTS]
            held = {index: held[index] if index in held else self.read(index) for index in wanted}
            yield np.stack([held[index] for index in wanted])

    def truths(self) -> Iterator[Pictures]:
        """The frames to be found, window by window."""
        for indices in self.targets:
            yield np.stack([self.read(index) for index in indices])

    def read(self, index: int) -> Picture:
        """One frame, cropped.

        Raises:
            ValueError: when it is smaller than the crop.
        """
        frame = self.clip.read(index)
        if self.crop is None:
            return frame
        height, width = self.crop
        top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
        if top < 0 or left < 0:
            raise ValueError(
                f"{self.clip.name} is {frame.shape[1]}×{frame.shape[0]}, but {width}×{height} is "
                "cropped from it; use the sequences that the data set was defined on."
            )
        return frame[top : top + height, left : left + width]


def regular(clip: Clip, factor: int) -> Sequence:
    """The sequence whose inputs are every ``factor``-th frame from the first on.

    The official protocols of Vimeo-90K, GoPro, Adobe240 and DAVIS are this rule with another
    factor. Frames after the last input are left out, as they are there.
    """
    inputs = tuple(range(0, len(clip), factor))
    starts = inputs[: max(0, len(inputs) - N_INPUTS + 1)]
    targets = tuple(tuple(range(s + factor + 1, s + 2 * factor)) for s in starts)
    return Sequence(clip, factor, inputs, targets)


def decode(data: bytes, *, where: str = "an image") -> Picture:
    """The pixels of an image file as 8-bit RGB; ``where`` names it in messages.

    Raises:
        ValueError: when it is not an image, or has more than 8 bits a channel.
    """
    if header := _PPM.match(data):  # no decoder, no copy: frames that were packed raw
        width, height = int(header[1]), int(header[2])
        return np.frombuffer(data, np.uint8, offset=header.end()).reshape(height, width, 3)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{where} has more than 8 bits a channel; convert it to 8.")
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{where} cannot be read as an image: {error}.") from error


def encode(frame: Picture, encoding: Literal["png", "jpeg", "raw"]) -> bytes:
    """A frame as an image file: PNG, JPEG (quality 95, full colour resolution) or PPM."""
    options: dict[str, dict[str, Any]] = {
        # Level 1 is 5 times as fast as the default, and its files are a sixth larger.
        "png": {"format": "PNG", "compress_level": 1},
        "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
        "raw": {"format": "PPM"},
    }
    file = io.BytesIO()
    Image.fromarray(frame).save(file, **options[encoding])
    return file.getvalue()


def images_of(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder in natural order: ``2.png`` comes before ``10.png``."""
    found = (
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGES and not path.name.startswith(".")
    )
    return tuple(sorted(found, key=_natural))


def subfolders(folder: Path, *, layout: str) -> list[Path]:
    """The folders in a folder, in natural order.

    Raises:
        FileNotFoundError: when there is no such folder, or none in it; ``layout`` says what a data
            set's folders look like.
    """
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(f"{folder} holds no folders; the layout read is {layout}.")
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[str | int]:
    """A sorting key in which runs of digits count as numbers."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]
