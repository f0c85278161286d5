# SPDX-License-Identifier: Apache-2.0
"""FFmpeg's times as fractions of a second."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

from av.container import InputContainer
from av.format import Flags
from av.packet import Packet

__all__ = ["TimeMap", "as_fraction", "timeline_start"]


def as_fraction(value: Any) -> Fraction | None:
    """FFmpeg's rational as a Fraction; None where unset.

    PyAV 18 has Fraction or None, PyAV 19 its own AVRational with a zero somewhere.
    """
    if value is None or not value.numerator or not value.denominator:
        return None
    return Fraction(value.numerator, value.denominator)


def timeline_start(container: InputContainer) -> Fraction:
    """The container's time that counts as zero.

    Broadcast formats (MPEG-TS, MPEG-PS) run on the sender's clock, which starts anywhere; there it
    is the first stream's start. Elsewhere zero means zero.
    """
    if not container.format.flags & Flags.ts_discont.value:
        return Fraction(0)
    starts = [
        stream.start_time * base
        for stream in container.streams
        if stream.start_time is not None and (base := as_fraction(stream.time_base))
    ]
    return min(starts, default=Fraction(0))


@dataclasses.dataclass(frozen=True)
class TimeMap:
    """Times of the input as times of the output.

    Attributes:
        start: the input's time that is the output's zero, in seconds.
        stretch: how many times as long the output takes.
    """

    start: Fraction = Fraction(0)
    stretch: Fraction = Fraction(1)

    def move(self, packet: Packet) -> None:
        """Change the times of a packet; a missing dts or pts is taken from the other.

        Raises:
            ValueError: the packet has no time.
        """
        base = as_fraction(packet.time_base)
        pts = packet.dts if packet.pts is None else packet.pts
        dts = packet.pts if packet.dts is None else packet.dts
        if base is None or pts is None or dts is None:
            raise ValueError("the packet has no time")
        packet.pts = round((pts - self.start / base) * self.stretch)
        packet.dts = round((dts - self.start / base) * self.stretch)
        packet.duration = round((packet.duration or 0) * self.stretch)
