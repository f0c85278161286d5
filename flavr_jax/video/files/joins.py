# SPDX-License-Identifier: Apache-2.0
"""Continuous times for MPEG-TS files that were joined, whose clocks start again at each seam."""

from __future__ import annotations

from fractions import Fraction

from av.packet import Packet

from flavr_jax.video.files.times import as_fraction

__all__ = ["Joins"]

_STEP_BACK = Fraction(1, 10)  # FFmpeg's own limit; less is jitter


class Joins:
    """Moves packets behind a seam to where the part before it ends.

    Each stream passes the seam at its own place in the file, because packets of several streams
    are interleaved. The first stream that passes it says by how much the new part is moved.
    """

    def __init__(self) -> None:
        self._offsets = [Fraction(0)]
        self._part: dict[int, int] = {}
        self._ends: dict[int, Fraction] = {}

    def mend(self, packet: Packet) -> None:
        """Change a packet's times, where they run back, to continuous ones."""
        base = as_fraction(packet.time_base)
        if packet.dts is None or base is None:
            return
        index, time = packet.stream_index, packet.dts * base
        if packet.stream.type not in ("audio", "video"):
            # The times of a stream with few packets may rise across a seam.
            self._part[index] = len(self._offsets) - 1
        part, end = self._part.get(index, 0), self._ends.get(index)
        if end is not None and time + self._offsets[part] < end - _STEP_BACK:
            part += 1
            if part == len(self._offsets):
                self._offsets.append(end - time)
        offset = self._offsets[part]
        self._part[index] = part
        self._ends[index] = time + offset + (packet.duration or 0) * base
        ticks = round(offset / base)
        packet.dts += ticks
        if packet.pts is not None:
            packet.pts += ticks
