# SPDX-License-Identifier: Apache-2.0
"""A clip beside its interpolated version, in step, and a sheet of an output's frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flavr_jax.partial import written_whole
from flavr_jax.typing import Frame
from flavr_jax.video.frames import ClipInfo, FrameSource, TimedFrame
from flavr_jax.video.stills.image_files import eight_bits

__all__ = ["beside", "beside_info", "write_sheet"]

_COLUMNS, _CELL, _LINE = 4, 320, 18  # cells in a row; pixels of their width and of a line of text


def beside_info(info: ClipInfo) -> ClipInfo:
    """Return the properties of a clip of pairs, twice as wide."""
    return dataclasses.replace(info, width=2 * info.width)


def beside(
    source: FrameSource, output: FrameSource, *, stretch: Fraction = Fraction(1)
) -> Iterator[TimedFrame]:
    """Yield each frame of an output to the right of the original that is shown at its time.

    Args:
        source: the original clip.
        output: the interpolated clip, of the same size.
        stretch: duration of the output divided by that of the source.
    """
    originals = iter(source)
    shown = next(originals, None)
    following = next(originals, None)
    for frame in output:
        while following is not None and following.pts * stretch <= frame.pts:
            shown, following = following, next(originals, None)
        if shown is not None:
            pair = np.concatenate([_like(shown.pixels, frame.pixels), frame.pixels], axis=1)
            yield TimedFrame(pair, frame.pts, frame.duration)


def write_sheet(path: Path, output: FrameSource, *, count: int = 16) -> None:
    """Write an image with frames of a clip, spread evenly, each with its time.

    Args:
        path: the image; it appears when it is complete.
        output: the clip.
        count: number of frames.

    Raises:
        OSError: the image cannot be written.
    """
    total = sum(1 for _ in output)
    wanted = {round(n * max(total - 1, 0) / max(count - 1, 1)) for n in range(count)}
    cells = [
        (
            frame.pts,
            eight_bits(frame.pixels[..., :3]) if frame.pixels.itemsize > 1 else frame.pixels,
        )
        for number, frame in enumerate(output)
        if number in wanted
    ]
    height = round(_CELL * output.info.height / output.info.width) + _LINE
    rows = -(-len(cells) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _CELL, max(rows, 1) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (pts, pixels) in enumerate(cells):
        left, top = number % _COLUMNS * _CELL, number // _COLUMNS * height
        picture = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        sheet.paste(picture.resize((_CELL - 4, height - _LINE)), (left, top + _LINE))
        draw.text((left + 3, top + 1), f"{float(pts):.3f} s", "black", font)
    with written_whole(path) as partial:
        sheet.save(partial, "PNG")


def _like(original: Frame, made: Frame) -> Frame:
    """Return an original with the depth and the channels of another frame."""
    if original.dtype != made.dtype:
        wide = made.dtype == np.uint16
        original = original.astype(np.uint16) * 257 if wide else (original >> 8).astype(np.uint8)
    if original.shape[-1] < made.shape[-1]:
        opaque = np.full((*original.shape[:2], 1), np.iinfo(made.dtype).max, made.dtype)
        return np.concatenate([original, opaque], axis=-1)
    return original[..., : made.shape[-1]].astype(made.dtype, copy=False)
