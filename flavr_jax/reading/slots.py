# SPDX-License-Identifier: Apache-2.0
"""Frames in memory that two processes share, and descriptions of clips as JSON."""

from __future__ import annotations

import base64
import dataclasses
import functools
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.plane import VideoPlane
from jaxtyping import UInt8

from flavr_jax.video.frames import ClipInfo, Origin, TimedFrame
from flavr_jax.video.pixels.colour import Colour, conversion, picture
from flavr_jax.video.pixels.hdr import StaticHDR
from flavr_jax.video.pixels.layout import Layout
from flavr_jax.video.pixels.picture import Planar

__all__ = ["SLOTS", "as_json", "info_of", "put", "size_of", "size_of_slot", "timed"]

SLOTS = 16
"""Frames that fit into the shared memory; 12 are decoded before the link of the first is known."""

_RATIONALS = ("rate", "time_base", "pixel_aspect")


def size_of(pixel_format: str, width: int, height: int) -> int:
    """Return the bytes of a frame's planes."""
    return sum(rows * length for rows, length in _shapes(pixel_format, width, height))


def size_of_slot(info: ClipInfo) -> int:
    """Return the bytes that any frame of a clip takes, since chroma may change within a clip.

    The system finds memory only for the part that is used.
    """
    depth = Layout.of(info.pixel_format).pixel_bits // 8
    return max(
        size_of(info.pixel_format, info.width, info.height), 4 * depth * info.width * info.height
    )


def put(
    slot: UInt8[np.ndarray, " bytes"], frame: av.VideoFrame
) -> UInt8[np.ndarray, " used_bytes"]:
    """Copy a frame's planes into a part of the shared memory; return the bytes that they take."""
    shapes, used = _shapes(frame.format.name, frame.width, frame.height), 0
    for (rows, length), plane in zip(shapes, frame.planes, strict=True):
        room = slot[used : used + rows * length].reshape(rows, length)
        # A decoder may pad rows by more than a new frame has.
        source = _rows(plane)
        common = min(length, source.shape[1])
        room[:, :common] = source[:, :common]
        used += rows * length
    return slot[:used]


def timed(
    memory: UInt8[np.ndarray, " bytes"],
    pixel_format: str,
    info: ClipInfo,
    times: tuple[Fraction, Fraction],
    origin: Origin,
) -> TimedFrame:
    """Return a frame whose planes are in ``memory``, which stays as it is.

    Args:
        memory: what :func:`put` has written.
        pixel_format: of the frame.
        info: properties of the clip.
        times: pts and duration.
        origin: stored with the original picture.
    """
    layout = Layout.of(pixel_format)
    original = functools.partial(_original, memory, pixel_format, info, origin)
    if not _is_planar(pixel_format):
        frame = original()
        return TimedFrame(picture(frame, info.colour), *times, frame)
    samples = memory if layout.bits <= 8 else memory.view("<u2")
    how = conversion(layout.planar, info.colour, info.height)
    return TimedFrame(Planar(samples, how, (info.height, info.width)), *times, original)


def _original(
    memory: np.ndarray, pixel_format: str, info: ClipInfo, origin: Origin
) -> av.VideoFrame:
    """Return a frame with planes copied out of ``memory``."""
    frame, offset = av.VideoFrame(info.width, info.height, pixel_format), 0
    shapes = _shapes(pixel_format, info.width, info.height)
    for (rows, length), plane in zip(shapes, frame.planes, strict=True):
        _rows(plane)[:, :length] = memory[offset : offset + rows * length].reshape(rows, length)
        offset += rows * length
    frame.opaque = origin
    return frame


def _is_planar(pixel_format: str) -> bool:
    """Return whether the planes hold the samples of a ``Planar`` picture, in its order."""
    return pixel_format.replace("yuvj", "yuv") == Layout.of(pixel_format).planar


@functools.lru_cache(maxsize=16)
def _shapes(pixel_format: str, width: int, height: int) -> tuple[tuple[int, int], ...]:
    """Return the number of rows of each plane and their bytes, which have no padding if planar."""
    planes = av.VideoFrame(width, height, pixel_format).planes
    if not _is_planar(pixel_format):
        return tuple((plane.height, plane.line_size) for plane in planes)
    itemsize = 1 if Layout.of(pixel_format).bits <= 8 else 2
    return tuple((plane.height, plane.width * itemsize) for plane in planes)


def _rows(plane: VideoPlane) -> UInt8[np.ndarray, "rows bytes"]:
    """Return a writable view of a plane's rows, with their padding."""
    flat = np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size]
    return flat.reshape(plane.height, plane.line_size)


def as_json(info: ClipInfo) -> dict[str, Any]:
    """Return a clip's properties in plain values."""
    values = dataclasses.asdict(info)
    values |= {name: str(values[name]) for name in _RATIONALS}
    if info.profile is not None:
        values["profile"] = base64.b64encode(info.profile).decode()
    return values


def info_of(values: dict[str, Any]) -> ClipInfo:
    """Return the properties that ``as_json`` described.

    Raises:
        ValueError: they are no such properties.
    """
    try:
        matrix, hdr, profile = (values[name] for name in ("display_matrix", "hdr", "profile"))
        colour = {name: int(value) for name, value in values["colour"].items()}
        info = ClipInfo(
            int(values["width"]),
            int(values["height"]),
            Fraction(values["rate"]),
            Fraction(values["time_base"]),
            pixel_aspect=Fraction(values["pixel_aspect"]),
            frame_count=_whole(values["frame_count"]),
            colour=Colour(**{**colour, "headroom": bool(colour["headroom"])}),
            pixel_format=str(values["pixel_format"]),
            display_matrix=None if matrix is None else tuple(map(int, matrix)),
            hdr=None if hdr is None else _hdr(hdr),
            profile=None if profile is None else base64.b64decode(profile, validate=True),
            image_kind=None if values["image_kind"] is None else str(values["image_kind"]),
            plays=_whole(values["plays"]),
        )
        av.VideoFormat(info.pixel_format, info.width, info.height)
    except (KeyError, TypeError, ArithmeticError, AttributeError, ValueError) as error:
        raise ValueError(f"the description of the clip is broken ({error!r})") from error
    sane = min(info.width, info.height, info.rate, info.time_base, info.pixel_aspect) > 0
    if not sane or (info.display_matrix is not None and len(info.display_matrix) != 9):
        raise ValueError("the description of the clip is broken (a number is out of range)")
    return info


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _hdr(values: dict[str, Any]) -> StaticHDR:
    mastering, light = values["mastering"], values["light"]
    return StaticHDR(
        None if mastering is None else tuple(map(float, mastering)),
        None if light is None else (int(light[0]), int(light[1])),
    )
