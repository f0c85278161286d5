# SPDX-License-Identifier: Apache-2.0
"""A folder beside an output that holds its finished segments until the output is complete."""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.packet import Packet

from flavr_jax.partial import MARK, is_partial, locked, name_beside, written_whole
from flavr_jax.video.journal.job import Job
from flavr_jax.video.journal.segments import SegmentWriter, read_segment, sync

__all__ = ["Journal", "Part"]

logger = logging.getLogger(__name__)
_JOB = "job.json"


class Journal:
    """Finished segments of an output; one run at a time has it open.

    Attributes:
        folder: where they are.
        job: what they belong to.
        finished: number of finished segments.
        claimed: name under which an earlier run was writing the output; None if it is not there.
    """

    def __init__(self, target: Path, job: Job) -> None:
        """Open the journal of a job, or begin it.

        Args:
            target: the output.
            job: what it depends on.

        Raises:
            OSError: another run has it open, or the folder cannot be written.
        """
        self.job, self._target = job, target
        self.folder = target.with_name(name_beside(target, MARK + job.key))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{target} cannot be written: {error.strerror}.") from error
        self._lock = locked(self.folder)
        if self._lock is None:
            raise OSError(
                f"{target} is being written by another run of the same job. Wait for it, or use "
                "another --output."
            )
        if not job.resume:
            self.forget()
        # Left by a run that was killed: the lock shows that none is writing them now.
        for entry in self.folder.glob("*.unfinished"):
            entry.unlink()
        self.finished = self._contiguous()
        previous = _described(self.folder)
        left = Path(previous["partial"]) if "partial" in previous else None
        self.claimed = left if left is not None and left.exists() else None
        for other in self._others():
            logger.warning(
                "%s holds unfinished work for %s with other options or another input; it is "
                "removed when this run is complete.", other, target,
            )  # fmt: skip

    @property
    def frames(self) -> int:
        """Number of finished frames."""
        # As the next run will count them: a thread may have finished a segment this moment.
        return self._contiguous() * self.job.segment

    def claim(self, partial: Path) -> None:
        """Note the name under which the output is being written, to clean it up after a crash."""
        if self.claimed is not None and self.claimed != partial:
            _remove_partial(self.claimed, self._target)
        self.claimed = partial
        names = {"target": self._target.name, "partial": str(partial)}
        description = {**names, "facts": dict(self.job.facts)}
        with written_whole(self.folder / _JOB) as path:
            path.write_text(json.dumps(description, indent=1))

    def forget(self) -> None:
        """Remove all finished segments."""
        for entry in self.folder.glob("*.segment"):
            entry.unlink()
        self.finished = 0

    def begin(self) -> SegmentWriter:
        """Return the writer of the next segment; add 1 to ``finished`` when it is complete."""
        return SegmentWriter(self._path(self.finished))

    def mark(self) -> None:
        """Note a finished segment whose frames are kept elsewhere."""
        # Empty: the frames are in the folder that `claim` named.
        self._path(self.finished).touch()
        sync(self.folder)
        self.finished += 1

    def missing(self, count: int) -> list[int]:
        """Return which of the first ``count`` segments are not finished."""
        return [number for number in range(count) if not self._path(number).exists()]

    def packets(self, time_base: Fraction) -> Iterator[list[Packet]]:
        """Yield the packets of each finished segment.

        Raises:
            ValueError: a file is damaged.
        """
        for number in range(self.finished):
            yield list(read_segment(self._path(number), time_base))

    def close(self, *, complete: bool) -> None:
        """Release the journal; remove it if the output is complete or no segment is finished."""
        if self._lock is None:
            return
        if complete:
            for other in self._others():
                _discard(other, self._target)
        # Removed before the lock is released, so that no other run can open it meanwhile.
        if complete or not any(self.folder.glob("*.segment")):
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = None

    def _path(self, number: int) -> Path:
        return _path_of(self.folder, number)

    def _contiguous(self) -> int:
        number = 0
        while self._path(number).exists():
            number += 1
        return number

    def _others(self) -> list[Path]:
        """Return journals of the same output for other jobs."""
        start = self.folder.name.removesuffix(self.job.key)  # keys have the same length
        return [
            entry
            for entry in self._target.parent.iterdir()
            if entry.name.startswith(start) and entry.is_dir() and entry != self.folder
            if _described(entry).get("target") == self._target.name
        ]


class Part:
    """Consecutive segments of a journal that another process has open.

    It takes the place of a job for a ``VideoWriter`` that is only given the frames of these
    segments; the file that the writer makes is of no use.

    Attributes:
        job: what the segments belong to.
        last: whether they end with the output's last frame.
        finished: number of the next segment.
    """

    def __init__(self, folder: Path, job: Job, first: int, *, last: bool) -> None:
        """Begin at a segment.

        Args:
            folder: that of the journal.
            job: what the segments belong to.
            first: number of the first segment.
            last: whether they end with the output's last frame.
        """
        self.job, self.last, self.finished = job, last, first
        self._folder = folder

    @property
    def frames(self) -> int:
        """Number of frames before the next segment."""
        return self.finished * self.job.segment

    def begin(self) -> SegmentWriter:
        """Return the writer of the next segment; add 1 to ``finished`` when it is complete."""
        # Two workers may write one segment if the first was given up for lost too early.
        path = _path_of(self._folder, self.finished)
        return SegmentWriter(path, path.with_suffix(f".{uuid.uuid4().hex[:8]}.unfinished"))

    def packets(self, time_base: Fraction) -> Iterator[list[Packet]]:
        """Yield nothing: packets of other segments are not needed here."""
        yield from ()


def _path_of(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.segment"


def _described(folder: Path) -> dict[str, Any]:
    """Return the description of the job in a journal; empty if the folder is no journal."""
    try:
        found = json.loads((folder / _JOB).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _discard(folder: Path, target: Path) -> None:
    """Remove a journal and the partial output that it names, unless another run has it open."""
    lock = locked(folder)
    if lock is None:
        return
    partial = _described(folder).get("partial")
    if partial:
        _remove_partial(Path(partial), target)
    shutil.rmtree(folder, ignore_errors=True)
    if lock >= 0:
        os.close(lock)


def _remove_partial(partial: Path, target: Path) -> None:
    """Remove a partial output of a run that has ended; only if it has such a name."""
    if not is_partial(partial, target):
        return
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)
