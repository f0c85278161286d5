# SPDX-License-Identifier: Apache-2.0
"""Continuous times for concatenated MPEG-TS files, whose clocks start again at each seam."""

from __future__ import annotations

from fractions import Fraction

from av.packet import Packet

from flavr_jax.video.files.times import as_fraction

__all__ = ["Joins"]

_STEP_BACK = Fraction(1, 10)  # FFmpeg's own limit; less is jitter


class Joins:
    """Moves the times of packets after a seam to where the part before it ends.

    Each stream passes the seam at its own place in the file, because packets of several streams
    are interleaved. The first stream to pass it sets the offset of the new part.
    """

    def __init__(self) -> None:
        self._offsets = [Fraction(0)]
        self._part: dict[int, int] = {}
        self._ends: dict[int, Fraction] = {}

    def mend(self, packet: Packet) -> None:
        """Make a packet's times continuous where they would jump back."""
        base = as_fraction(packet.time_base)
        if packet.dts is None or base is None:
            return
        index, time = packet.stream_index, packet.dts * base
        if packet.stream.type not in ("audio", "video"):
            # With few packets, times may rise across a seam, so take the newest part's offset.
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
