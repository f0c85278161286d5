# SPDX-License-Identifier: Apache-2.0
"""Encoding in segments, which go to a journal when finished, or come from it in a later run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from fractions import Fraction

import av
from av.packet import Packet
from av.video.stream import VideoStream

from flavr_jax.video.journal.journal import Journal, Part
from flavr_jax.video.journal.segments import Continuation, SegmentWriter

__all__ = ["SegmentedEncoder"]


class SegmentedEncoder:
    """Encodes pictures with a new encoder for each segment; without a journal, with one for all.

    Packets have the times and the stream of the output, and are ready to be written to it.

    Attributes:
        done: pictures that an earlier run encoded; as many at the beginning are not encoded again.
    """

    def __init__(
        self,
        stream: VideoStream,
        more: Callable[[], AbstractContextManager[VideoStream]],
        time_base: Fraction,
        journal: Journal | Part | None,
    ) -> None:
        """Prepare to encode.

        Args:
            stream: the output's; its encoder encodes the first segment.
            more: opens a stream of another file, with an encoder of the same settings.
            time_base: unit of the pictures' times, in seconds.
            journal: keeps the segments; for a part of them, the first picture is that of its first
                segment.
        """
        self.done = 0 if journal is None else journal.frames
        self._output, self._more, self._time_base = stream, more, time_base
        self._journal = journal
        self._count = self.done if isinstance(journal, Part) else 0
        self._stream: VideoStream | None = None
        self._opened = contextlib.ExitStack()
        self._segment: SegmentWriter | None = None
        self._continuation = Continuation()

    def replay(self) -> Iterator[Packet]:
        """Yield the packets of the pictures that are done."""
        if self._journal is not None:
            for segment in self._journal.packets(self._time_base):
                for packet in segment:
                    yield from self._ready(self._continuation.add(packet))
                yield from self._ready(self._continuation.end())

    def encode(
        self,
        picture: Callable[[], av.VideoFrame],
        pts: int,
        duration: int,
        *,
        counted: bool = True,
    ) -> list[Packet]:
        """Encode the next picture, which is only asked for if it is not done; return packets.

        Args:
            picture: makes the picture.
            pts: when it is shown, in units of ``time_base``.
            duration: for how long.
            counted: False for a picture that is put before the first one.
        """
        number = self._count
        self._count += counted
        if number < self.done:
            return []
        packets: list[Packet] = []
        if self._journal is not None and number % self._journal.job.segment == 0 and number:
            packets += self._end()
        if self._stream is None:
            self._begin(first=number == 0)
        assert self._stream is not None
        frame = picture()
        frame.time_base, frame.pts, frame.duration = self._time_base, pts, duration
        return [*packets, *self._keep(self._stream.encode(frame))]

    def finish(self, duration: int) -> list[Packet]:
        """Return the last packets; ``duration`` is that of the last frame shown."""
        if self._stream is None:  # there was no frame, or all of them are done
            return [] if self.done else self._ready(self._output.encode(None))
        part = self._journal if isinstance(self._journal, Part) else None
        if part is not None and not part.last:
            return self._end()
        packets = self._stream.encode(None)
        if packets:
            # MP4 sums durations in decoding order, in which the last packet is seldom the last
            # frame shown; the sum still has to reach that frame's end.
            packets[-1].duration = duration
        ready = [*self._keep(packets), *self._ready(self._continuation.end())]
        if part is not None and self._segment is not None:
            self._segment.finish()
            self._segment = None
        return ready

    def close(self) -> None:
        """Close the encoder, and drop an unfinished segment."""
        self._opened.close()
        if self._segment is not None:
            self._segment.discard()
            self._segment = None

    def _begin(self, *, first: bool) -> None:
        """Open the encoder of the next segment."""
        if first:
            self._stream = self._output
        else:
            self._stream = self._opened.enter_context(self._more())
        if self._journal is not None:
            self._segment = self._journal.begin()

    def _end(self) -> list[Packet]:
        """Finish the segment, and return its last packets."""
        if self._stream is None or self._segment is None or self._journal is None:
            return []  # an earlier run finished it
        packets = self._keep(self._stream.encode(None))
        self._segment.finish()
        self._segment, self._stream = None, None
        self._journal.finished += 1
        self._opened.close()
        return [*packets, *self._ready(self._continuation.end())]

    def _keep(self, packets: list[Packet]) -> list[Packet]:
        """Add packets to the segment, and return those that can be written to the output."""
        ready: list[Packet] = []
        for packet in packets:
            kept = packet if self._segment is None else self._segment.add(packet)
            ready += self._continuation.add(kept)
        return self._ready(ready)

    def _ready(self, packets: list[Packet]) -> list[Packet]:
        for packet in packets:
            # Packets of later segments come from encoders of other files.
            packet.stream = self._output
        return packets
