# SPDX-License-Identifier: Apache-2.0
"""A video file as a clip: any frame by its number, exactly.

Containers find a moment, not a number. So the times of all frames are listed first, from packets
alone; a frame is then decoded from the key frame before it until its time comes up. Reading in
order decodes each frame once, and the last frames read are kept, for windows overlap.
"""

from __future__ import annotations

import bisect
import collections
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from flavr_jax.data.sequences import Picture, encode

__all__ = ["SUFFIXES", "VideoClip"]

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg")
_KEPT_BYTES = 256 << 20
_OPEN_CLIPS = 4  # that may keep a decoder and frames: a folder may have thousands
_SKIP = 48  # so many frames further on, decoding on is as quick as looking for a key frame


class VideoClip:
    """Frames ``start`` to ``stop`` of a video file; threads take turns at it."""

    def __init__(self, name: str, path: Path, start: int = 0, stop: int | None = None) -> None:
        """List the frames of the file, or of a part of it.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a video, or has no frames.
        """
        self.name, self.path = name, path
        self._times = _frame_times(path)
        self._start, self._stop = start, len(self._times) if stop is None else stop
        self._reset()

    def __len__(self) -> int:
        return self._stop - self._start

    def shot(self, name: str, start: int, stop: int) -> VideoClip:
        """A part of this clip; frame ``start`` of this one is its first."""
        return VideoClip(name, self.path, self._start + start, self._start + stop)

    def read(self, index: int) -> Picture:
        """One frame, decoded.

        Raises:
            IndexError: the clip has no such frame.
            ValueError: it does not decode.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} frames, not {index + 1}.")
        with self._lock:
            _note_use(self)
            return self._read(self._start + index)

    def close(self) -> None:
        """Let go of decoder and frames, unless a thread is reading; reading on opens them again."""
        if self._lock.acquire(blocking=False):
            self._decoder = None
            self._kept.clear()
            self._lock.release()

    def encoded(self, index: int) -> bytes:
        """One frame as a PNG file."""
        return encode(self.read(index), "png")

    def __getstate__(self) -> dict[str, Any]:
        """Without the open decoder, so that a clip can be sent to another process."""
        return {"name": self.name, "path": self.path, "range": (self._start, self._stop)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["name"], state["path"], *state["range"])

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._decoder: Iterator[tuple[int, Picture]] | None = None
        self._next = 0
        self._kept: collections.OrderedDict[int, Picture] = collections.OrderedDict()

    def _read(self, number: int) -> Picture:
        if number in self._kept:
            return self._kept[number]
        if self._decoder is None or not self._next <= number < self._next + _SKIP:
            self._decoder = _decode_from(self.path, self._times, number)
        for at, frame in self._decoder:
            self._next = at + 1
            self._kept[at] = frame
            if len(self._kept) * frame.nbytes > _KEPT_BYTES:
                self._kept.popitem(last=False)
            if at >= number:
                break
        if number not in self._kept:
            self._decoder = None
            raise ValueError(f"{self.path}: frame {number} does not decode; the file is damaged.")
        return self._kept[number]


_open: collections.OrderedDict[VideoClip, None] = collections.OrderedDict()
_open_lock = threading.Lock()


def _note_use(clip: VideoClip) -> None:
    """Close the clip that was not read for longest, if too many are open."""
    with _open_lock:
        _open[clip] = None
        _open.move_to_end(clip)
        longest_unused = _open.popitem(last=False)[0] if len(_open) > _OPEN_CLIPS else None
    if longest_unused is not None:
        longest_unused.close()


@functools.lru_cache(maxsize=1024)
def _frame_times(path: Path) -> tuple[int, ...]:
    """When each frame is shown, in ticks, in order."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video.")
            packets = [p for p in container.demux(video=0) if p.size > 0]
    except FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path} is not a video that can be read ({error.strerror}).") from error
    times = [packet.pts for packet in packets]
    if not times or None in times:
        raise ValueError(f"{path} does not say when its frames are shown; convert it to MP4.")
    return tuple(sorted(time for time in times if time is not None))


def _decode_from(
    path: Path, times: tuple[int, ...], number: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers and pixels of the frames from a key frame at or before ``number`` on."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if number > 0:
            container.seek(times[number], stream=stream, backward=True)
        at = -1
        for frame in container.decode(stream):
            # Frames that are shown at the same moment are numbered in the order they come.
            at = max(at + 1, bisect.bisect_left(times, frame.pts or 0))
            yield at, frame.to_ndarray(format="rgb24")
