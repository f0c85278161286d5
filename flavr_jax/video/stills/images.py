# SPDX-License-Identifier: Apache-2.0
"""Folders of images read as clips, and clips written as folders of images.

Orientation, colour profile, size, depth and alpha are those of the first image, for originals and
for the images interpolated between them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from flavr_jax.partial import Partial, check_target
from flavr_jax.typing import Frame
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.frames import ClipInfo, Origin, TimedFrame
from flavr_jax.video.journal.job import Job
from flavr_jax.video.journal.journal import Journal
from flavr_jax.video.journal.segments import sync
from flavr_jax.video.pixels.colour import SRGB, Colour, standard
from flavr_jax.video.pixels.conversion import Conversion
from flavr_jax.video.pixels.layout import Layout
from flavr_jax.video.stills import exr
from flavr_jax.video.stills.image_files import eight_bits, read_header, read_image, write_image
from flavr_jax.video.stills.tags import ImageTags, converted, display_matrix_of, orientation_of

__all__ = [
    "ImageFolder",
    "ImageFolderWriter",
    "displayed",
    "displayed_info",
    "image_kind",
    "is_linear",
    "kind_of_output",
    "without_headroom",
]

logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".exr")
_FORMATS = {(3, 8): "rgb24", (4, 8): "rgba", (3, 16): "rgb48le", (4, 16): "rgba64le"}
_PQ_AND_HLG = (16, 18)  # transfer curves, as H.273 numbers them


class ImageFolder:
    """Reads the images of a folder in natural order: ``2.png`` comes before ``10.png``.

    Other files are ignored. Grey becomes RGB. The first image sets size, depth and alpha. An image
    of another size is an error; an image of another depth or with other alpha is converted, with a
    warning if that loses something. EXR images hold linear light: their pixels are converted to
    ACEScct, and ``info.pixel_format`` is a floating-point format.
    """

    def __init__(self, path: Path, *, rate: Fraction = Fraction(24)) -> None:
        """Read the headers of all images and the pixels of the first.

        Args:
            path: the folder.
            rate: frames per second, which images do not state.

        Raises:
            ValueError: there are no images, images of several sizes, or one that is unreadable.
        """
        self.paths = _images_of(path)
        header = read_header(self.paths[0])
        self._tags = [header.tags]
        for other in self.paths[1:]:
            found = read_header(other)
            if found.shown_size != header.shown_size:
                raise ValueError(
                    f"{other} is {_times(found.shown_size)} pixels, but {self.paths[0].name} is "
                    f"{_times(header.shown_size)}; a clip has one size."
                )
            # Equal tags share one object: thousands of profiles then need the memory of one.
            self._tags.append(header.tags if found.tags == header.tags else found.tags)
        self.damage: str | None = None
        first = read_image(self.paths[0], header.tags)
        self._stored = _FORMATS[first.shape[2], 8 * first.dtype.itemsize]
        linear = self.paths[0].suffix.lower() == ".exr"
        self.info = ClipInfo(
            header.width,
            header.height,
            rate,
            1 / rate,
            len(self.paths),
            colour=SRGB,
            display_matrix=display_matrix_of(header.tags.orientation),
            profile=header.tags.profile,
            image_kind=image_kind(self.paths[0]),
            pixel_format=("gbrapf32le" if first.shape[2] == 4 else "gbrpf32le")
            if linear
            else self._stored,
        )

    def __iter__(self) -> Iterator[TimedFrame]:
        return self.since(Fraction(0))

    def since(self, start: Fraction) -> Iterator[TimedFrame]:
        """Yield the frames from a time on, in seconds; images before it are not read."""
        told: set[str] = set()
        target = Layout.of(self._stored)
        for index in range(math.ceil(start * self.info.rate), len(self.paths)):
            path, tags = self.paths[index], self._tags[index]
            pixels, lost = _fitted(read_image(path, tags), target)
            pixels, other_colours = _shown_alike(pixels, tags, self._tags[0])
            lost |= other_colours
            for what in sorted(lost - told):
                logger.warning("%s: %s", path, what)
            told |= lost
            original = av.VideoFrame.from_ndarray(pixels, self._stored)
            original.opaque = Origin(index, path if tags == self._tags[0] else None)
            yield TimedFrame(pixels, index / self.info.rate, 1 / self.info.rate, original)


class ImageFolderWriter:
    """Writes a folder of images, numbered from ``frame_000001.png``; times are not stored.

    An original that comes from a file of the same format is copied byte for byte.
    """

    conversion: Conversion | None = None

    def __init__(
        self,
        path: Path,
        info: ClipInfo,
        *,
        encoding: Encoding = Encoding(),
        overwrite: bool = False,
        job: Job | None = None,
    ) -> None:
        """Create the partial folder, or go on with that of an earlier run of the same job.

        Args:
            path: the folder.
            info: properties of the frames to come.
            encoding: gives the format of the images.
            overwrite: whether ``path`` may exist.
            job: what the result depends on. Given it, finished images are kept if the run is
                interrupted.

        Raises:
            OSError: the folder cannot be created, or exists and may not be replaced. A folder that
                holds anything but images from such a writer is never replaced.
            ValueError: PQ or HLG video would have to be converted to linear light.
        """
        if overwrite:
            _check_only_ours(path)
        linear = is_linear(info)
        self._kind = kind_of_output(info, encoding)
        if self._kind == "exr" and info.colour.transfer in _PQ_AND_HLG:
            raise ValueError("PQ and HLG video is not written as exr; use --images png or tiff.")
        self._light: Callable[[Frame], np.ndarray] = (
            exr.to_linear if linear else exr.linear_of_display
        )
        if self._kind == "jpg" and Layout.of(info.pixel_format).alpha:
            logger.warning("%s: JPEG images lose transparency; --images png keeps it.", path)
        self._tags = ImageTags(orientation_of(info.display_matrix), info.profile)
        self.path = path
        check_target(path, overwrite, True, _is_ours)  # before the journal makes folders
        self._journal = None if job is None else Journal(Path(os.path.realpath(path)), job)
        with contextlib.ExitStack() as undo:
            left = self._journal.claimed if self._journal is not None else None
            if self._journal is not None:
                undo.callback(self._journal.close, complete=False)
                if left is None:
                    self._journal.forget()  # the images are gone
            self._partial = Partial(
                path, overwrite=overwrite, folder=True, ours=_is_ours, existing=left
            )
            if self._journal is not None:
                self._journal.claim(self._partial.path)
            undo.pop_all()
        self.done, self._count = self.kept, 0

    @property
    def kept(self) -> int:
        """Number of frames that the next run of the same job will not have to make."""
        return self._journal.frames if self._journal is not None else 0

    def write(self, frame: TimedFrame) -> None:
        """Add a frame, unless an earlier run has finished it."""
        self._count += 1
        if self._count <= self.done:
            return
        self._write(frame)
        if self._journal is not None and self._count % self._journal.job.segment == 0:
            # All images are on disk before the mark is made: a power failure must not leave a mark
            # without its images.
            first = self._count - self._journal.job.segment + 1
            for number in range(first, self._count + 1):
                sync(self._target(number))
            sync(self._partial.path)
            self._journal.mark()

    def _target(self, number: int) -> Path:
        return self._partial.path / f"frame_{number:06d}.{self._kind}"

    def _write(self, frame: TimedFrame) -> None:
        target = self._target(self._count)
        origin = frame.original.opaque if frame.original is not None else None
        path = origin.path if isinstance(origin, Origin) else None
        try:
            if path is not None and image_kind(path) == self._kind:
                shutil.copyfile(path, target)
            elif self._kind == "exr":
                exr.write(target, self._light(frame.pixels))
            else:
                write_image(target, self._kind, frame.pixels, self._tags)
        except OSError as error:
            # An error while a file is being written, such as that of a full disk, names no file.
            error.filename = error.filename or str(target)
            raise

    def __enter__(self) -> ImageFolderWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and self.kept:
            self._partial.keep()
        self._partial.__exit__(kind, error, traceback)
        if self._journal is not None:
            self._journal.close(complete=kind is None)


def _images_of(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order.

    Raises:
        ValueError: there are none, or one is a pipe or a device.
    """
    images = [
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
        if not entry.is_dir()
    ]
    if not images:
        raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)}).")
    for image in images:
        # Opening a pipe could wait for a writer forever. Broken links are reported when read.
        if image.exists() and not image.is_file():
            raise ValueError(f"{image} is a pipe or a device, not an image. Take it out.")
    return sorted(images, key=lambda entry: _natural(entry.name))


def image_kind(path: Path) -> str:
    """Return an image's format as ``Encoding.images`` names it: png, jpg, tiff, exr and so on."""
    suffix = path.suffix.lower().removeprefix(".")
    return {"jpeg": "jpg", "tif": "tiff"}.get(suffix, suffix)


def kind_of_output(info: ClipInfo, encoding: Encoding) -> str:
    """Return the format of images to write to a folder: png, jpg, tiff or exr."""
    if encoding.images != "auto":
        return encoding.images
    return "exr" if is_linear(info) else "png"


def without_headroom(colour: Colour, frame: TimedFrame) -> TimedFrame:
    """Return a frame with pixels of the usual range, for outputs without headroom."""
    return dataclasses.replace(frame, picture=standard(frame.pixels, colour))


def is_linear(info: ClipInfo) -> bool:
    """Return whether a clip's frames are linear light encoded as ACEScct."""
    return info.pixel_format in ("gbrpf32le", "gbrapf32le")


def _is_ours(entry: Path) -> bool:
    """Return whether an entry has the name of an image that ``ImageFolderWriter`` writes."""
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
    """Convert a frame of linear light to sRGB, for outputs that cannot exceed white."""
    return dataclasses.replace(frame, picture=exr.displayed(frame.pixels), stored=None)


def displayed_info(info: ClipInfo) -> ClipInfo:
    """Return the properties of a clip of linear light after :func:`displayed`."""
    deep = "rgba64le" if Layout.of(info.pixel_format).alpha else "rgb48le"
    return dataclasses.replace(info, pixel_format=deep)


def _natural(name: str) -> list[str | int]:
    """Return a sorting key in which runs of digits count as numbers."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _shown_alike(pixels: Frame, tags: ImageTags, target: ImageTags) -> tuple[np.ndarray, set[str]]:
    """Convert pixels to look the same under the clip's tags; also return messages of losses."""
    lost = set()
    if not tags.same_colours(target):
        made = converted(pixels, tags.profile, target.profile)
        if made is None:
            lost.add("its colour profile is not that of the first image, which is used instead.")
        else:
            pixels = made
    if tags.orientation != target.orientation:
        pixels = target.stored(tags.upright(pixels))
    return pixels, lost


def _fitted(pixels: Frame, target: Layout) -> tuple[Frame, set[str]]:
    """Convert pixels to a clip's depth and alpha; also return a message for each loss."""
    lost = set()
    kind = np.dtype(np.uint8 if target.bits == 8 else np.uint16)
    if pixels.dtype.itemsize > kind.itemsize:
        lost.add("16 bits are reduced to the 8 of the first image.")
        pixels = eight_bits(pixels)
    elif pixels.dtype.itemsize < kind.itemsize:
        pixels = pixels.astype(np.uint16) * np.uint16(257)  # 255 becomes 65535
    if target.alpha and pixels.shape[2] == 3:
        opaque = np.full((*pixels.shape[:2], 1), np.iinfo(kind).max, kind)
        pixels = np.concatenate([pixels, opaque], axis=-1)
    elif pixels.shape[2] == 4 and not target.alpha:
        lost.add("transparency is dropped, since the first image has none.")
        pixels = pixels[..., :3]
    return np.ascontiguousarray(pixels), lost
