# SPDX-License-Identifier: Apache-2.0
"""Fingerprint of everything that a result depends on; only equal jobs share a journal."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

__all__ = ["SEGMENT", "Job", "digest_of_folder", "fingerprint"]

SEGMENT = 250
"""Frames of a segment by default: the longest group of pictures that x264 and x265 make."""

_SAMPLED = 1 << 20  # bytes at either end of a file that are hashed; all of a video would take long


@dataclasses.dataclass(frozen=True)
class Job:
    """What a journal belongs to.

    Attributes:
        facts: whatever changes the result, by name, as text.
        segment: frames of a segment.
        resume: whether to go on with an existing journal; otherwise it is discarded.
    """

    facts: Mapping[str, str]
    segment: int = SEGMENT
    resume: bool = True

    def __post_init__(self) -> None:
        if self.segment < 1:
            raise ValueError(f"`segment` is {self.segment}; it is 1 or more.")

    @property
    def key(self) -> str:
        """Name of the job: equal for equal jobs."""
        text = json.dumps({**self.facts, "segment": self.segment}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def fingerprint(path: Path) -> str:
    """Return a text that changes if a file, or a file in a folder, is changed.

    It has the size, the time of the last change and a hash of both ends. Files in a folder are told
    apart by names, sizes and times.

    Raises:
        OSError: the file cannot be read.
    """
    if path.is_dir():
        entries = sorted(entry for entry in path.iterdir() if entry.is_file())
        return hashlib.sha256(repr([(e.name, _state(e)) for e in entries]).encode()).hexdigest()
    with path.open("rb") as file:
        ends = file.read(_SAMPLED)
        file.seek(max(0, path.stat().st_size - _SAMPLED))
        ends += file.read(_SAMPLED)
    return f"{_state(path)} {hashlib.sha256(ends).hexdigest()}"


def digest_of_folder(path: Path) -> str:
    """Return a hash of the names and contents of all files in a folder, at any depth."""
    digest = hashlib.sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _state(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"
