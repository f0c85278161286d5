# SPDX-License-Identifier: Apache-2.0
"""Make, model, place and date in the tags of phones, which FFmpeg writes only on request.

Phones use names such as ``com.apple.quicktime.make``. FFmpeg's muxer for MP4 and MOV leaves out
all names that it does not know, unless told to write the newer kind of metadata, which allows any
name. It then writes ``creation_time`` twice, and readers that join the two get no valid date.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

from flavr_jax.video.files.reader import open_input

__all__ = ["has_phone_tags", "in_file", "lasting", "left_out", "rename_second_date"]

_PREFIXES = ("com.apple.", "com.android.")
_TIME, _DATE = b"creation_time", b"creation_date"  # equally long: one can overwrite the other


def has_phone_tags(metadata: Mapping[str, str]) -> bool:
    """Return whether a file's metadata has tag names that only phones write."""
    return any(key.lower().startswith(_PREFIXES) for key in metadata)


def in_file(path: Path) -> bool:
    """Return whether a media file has such tags."""
    with open_input(path) as container:
        return has_phone_tags(container.metadata)


def lasting(metadata: dict[str, str]) -> dict[str, str]:
    """Return metadata with a single date, where a phone's file has it twice.

    FFmpeg reads the date in the movie's header and a tag of the same name as one text, joined by a
    semicolon. It cannot write that text as a date again.
    """
    if not has_phone_tags(metadata):
        return metadata
    once = {key: value for key, value in metadata.items() if key != _DATE.decode()}
    if _TIME.decode() in once:
        once[_TIME.decode()] = once[_TIME.decode()].split(";")[0]
    return once


def left_out(metadata: Mapping[str, str], muxer: str) -> list[str]:
    """Return short names of the phone tags, place and date that a container cannot hold."""
    if muxer in ("mp4", "mov", "matroska", "webm") or not has_phone_tags(metadata):
        return []
    names = [
        key.lower().removeprefix("com.apple.quicktime.")
        for key in metadata
        if has_phone_tags({key: ""}) or key in ("creation_time", "location")
    ]
    return sorted(names)


def rename_second_date(path: Path) -> None:
    """Rename ``creation_time`` to ``creation_date`` in the list of tag names of an MP4 or MOV file.

    Players look for the date in the movie's header, which has it too.
    """
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        # An entry in the list of names (box `keys`): its size in 4 bytes, a namespace, the name.
        entry = (len(_TIME) + 8).to_bytes(4, "big") + b"mdta" + _TIME
        header = content.find(b"moov")
        found = content.find(entry, header) if header >= 0 else -1
        keys = content.rfind(b"keys", header, found) if found >= 0 else -1
        # The match must lie inside that box: other data, such as a cover, may have equal bytes.
        if keys >= 0 and found < keys + int.from_bytes(content[keys - 4 : keys], "big"):
            content[found + 8 : found + len(entry)] = _DATE
