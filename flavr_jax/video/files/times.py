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
    """Convert one of FFmpeg's rationals to a Fraction; None if it is unset.

    PyAV 18 returns a Fraction or None. PyAV 19 returns its own AVRational, which is unset if its
    numerator or denominator is zero.
    """
    if value is None or not value.numerator or not value.denominator:
        return None
    return Fraction(value.numerator, value.denominator)


def timeline_start(container: InputContainer) -> Fraction:
    """Return the container time that counts as zero, in seconds.

    Broadcast formats (MPEG-TS, MPEG-PS) use the sender's clock, which starts at an arbitrary time;
    there it is the earliest start of a stream. For other formats it is 0.
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
    """Maps times of the input to times of the output.

    Attributes:
        start: the input time, in seconds, that becomes zero in the output.
        stretch: duration of the output divided by that of the input.
    """

    start: Fraction = Fraction(0)
    stretch: Fraction = Fraction(1)

    def move(self, packet: Packet) -> None:
        """Change a packet's times to the output's; a missing dts or pts is taken from the other.

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
