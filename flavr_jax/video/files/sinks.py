# SPDX-License-Identifier: Apache-2.0
"""Chooses the sink for an output by its name, and adapts the frames to it."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import TracebackType

from flavr_jax.video.excerpt import Span
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.formats import container_of, encoder_for
from flavr_jax.video.files.names import NULL
from flavr_jax.video.files.plan import Plan
from flavr_jax.video.files.writer import VideoWriter
from flavr_jax.video.frames import ClipInfo, FrameSink, MappedSink, TimedFrame
from flavr_jax.video.journal.job import Job
from flavr_jax.video.journal.journal import Part
from flavr_jax.video.pixels.colour import conversion
from flavr_jax.video.pixels.conversion import Conversion
from flavr_jax.video.pixels.layout import Layout
from flavr_jax.video.pixels.orientation import upright, upright_info
from flavr_jax.video.stills.animations import GifWriter
from flavr_jax.video.stills.images import (
    ImageFolderWriter,
    displayed,
    displayed_info,
    is_linear,
    kind_of_output,
    without_headroom,
)
from flavr_jax.video.stills.tags import is_srgb

__all__ = ["NullSink", "is_splittable", "is_video_name", "open_sink"]

logger = logging.getLogger(__name__)


class NullSink:
    """Takes frames, converted to the source's pixel format, and drops them.

    A run with this sink takes as long as everything but encoding does.

    Attributes:
        conversion: from RGB to the planes of the source.
    """

    def __init__(self, info: ClipInfo) -> None:
        """Take frames of a clip with these properties."""
        planar = Layout.of(info.pixel_format).planar
        tags = info.colour.stored_in(planar, info.height)
        self.conversion: Conversion | None = conversion(planar, tags, info.height)

    def write(self, frame: TimedFrame) -> None:
        """Drop a frame."""

    def __enter__(self) -> NullSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


def is_video_name(name: str) -> bool:
    """Return whether an output is a video: ``-``, or a name with a suffix that is no folder."""
    if name in ("-", NULL):
        return True
    return bool(Path(name).suffix) and not name.endswith(("/", os.sep)) and not Path(name).is_dir()


def open_sink(
    name: str,
    info: ClipInfo,
    *,
    source: Path | None,
    stretch: Fraction = Fraction(1),
    span: Span | None = None,
    encoding: Encoding = Encoding(),
    overwrite: bool = False,
    job: Job | Part | None = None,
    pictures_only: bool = False,
) -> FrameSink:
    """Open a video file, a pipe, or a folder of images for writing; ``is_video_name`` tells which.

    Foreseeable errors are raised here, before any frame is computed.

    Args:
        name: of the output; a folder may be marked by a slash at the end, ``-`` is standard output,
            ``null:`` drops the frames.
        info: properties of the frames to come.
        source: the input, if any. It is never overwritten, and its sound, subtitles and other
            streams are copied if both it and the output are video files.
        stretch: duration of the output divided by that of the source.
        span: the part of the source that the frames come from; None for all of it.
        encoding: codec, quality and treatment of sound.
        overwrite: whether the output may exist.
        job: what the result depends on. Given it, finished work is kept if the run is interrupted,
            and the next run of the same job goes on after it. For a part of the segments, see
            ``VideoWriter``.
        pictures_only: whether to leave out the source's sound, subtitles and other streams.
    """
    if name == NULL:
        return NullSink(info)
    path = Path(name)
    if source is not None and name != "-":
        _check_apart(path, source)
    info, changes = _suited(name, info, encoding)
    whole = None if isinstance(job, Part) else job
    if not is_video_name(name):
        sink = ImageFolderWriter(path, info, encoding=encoding, overwrite=overwrite, job=whole)
    elif container_of(name).codecs == ("gif",):
        # Called for its error only, if --codec names one that a GIF cannot hold.
        encoder_for(name, encoding, Layout.of("bgra"))
        sink = GifWriter(path, info, overwrite=overwrite)
    else:
        copied = source is not None and source.is_file() and name != "-" and not pictures_only
        sink = VideoWriter(
            path,
            info,
            encoding=encoding,
            others=source if copied else None,
            stretch=stretch,
            span=span,
            overwrite=overwrite,
            job=job,
        )
    # The outermost sink runs first, so wrapping in reverse applies the changes in order.
    for change in reversed(changes):
        sink = MappedSink(sink, change)
    return sink


def is_splittable(name: str, info: ClipInfo, encoding: Encoding) -> bool:
    """Return whether several machines can encode segments of an output.

    Raises:
        ValueError: the container cannot hold the codec, or the encoder does not work here.
    """
    info, _ = _suited(name, info, encoding)
    if not is_video_name(name) or container_of(name).codecs == ("gif",):
        return False
    return Plan.of(name, info, encoding).splittable


def _check_apart(path: Path, source: Path) -> None:
    """Raise an error if writing ``path`` could replace the input."""
    output, read = path.resolve(), source.resolve()
    # A hard link has a path of its own, so that comparing paths is not enough.
    same_file = output.exists() and read.exists() and output.samefile(read)
    if output == read or same_file:
        raise ValueError(f"{path} is the input itself. Use another --output.")
    if output.is_dir() and read.is_relative_to(output):
        raise ValueError(f"{path} is a folder that holds the input. Use another --output.")


def _suited(
    name: str, info: ClipInfo, encoding: Encoding
) -> tuple[ClipInfo, list[Callable[[TimedFrame], TimedFrame]]]:
    """Return the clip's properties as the output can hold them, and the changes to its frames."""
    changes: list[Callable[[TimedFrame], TimedFrame]] = []
    is_video = is_video_name(name)
    if is_linear(info) and (is_video or encoding.images not in ("auto", "exr")):
        info = displayed_info(info)
        changes.append(displayed)
    images = None if is_video else kind_of_output(info, encoding)
    if info.profile is not None and images in (None, "exr"):
        if not is_srgb(info.profile):
            logger.warning(
                "%s: the images' colour profile is left out; their colours are taken for sRGB.",
                name,
            )
        info = dataclasses.replace(info, profile=None)
    # Images in the source's format keep its orientation tag, so that originals can be copied as
    # files.
    says_turned = container_of(name).rich if is_video else images == info.image_kind != "exr"
    if info.display_matrix is not None and not says_turned:
        changes.append(functools.partial(upright, info.display_matrix))
        info = upright_info(info)
    if info.colour.headroom and not is_video:
        changes.append(functools.partial(without_headroom, info.colour))
    return info, changes
