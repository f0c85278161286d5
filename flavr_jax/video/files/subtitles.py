# SPDX-License-Identifier: Apache-2.0
"""Text subtitles that are converted to another text format."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import cast

from av.container import OutputContainer
from av.packet import Packet
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import SubtitleSet

from flavr_jax.video.files.times import TimeMap, as_fraction

__all__ = ["TextSubtitles"]

_MILLISECOND = Fraction(1, 1000)
_FIELDS = 8  # fields of an ASS event before its text
_UNTIMED = 2  # seconds that a text without a duration is shown


@dataclasses.dataclass(frozen=True)
class _Event:
    """A text and when it is shown, in milliseconds of the output."""

    start: int
    end: int
    text: bytes


class TextSubtitles:
    """One stream of subtitles, decoded and encoded again.

    MP4 and MOV show one packet at a time. Where events overlap, each interval between a start and
    an end gets one packet with all texts that are shown then, each on a line of its own.

    Attributes:
        target: the output's stream.
    """

    def __init__(
        self,
        source: SubtitleStream,
        output: OutputContainer,
        codec: str,
        times: TimeMap,
        *,
        one_at_a_time: bool,
    ) -> None:
        """Add a stream to ``output``.

        Args:
            source: the stream whose packets will be passed to ``convert``.
            output: the file to add the stream to.
            codec: FFmpeg's name of the text format to convert to.
            times: maps times of the source to the output.
            one_at_a_time: whether the container shows one packet at a time.
        """
        source.codec_context.open(strict=False)  # for the styles in subtitle_header, used below
        self._source, self._times, self._one_at_a_time = source, times, one_at_a_time
        self.target = cast(SubtitleStream, output.add_stream(codec))
        encoder = self.target.codec_context
        encoder.subtitle_header = source.codec_context.subtitle_header
        encoder.time_base = _MILLISECOND
        self._shown: list[_Event] = []
        self._now = 0

    def convert(self, packet: Packet | None) -> Iterator[Packet]:
        """Yield the output packets for a packet of the source, or for its end (None)."""
        if packet is None:
            yield from self._until(None)
            return
        decoded = self._source.codec_context.decode2(packet)
        self._times.move(packet)
        base = as_fraction(packet.time_base)
        assert base is not None
        assert packet.pts is not None
        start = round(packet.pts * base / _MILLISECOND)
        length = (packet.duration or 0) * base or _UNTIMED * self._times.stretch
        end = start + round(length / _MILLISECOND)
        for each in decoded or ():
            event = _Event(start, end, getattr(each, "ass", b""))
            if not self._one_at_a_time:
                yield self._packet(start, end, event.text)
                continue
            yield from self._until(start)
            self._now = max(self._now, start)
            self._shown.append(event)

    def _until(self, time: int | None) -> Iterator[Packet]:
        """Yield packets from now to ``time``, or until the last shown text ends."""
        limit = math.inf if time is None else time
        while self._shown and self._now < limit:
            end = int(min(limit, *(event.end for event in self._shown)))
            if end > self._now:
                yield self._packet(self._now, end, _joined([event.text for event in self._shown]))
                self._now = end
            self._shown = [event for event in self._shown if event.end > self._now]

    def _packet(self, start: int, end: int, text: bytes) -> Packet:
        subtitle = SubtitleSet.create(text, start=0, end=end - start)
        packet = self.target.codec_context.encode_subtitle(subtitle)
        packet.stream = self.target
        packet.time_base = _MILLISECOND
        packet.pts = packet.dts = start
        packet.duration = end - start
        return packet


def _joined(events: list[bytes]) -> bytes:
    r"""Join ASS events, one text per line; ``\r`` resets the style of the line before."""
    first, *others = events
    # Commas in the text itself are no separators.
    texts = (event.split(b",", _FIELDS)[-1] for event in others)
    return rb"{\r}\N".join([first, *texts])
