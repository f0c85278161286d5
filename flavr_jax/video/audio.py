# SPDX-License-Identifier: Apache-2.0
"""Audio goes from file to file as it is: packets are copied, never decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet

from flavr_jax.video.reader import as_fraction, timeline_start

__all__ = ["AudioCopy"]


class AudioCopy:
    """The audio streams of a file, remuxed in step with the video so that little is buffered."""

    def __init__(self, path: Path, output: OutputContainer) -> None:
        self._output = output
        self._container = av.open(str(path))
        self._copies = {
            stream.index: output.add_stream_from_template(stream)
            for stream in self._container.streams.audio
        }
        self._packets = self._read()
        self._next = next(self._packets, None)

    def copy(self, until: Fraction | None = None) -> None:
        """Copy the packets that start before a time in seconds, or all that are left."""
        while self._next is not None and (until is None or self._next[0] < until):
            self._output.mux_one(self._next[1])
            self._next = next(self._packets, None)

    def close(self) -> None:
        """Close the file."""
        self._packets.close()
        self._container.close()

    def _read(self) -> Generator[tuple[Fraction, Packet], None, None]:
        """Start and packet, up to the end or to where the file is broken."""
        if not self._copies:
            return
        start = timeline_start(self._container)
        with contextlib.suppress(FFmpegError):
            for packet in self._container.demux(*self._container.streams.audio):
                base = as_fraction(packet.time_base)
                if packet.size == 0 or packet.is_corrupt or packet.dts is None or base is None:
                    continue
                packet.stream = self._copies[packet.stream_index]
                packet.pts = (packet.dts if packet.pts is None else packet.pts) - round(
                    start / base
                )
                packet.dts -= round(start / base)
                yield packet.dts * base, packet
