# SPDX-License-Identifier: Apache-2.0
"""A clip beside its interpolated version, in step, and a sheet of an output's frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flavr_jax.partial import written_whole
from flavr_jax.typing import Frame
from flavr_jax.video.frames import ClipInfo, FrameSource, TimedFrame
from flavr_jax.video.pixels.orientation import turned, upright_info
from flavr_jax.video.stills.image_files import eight_bits
from flavr_jax.video.stills.images import displayed, displayed_info, is_linear

__all__ = ["beside", "beside_info", "shrunk", "shrunk_info", "write_sheet"]

_COLUMNS, _CELL, _LINE = 4, 320, 18  # cells in a row; pixels of their width and of a line of text


def beside_info(info: ClipInfo) -> ClipInfo:
    """Return the properties of a clip of pairs: upright, twice as wide, and no linear light."""
    info = upright_info(displayed_info(info) if is_linear(info) else info)
    return dataclasses.replace(info, width=2 * info.width)


def shrunk_info(info: ClipInfo, by: int) -> ClipInfo:
    """Return the properties of the frames of :func:`shrunk`."""
    height = max(info.height // by, 1)
    width = 2 * max(info.width // 2 // by, 1)
    return dataclasses.replace(
        info, width=width, height=height + height % 2, pixel_format="yuv420p"
    )


def shrunk(pairs: Iterable[TimedFrame], by: int) -> Iterator[TimedFrame]:
    """Yield pairs as browsers can show them: 8 bits, an even height, and ``by`` times smaller.

    A pixel is the mean of ``by`` × ``by`` pixels. The edge is repeated for an even height; rows and
    columns that fill no block are left out.
    """
    for pair in pairs:
        pixels = pair.pixels[..., :3]
        # Each side is shrunk by itself, so that none of its pixels come from the other.
        sides = [_means(side, by) for side in np.split(pixels, 2, axis=1)]
        small = np.concatenate(sides, axis=1)
        small = np.pad(small, ((0, small.shape[0] % 2), (0, 0), (0, 0)), "edge")
        yield dataclasses.replace(pair, picture=small)


def _means(pixels: np.ndarray, by: int) -> np.ndarray:
    """Return the means of blocks of a picture [height, width, 3], as 8 bits."""
    deep = pixels.dtype == np.uint16
    if by == 1 and not deep:
        return pixels
    height, width = (max(length // by, 1) for length in pixels.shape[:2])
    blocks = pixels[: height * by, : width * by]
    blocks = blocks.reshape(height, blocks.shape[0] // height, width, -1, pixels.shape[-1])
    means = blocks.mean(axis=(1, 3), dtype=np.float32)
    # 65535 / 255 = 257
    return np.rint(means / 257 if deep else means).astype(np.uint8)


def beside(
    source: FrameSource, output: FrameSource, *, stretch: Fraction = Fraction(1)
) -> Iterator[TimedFrame]:
    """Yield each frame of an output to the right of the original that is shown at its time.

    Args:
        source: the original clip.
        output: the interpolated clip, of the same size.
        stretch: duration of the output divided by that of the source.
    """
    matrices = source.info.display_matrix, output.info.display_matrix
    originals = _displayed(source)
    shown = next(originals, None)
    following = next(originals, None)
    for frame in _displayed(output):
        while following is not None and following.pts * stretch <= frame.pts:
            shown, following = following, next(originals, None)
        if shown is not None:
            both = _like(shown.pixels, frame.pixels), frame.pixels
            sides = [
                side if matrix is None else turned(matrix, side)
                for matrix, side in zip(matrices, both)
            ]
            yield TimedFrame(np.concatenate(sides, axis=1), frame.pts, frame.duration)


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
        for number, frame in enumerate(_displayed(output))
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


def _displayed(source: FrameSource) -> Iterator[TimedFrame]:
    """Return a clip's frames; those of linear light as sRGB."""
    return map(displayed, source) if is_linear(source.info) else iter(source)


def _like(original: Frame, made: Frame) -> Frame:
    """Return an original with the depth and the channels of another frame."""
    if original.dtype != made.dtype:
        wide = made.dtype == np.uint16
        # By 257, 255 becomes 65535.
        original = original.astype(np.uint16) * 257 if wide else (original >> 8).astype(np.uint8)
    if original.shape[-1] < made.shape[-1]:
        opaque = np.full((*original.shape[:2], 1), np.iinfo(made.dtype).max, made.dtype)
        return np.concatenate([original, opaque], axis=-1)
    return original[..., : made.shape[-1]].astype(made.dtype, copy=False)
