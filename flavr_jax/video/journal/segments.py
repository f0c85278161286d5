# SPDX-License-Identifier: Apache-2.0
"""Encoded packets of one segment in a file, and decoding times that run on between segments.

A segment is a ZIP file with a member for each packet and one for their times; its checksums show
whether it is whole. Media containers would round times or rewrite the packets of some codecs.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

from av.packet import Packet

from flavr_jax.video.files.times import as_fraction

__all__ = ["Continuation", "SegmentWriter", "read_segment", "sync"]

_INDEX = "index.json"
_Row: TypeAlias = tuple[int | None, int | None, int, bool]  # pts, dts, duration, is it a key frame?


class SegmentWriter:
    """Writes packets to a temporary file, which gets its name when it is complete and on disk."""

    def __init__(self, path: Path, partial: Path | None = None) -> None:
        self._path = path
        self._partial = partial or path.with_suffix(".unfinished")
        self._file = zipfile.ZipFile(self._partial, "w")
        self._rows: list[_Row] = []

    def add(self, packet: Packet) -> Packet:
        """Append a packet, and return it as ``read_segment`` will."""
        row = packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe
        with self._named():
            self._file.writestr(str(len(self._rows)), bytes(packet))
        self._rows.append(row)
        # PyAV cannot set a packet's other flags and side data, so no packet keeps them.
        return _packet(bytes(packet), row, as_fraction(packet.time_base))

    def finish(self) -> None:
        """Complete the file, wait until the disk has it, and give it its name."""
        with self._named():
            self._file.writestr(_INDEX, json.dumps(self._rows))
            self._file.close()
            sync(self._partial)
        self._partial.replace(self._path)
        # Until the folder is on disk, too, a power failure could take the new name back.
        sync(self._path.parent)

    def discard(self) -> None:
        """Remove the file, unless it is complete."""
        # ZipFile.close() would write a directory, for which a full disk has no room.
        with contextlib.suppress(OSError):
            if self._file.fp is not None:
                self._file.fp.close()
        self._file.fp = None
        self._partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Add the file's name to errors of the disk."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._partial)) from error


def read_segment(path: Path, time_base: Fraction) -> Iterator[Packet]:
    """Yield the packets of a complete segment.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as file:
            rows = json.loads(file.read(_INDEX))
            for number, row in enumerate(rows):
                yield _packet(file.read(str(number)), tuple(row), time_base)
    except (zipfile.BadZipFile, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Delete it; the same command makes it again."
        ) from error


def _packet(data: bytes, row: _Row, time_base: Fraction | None) -> Packet:
    packet = Packet(data)
    packet.pts, packet.dts, packet.duration, packet.is_keyframe = row
    if time_base is not None:
        packet.time_base = time_base
    return packet


class Continuation:
    """Gives packets decoding times that run on between segments.

    An encoder that reorders frames starts decoding earlier than showing. It assumes a regular rate
    before its first frame, so at a variable rate these times may overlap the segment before. The
    first packets of a segment are therefore decoded at the times at which the last frames before it
    are shown, which is what one encoder for all frames would do.
    """

    def __init__(self) -> None:
        self._before: list[int] = []  # when the frames of the segment before are shown
        self._shown: list[int] = []
        self._early: list[Packet] = []

    def add(self, packet: Packet) -> list[Packet]:
        """Return the packets that are ready when an encoder returns this one."""
        self._shown.append(packet.pts or 0)
        if self._before and packet.dts is not None and packet.dts < self._shown[0]:
            self._early.append(packet)  # how many there are is known at the first that is not early
            return []
        return [*self._moved(), packet]

    def end(self) -> list[Packet]:
        """Return the packets that are left at the end of a segment."""
        left = self._moved()
        self._before, self._shown = sorted(self._shown), []
        return left

    def _moved(self) -> list[Packet]:
        early, self._early = self._early, []
        for packet, time in zip(early, self._before[len(self._before) - len(early) :]):
            packet.dts = time
        return early


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
