# SPDX-License-Identifier: Apache-2.0
"""A video file as a clip, with exact access to any frame by its number.

Containers can seek to a time but not to a frame number. The times of all frames are therefore read
first, from packets and without decoding. To read a frame, decoding starts at the key frame before
it and stops at its time. Reading in order decodes each frame once, and recent frames are cached
because windows overlap.
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
_CACHE_BYTES = 256 << 20  # decoded frames of one clip
# Most clips that hold a decoder and cached frames at a time: a folder may have thousands of clips.
_MAX_OPEN_CLIPS = 4
# For a frame at most this far ahead, decoding up to it is about as fast as seeking to a key frame.
_MAX_DECODE_AHEAD = 48


class VideoClip:
    """Frames ``start`` to ``stop`` − 1 of a video file; threads may share it and take turns."""

    def __init__(self, name: str, path: Path, start: int = 0, stop: int | None = None) -> None:
        """List the times of the file's frames.

        Args:
            name: name, unique within the data set.
            path: video file.
            start: number of the first frame of the clip.
            stop: number of the frame after the last one; None is the end of the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is not a video, or has no frames.
        """
        self.name, self.path = name, path
        self._times = _frame_times(path)
        self._start, self._stop = start, len(self._times) if stop is None else stop
        self._reset()

    def __len__(self) -> int:
        return self._stop - self._start

    def shot(self, name: str, start: int, stop: int) -> VideoClip:
        """Return frames ``start`` to ``stop`` − 1 of this clip as a clip."""
        return VideoClip(name, self.path, self._start + start, self._start + stop)

    def read(self, index: int) -> Picture:
        """Decode one frame.

        Raises:
            IndexError: ``index`` is negative or not below the clip's length.
            ValueError: the frame cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} frames, not {index + 1}.")
        with self._lock:
            _note_use(self)
            return self._read(self._start + index)

    def close(self) -> None:
        """Release the decoder and cached frames, unless another thread is reading.

        The next call of :meth:`read` opens the file again.
        """
        if self._lock.acquire(blocking=False):
            self._decoder = None
            self._cache.clear()
            self._lock.release()

    def encoded(self, index: int) -> bytes:
        """Encode one frame as a PNG file."""
        return encode(self.read(index), "png")

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to open the clip; a decoder cannot be pickled."""
        return {"name": self.name, "path": self.path, "range": (self._start, self._stop)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["name"], state["path"], *state["range"])

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._decoder: Iterator[tuple[int, Picture]] | None = None
        self._next = 0  # number of the frame that the decoder yields next
        self._cache: collections.OrderedDict[int, Picture] = collections.OrderedDict()

    def _read(self, number: int) -> Picture:
        """Return frame ``number`` of the file from the cache, or decode up to it."""
        if number in self._cache:
            return self._cache[number]
        if self._decoder is None or not self._next <= number < self._next + _MAX_DECODE_AHEAD:
            self._decoder = _decode_from(self.path, self._times, number)
        for at, frame in self._decoder:
            self._next = at + 1
            self._cache[at] = frame
            if len(self._cache) * frame.nbytes > _CACHE_BYTES:
                self._cache.popitem(last=False)
            if at >= number:
                break
        if number not in self._cache:
            self._decoder = None
            raise ValueError(
                f"{self.path}: frame {number} cannot be decoded; replace the damaged file."
            )
        return self._cache[number]


_open: collections.OrderedDict[VideoClip, None] = collections.OrderedDict()
_open_lock = threading.Lock()


def _note_use(clip: VideoClip) -> None:
    """Close the least recently read clip if too many are open."""
    with _open_lock:
        _open[clip] = None
        _open.move_to_end(clip)
        longest_unused = _open.popitem(last=False)[0] if len(_open) > _MAX_OPEN_CLIPS else None
    if longest_unused is not None:
        longest_unused.close()


@functools.lru_cache(maxsize=1024)
def _frame_times(path: Path) -> tuple[int, ...]:
    """Presentation times of a file's frames in ascending order, in units of the time base."""
    try:
        with av.open(f"file:{path}") as container:
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
    """Yield numbers and pixels of frames, starting at a key frame at or before ``number``."""
    with av.open(f"file:{path}") as container:
        stream = container.streams.video[0]
        if number > 0:
            container.seek(times[number], stream=stream, backward=True)
        at = -1
        for frame in container.decode(stream):
            # Frames with equal times are numbered in the order in which they are decoded.
            at = max(at + 1, bisect.bisect_left(times, frame.pts or 0))
            yield at, frame.to_ndarray(format="rgb24")
