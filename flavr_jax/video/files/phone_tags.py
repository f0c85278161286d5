# SPDX-License-Identifier: Apache-2.0
"""Make, model, place and date as phones write them, in files that hold them only if asked to.

Phones name their tags as in ``com.apple.quicktime.make``. FFmpeg's muxer of MP4 and MOV leaves out
all names that it does not know, unless told to use the newer kind of metadata, which has room for
any name. Then it also writes ``creation_time`` twice, and readers that add both up get no date.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

from flavr_jax.video.files.reader import open_input

__all__ = ["has_phone_tags", "in_file", "lasting", "left_out", "rename_second_date"]

_PREFIXES = ("com.apple.", "com.android.")
_TIME, _DATE = b"creation_time", b"creation_date"  # equally long


def has_phone_tags(metadata: Mapping[str, str]) -> bool:
    """Return whether a file's metadata has names that only phones write."""
    return any(key.lower().startswith(_PREFIXES) for key in metadata)


def in_file(path: Path) -> bool:
    """Return whether a media file has such tags."""
    with open_input(path) as container:
        return has_phone_tags(container.metadata)


def lasting(metadata: dict[str, str]) -> dict[str, str]:
    """Return metadata with one date where a phone's file has it twice.

    FFmpeg reads the date of the movie's header and a tag of that name as one text with a semicolon
    between them, which it cannot write as a date again.
    """
    if not has_phone_tags(metadata):
        return metadata
    once = {key: value for key, value in metadata.items() if key != _DATE.decode()}
    if _TIME.decode() in once:
        once[_TIME.decode()] = once[_TIME.decode()].split(";")[0]
    return once


def left_out(metadata: Mapping[str, str], muxer: str) -> list[str]:
    """Return the tags of phones, place and date that a container cannot hold, by short names."""
    if muxer in ("mp4", "mov", "matroska", "webm") or not has_phone_tags(metadata):
        return []
    names = [
        key.lower().removeprefix("com.apple.quicktime.")
        for key in metadata
        if has_phone_tags({key: ""}) or key in ("creation_time", "location")
    ]
    return sorted(names)


def rename_second_date(path: Path) -> None:
    """Name the ``creation_time`` among the named tags of an MP4 or MOV ``creation_date``.

    The movie's header has the date too, which is where players look for it.
    """
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        entry = (len(_TIME) + 8).to_bytes(4, "big") + b"mdta" + _TIME
        header = content.find(b"moov")
        found = content.find(entry, header) if header >= 0 else -1
        keys = content.rfind(b"keys", header, found) if found >= 0 else -1
        # The entry has to be in the list of names, not in a picture that looks like it.
        if keys >= 0 and found < keys + int.from_bytes(content[keys - 4 : keys], "big"):
            content[found + 8 : found + len(entry)] = _DATE
