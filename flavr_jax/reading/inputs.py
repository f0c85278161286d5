# SPDX-License-Identifier: Apache-2.0
"""Choice of what to read. Nothing heavy is imported here, to keep ``--help`` quick."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flavr_jax.video.frames import FrameSource

__all__ = ["Input", "name_of"]

_LONG = 500  # frames; for less, starting a process takes longer than it saves


@dataclasses.dataclass(frozen=True)
class Input:
    """The part of a source to read, and properties that it does not state itself.

    Attributes:
        range: read only the frames from START to END, written as 00:01:00-00:02:00, 90-120.5 or
            90-; the output begins at zero, and sound and subtitles are cut too.
        input_rate: frames per second of a folder of images or of raw video, such as 25 or
            24000/1001.
        input_size: width and height of raw video, such as 1920x1080; giving it means that the input
            is raw video, without any header.
        input_pixel_format: pixel format of raw video.
        sandbox: for files from strangers, decode in a child process that is limited in memory and
            time and writes no file; only pictures are read, without sound and subtitles.
        sandbox_memory: most memory of that process in gigabytes.
    """

    range: str | None = None
    input_rate: str = "24"
    input_size: str | None = None
    input_pixel_format: str = "yuv420p"
    sandbox: bool = False
    sandbox_memory: float = 4.0

    def open(self, path: Path, *, threads: bool = False) -> FrameSource:
        """Open a source with headroom (see ``open_source``), to write a video of its frames.

        With ``threads``, several frames are decoded at a time if possible.
        """
        from flavr_jax.video.excerpt import Excerpt, Span
        from flavr_jax.video.files.reader import RawVideo, open_source
        from flavr_jax.video.frames import parse_rate

        if self.sandbox:
            from flavr_jax.reading.parent import ChildSource, Limits

            plain = dataclasses.replace(self, sandbox=False)
            return ChildSource(path, plain, Limits(self.sandbox_memory))
        rate, raw = parse_rate(self.input_rate), None
        if self.input_size is not None:
            raw = RawVideo(self.input_size, self.input_pixel_format, rate)
        source = open_source(path, rate=rate, raw=raw, headroom=True, threads=threads)
        return source if self.range is None else Excerpt(source, Span.parse(self.range))

    def in_child(self, path: Path, source: FrameSource) -> FrameSource:
        """Return a source that a child process decodes, if that pays; otherwise ``source``.

        The child starts at once, and needs about a second before its first frame.

        Args:
            path: of the source.
            source: what :meth:`open` has returned.
        """
        from flavr_jax.reading.parent import ChildSource

        count = source.info.frame_count
        short = count is not None and count < _LONG
        if self.sandbox or short or not ChildSource.works(path):
            return source
        return ChildSource(path, self, info=source.info)


def name_of(path: Path) -> str:
    """Return the name of a source, from which that of its output is made.

    A file loses its suffix; the dots in the name of a folder start none.
    """
    whole = path.resolve()
    return whole.name if whole.is_dir() else whole.stem
