# SPDX-License-Identifier: Apache-2.0
"""Frames in memory that two processes share, and descriptions of clips as JSON."""

from __future__ import annotations

import base64
import dataclasses
import mmap
from fractions import Fraction
from typing import Any

import av
import numpy as np

from flavr_jax.video.frames import ClipInfo
from flavr_jax.video.pixels.colour import Colour
from flavr_jax.video.pixels.hdr import StaticHDR

__all__ = ["SLOTS", "as_json", "info_of", "put", "size_of", "taken"]

SLOTS = 4
"""Frames that fit into the shared memory."""

_RATIONALS = ("rate", "time_base", "pixel_aspect")


def size_of(pixel_format: str, width: int, height: int) -> int:
    """Return the bytes of a frame's planes, padded as FFmpeg pads them."""
    frame = av.VideoFrame(width, height, pixel_format)
    return sum(plane.line_size * plane.height for plane in frame.planes)


def put(memory: mmap.mmap, offset: int, frame: av.VideoFrame) -> None:
    """Copy a frame's planes into shared memory."""
    shape = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for target, source in zip(shape.planes, frame.planes):
        rows = np.frombuffer(memoryview(source), np.uint8)[: source.height * source.line_size]
        rows = rows.reshape(source.height, source.line_size)
        # A decoder may pad rows by more than a new frame has.
        common = min(target.line_size, source.line_size)
        room = np.frombuffer(memory, np.uint8, target.height * target.line_size, offset)
        room.reshape(target.height, target.line_size)[:, :common] = rows[:, :common]
        offset += target.height * target.line_size


def taken(
    memory: mmap.mmap, offset: int, pixel_format: str, width: int, height: int
) -> av.VideoFrame:
    """Return a frame with planes copied out of shared memory."""
    frame = av.VideoFrame(width, height, pixel_format)
    for plane in frame.planes:
        size = plane.line_size * plane.height
        np.frombuffer(memoryview(plane), np.uint8)[:size] = np.frombuffer(
            memory, np.uint8, size, offset
        )
        offset += size
    return frame


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
