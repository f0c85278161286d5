# SPDX-License-Identifier: Apache-2.0
"""Pictures that are stored rotated or mirrored, as phones do.

If the output can hold a display matrix, pictures stay as stored. Otherwise whole planes are turned
upright, which keeps the stored values.
"""

from __future__ import annotations

import dataclasses
import struct

import av
import numpy as np

from flavr_jax.video.frames import ClipInfo, Origin, TimedFrame
from flavr_jax.video.pixels.colour import samples
from flavr_jax.video.pixels.layout import Layout

__all__ = ["display_matrix", "inverse", "turned", "upright", "upright_info"]

_MATRIX = struct.Struct("=9i")
# FFmpeg stores the matrix elements a, b, c, d as 16.16 fixed point and w as 2.30.
_UNTURNED = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
# FFmpeg's chroma locations with rows and columns swapped: left becomes top.
_SWAPPED_SITING = {1: 4, 4: 1}


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Return a decoded frame's display matrix, nine integers; None if it is shown as stored."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 refuses frames with side data that it has no name for
        return None
    matrix = _MATRIX.unpack_from(bytes(data)) if data else None
    return None if matrix == _UNTURNED else matrix


def upright_info(info: ClipInfo) -> ClipInfo:
    """Return the properties of a clip after its pictures have been turned upright."""
    matrix = info.display_matrix
    if matrix is None or matrix[0]:
        return dataclasses.replace(info, display_matrix=None)
    # A quarter turn exchanges rows and columns, for chroma samples and for pixel shapes as well.
    siting = _SWAPPED_SITING.get(info.colour.siting, info.colour.siting)
    # Chroma without a tag counts as left, which becomes top (4).
    return dataclasses.replace(
        info,
        width=info.height,
        height=info.width,
        pixel_aspect=1 / info.pixel_aspect,
        colour=dataclasses.replace(info.colour, siting=siting or 4),
        pixel_format=_turned_format(info.pixel_format),
        display_matrix=None,
    )


def upright(matrix: tuple[int, ...], frame: TimedFrame) -> TimedFrame:
    """Turn a frame as it is shown; angles other than quarter turns are ignored."""
    original = frame.original
    return dataclasses.replace(
        frame,
        picture=np.ascontiguousarray(turned(matrix, frame.pixels)),
        stored=original and _turned_planes(matrix, original),
    )


def inverse(matrix: tuple[int, ...]) -> tuple[int, ...]:
    """Return the display matrix that undoes quarter turns and mirroring."""
    a, b, _, c, d, *rest = matrix
    return (a, c, 0, b, d, *rest)


def turned(matrix: tuple[int, ...], pixels: np.ndarray) -> np.ndarray:
    """Return a picture [height, width, …] as it is shown.

    The matrix takes a point (x, y) to (a·x + c·y, b·x + d·y).
    """
    a, b, _, c, d = matrix[:5]
    if a == 0 and d == 0:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _turned_planes(matrix: tuple[int, ...], frame: av.VideoFrame) -> av.VideoFrame | None:
    """Return a picture with its planes turned; None for packed formats, which have no planes."""
    layout = Layout.of(frame.format.name)
    if frame.format.name.replace("yuvj", "yuv") != layout.planar:
        return None
    swapped = matrix[0] == 0
    size = (frame.height, frame.width) if swapped else (frame.width, frame.height)
    result = av.VideoFrame(*size, _turned_format(layout.planar) if swapped else layout.planar)
    for target, source in zip(result.planes, frame.planes, strict=True):
        samples(target, layout)[:] = turned(matrix, samples(source, layout))
    if isinstance(frame.opaque, Origin):
        # Without its path, or the sink would copy the source's file, which is not upright.
        result.opaque = Origin(frame.opaque.index)
    return result


def _turned_format(pixel_format: str) -> str:
    """Return the pixel format after a quarter turn: chroma is subsampled along the other axis."""
    layout = Layout.of(pixel_format)
    if layout.chroma[0] == layout.chroma[1]:
        return pixel_format
    return dataclasses.replace(layout, chroma=layout.chroma[::-1]).planar
