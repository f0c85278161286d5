# SPDX-License-Identifier: Apache-2.0
"""Sound, subtitles, chapters, attachments and metadata: everything except the video.

Packets are copied in step with the video, so little is buffered. If time is stretched, subtitles
and chapters are stretched as well, and sound on request. Each stream has one adapter, which is
tried on an in-memory file before the first frame is computed. Whatever the output cannot hold is
left out and named in one log line. A broken packet is skipped; its stream continues.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.format import Flags
from av.packet import Packet
from av.stream import Disposition, Stream
from av.subtitles.stream import SubtitleStream
from av.video.stream import VideoStream

from flavr_jax.video.excerpt import Span
from flavr_jax.video.files import phone_tags
from flavr_jax.video.files.adapters import (
    ERRORS,
    Adapter,
    Cover,
    Way,
    adapter_for,
    describe,
    lasting,
    try_adapters,
)
from flavr_jax.video.files.audio import EncodedSound, encodings_for
from flavr_jax.video.files.formats import Container
from flavr_jax.video.files.joins import Joins
from flavr_jax.video.files.names import file_url
from flavr_jax.video.files.times import TimeMap, as_fraction, timeline_start

__all__ = ["OtherStreams", "SoundMode"]

logger = logging.getLogger(__name__)

SoundMode = Literal["auto", "copy", "stretch", "drop"]
_TEXT = ("subrip", "srt", "mov_text", "webvtt", "text", "ass", "ssa")
_MOST_READ_ERRORS = 20  # in a row; a truncated file returns the same error forever
_LATE = Fraction(1, 20)
"""Seconds by which sound in AVI may start late unchanged: the container has no start times."""


class OtherStreams:
    """Copies the streams of a file, except its video, into another file.

    Attributes:
        broken: number of packets left out so far, because they could not be read or written.
    """

    def __init__(
        self,
        path: Path,
        output: OutputContainer,
        container: Container,
        *,
        pictures: VideoStream,
        sound: SoundMode = "auto",
        stretch: Fraction = Fraction(1),
        span: Span | None = None,
    ) -> None:
        """Add the streams to ``output``, before its header is written.

        Args:
            path: the file to copy from.
            output: the file to copy into; it already has its video stream.
            container: the output's kind of file.
            pictures: a stream like the output's video stream, of a file whose header is written;
                trial files are made from it.
            sound: copied, stretched or dropped; auto copies it unless time is stretched, and drops
                it then.
            stretch: duration of the output divided by that of the input.
            span: the part of the input to copy; its start becomes zero in the output.
        """
        self._path, self._output, self._kind = path, output, container
        self._pictures = pictures
        self._sound = sound if sound != "auto" else ("copy" if stretch == 1 else "drop")
        self._container = _open(path)
        self._whole = TimeMap(timeline_start(self._container), stretch)
        start = self._whole.start + (span.start if span else 0)
        self._times, self._span = TimeMap(start, stretch), span
        self._failed = self._written = 0
        self._lost: list[str] = []
        ways = self._together([way for s in self._container.streams if (way := self._way(s))])
        adapters = [
            adapter_for(way, self._container, output, container, self._times) for way in ways
        ]
        self._covers = [each.packet() for each in adapters if isinstance(each, Cover)]
        self._adapters = {
            way.index: each
            for way, each in zip(ways, adapters)
            if each is not None and not isinstance(each, Cover)
        }
        chapters = self._chapters()
        # Tried apart, so that metadata which the container refuses does not cost any stream.
        if self._works(ways, chapters, described=True):
            _copy_metadata(self._container, output)
            output.set_chapters(chapters)
        else:
            self._lost.append("chapters and metadata")
        self._lost += phone_tags.left_out(self._container.metadata, container.muxer)
        if self._lost:
            logger.warning("%s: left out of the output: %s.", path, ", ".join(self._lost))
        self._packets = self._read()
        self._next = next(self._packets, None)

    @property
    def broken(self) -> int:
        """Number of packets left out so far, because they could not be read or written."""
        sounds = [each for each in self._adapters.values() if isinstance(each, EncodedSound)]
        return self._failed + sum(each.broken for each in sounds)

    @property
    def has_sound(self) -> bool:
        """Return whether the output has sound."""
        return any(each.target.type == "audio" for each in self._adapters.values())

    def copy(self, until: Fraction | None = None) -> None:
        """Copy the packets that start before the output time ``until``, or all that are left."""
        while self._next is not None and (until is None or self._next[0] < until):
            self._written += 1
            try:
                self._output.mux_one(self._next[1])
            except OSError:
                raise  # such as a full disk: no fault of this packet
            except ERRORS:
                self._failed += 1
            self._next = next(self._packets, None)

    def blame(self) -> bool:
        """Count a packet as broken that the muxer had buffered and now refuses.

        Return False if every packet passed to the muxer is counted already.
        """
        if self._failed >= self._written:
            return False
        self._failed += 1
        return True

    def close(self) -> None:
        """Close the input file."""
        self._packets.close()
        self._container.close()

    def _way(self, stream: Stream) -> Way | None:
        """Choose how a stream goes into the output; None if it is left out.

        Streams that the output cannot hold are noted for the log.
        """
        if isinstance(stream, VideoStream) and stream == _pictures(self._container):
            return None
        if isinstance(stream, AudioStream) and self._sound == "drop":
            return None
        for way in self._ways(stream):
            if self._works([way]):
                if way.from_zero:
                    logger.warning(
                        "%s: sound that starts late is encoded again behind silence, since %s "
                        "cannot hold its start.", self._path, self._kind.muxer,
                    )  # fmt: skip
                return way
        # MP4 also stores chapters as a data stream, which is no loss: chapters are copied apart.
        is_timecode = "timecode" in stream.metadata
        if stream.type != "data" or is_timecode or not self._container.chapters():
            name = stream.codec_context.name if stream.codec_context else ""
            name = "timecode" if is_timecode else name
            self._lost.append(f"{stream.type} {name}".strip())
        return None

    def _ways(self, stream: Stream) -> Iterator[Way]:
        """Yield the ways to try for a stream, the best first."""
        if isinstance(stream, VideoStream):
            if stream.disposition & Disposition.attached_pic:
                yield Way(stream.index, "cover")
            return
        if isinstance(stream, AudioStream):
            late = self._kind.muxer == "avi" and self._starts_late(stream)
            if (self._sound == "copy" or self._times.stretch == 1) and not late:
                yield Way(stream.index, "copy")
                return
            for encoding in encodings_for(stream, self._output):
                yield Way(stream.index, "encode", encoding, from_zero=late)
            return
        # WebM's muxer accepts attachments but does not write them. A timecode counts frames at the
        # input's rate, and MOV's muxer fails at the end of a file with a copied timecode stream.
        forgotten = stream.type == "attachment" and self._kind.muxer != "matroska"
        if not forgotten and "timecode" not in stream.metadata:
            yield Way(stream.index, "copy")
        is_text = isinstance(stream, SubtitleStream) and stream.codec_context.name in _TEXT
        if is_text and self._kind.text is not None:
            yield Way(stream.index, "text")

    def _starts_late(self, stream: AudioStream) -> bool:
        base = as_fraction(stream.time_base)
        if stream.start_time is None or base is None:
            return False
        return stream.start_time * base - self._times.start > _LATE

    def _together(self, ways: list[Way]) -> list[Way]:
        """Leave out streams that the container holds alone, but not together with the others."""
        if len(ways) < 2 or self._works(ways):
            return ways
        kept: list[Way] = []
        for way in ways:
            if self._works([*kept, way]):
                kept.append(way)
            else:
                stream = self._container.streams[way.index]
                self._lost.append(f"{stream.type} beside the other streams")
        return kept

    def _works(
        self, ways: list[Way], chapters: Sequence[Any] = (), *, described: bool = False
    ) -> bool:
        """Return whether a trial file of the output's kind accepts these streams to its end."""
        try:
            with (
                # Opened again: packets read for a trial would be missing in the copy.
                _open(self._path) as source,
                av.open(io.BytesIO(), "w", format=self._kind.muxer) as trial,
            ):
                trial.add_stream_from_template(self._pictures, opaque=True)
                if described:
                    _copy_metadata(source, trial)
                    trial.set_chapters(list(chapters))
                try_adapters(ways, source, trial, self._kind, self._whole)
        except (*ERRORS, OSError):
            return False
        return True

    def _read(self) -> Generator[tuple[Fraction, Packet], None, None]:
        """Yield all packets for the output, each with its start in seconds."""
        yield from ((Fraction(0), packet) for packet in self._covers)
        if not self._adapters:
            return
        for packet in self._demuxed():
            adapter = self._adapters.get(packet.stream_index)
            if adapter is not None and packet.size and self._inside(packet):
                yield from self._converted(adapter, packet)
        for adapter in self._adapters.values():
            yield from self._converted(adapter, None)

    def _inside(self, packet: Packet) -> bool:
        """Return whether a packet belongs to the span; cut a subtitle to the part inside it."""
        base, time = as_fraction(packet.time_base), packet.dts if packet.pts is None else packet.pts
        if self._span is None or base is None or time is None:
            return True
        start = time * base - self._times.start
        end = None if self._span.end is None else self._span.end - self._span.start
        if end is not None and start >= end:
            return False
        if packet.stream.type == "subtitle":
            shown, before = packet.duration or 0, max(round(-start / base), 0)
            shown = shown if end is None else min(shown, round((end - start) / base))
            packet.pts = packet.dts = time + before
            packet.duration = max(shown - before, 0)
            return shown > before or not before
        return start >= 0

    def _converted(
        self, adapter: Adapter, packet: Packet | None
    ) -> Iterator[tuple[Fraction, Packet]]:
        """Convert one packet, or the end of a stream (None); yield the results and their starts.

        Starts are in seconds. A packet that cannot be converted is counted as broken.
        """
        try:
            for made in adapter.convert(packet):
                base = as_fraction(made.time_base) or Fraction(1)
                yield (made.dts if made.dts is not None else made.pts or 0) * base, made
        except ERRORS:
            self._failed += 1

    def _demuxed(self) -> Iterator[Packet]:
        """Yield the file's packets with continuous times; continue after read errors."""
        indices = list(self._adapters)
        joins = None
        if self._container.format.flags & Flags.ts_discont.value:
            joins = Joins()
            # Video is read too: it shows where a part begins even if no copied stream does.
            pictures = _pictures(self._container)
            indices += [] if pictures is None else [pictures.index]
        streams = [self._container.streams[index] for index in indices]
        errors = 0
        while errors < _MOST_READ_ERRORS:
            try:
                for packet in self._container.demux(*streams):
                    errors = 0
                    if joins is not None and packet.size:
                        joins.mend(packet)
                    yield packet
            except FFmpegError:
                errors += 1
            else:
                return

    def _chapters(self) -> list[Any]:
        """Return the chapters at the output's times; none if the output cannot hold them."""
        chapters = self._container.chapters()
        if chapters and not self._kind.rich:
            self._lost.append("chapters")
            return []
        span, kept = self._span, []
        for chapter in chapters:
            base = as_fraction(chapter["time_base"]) or Fraction(1)
            start, end = (chapter[side] * base - self._times.start for side in ("start", "end"))
            if span is not None:
                start = max(start, Fraction(0))
                end = end if span.end is None else min(end, span.end - span.start)
                if start >= end:
                    continue
            for side, time in (("start", start), ("end", end)):
                chapter[side] = round(time * self._times.stretch / base)
            kept.append(chapter)
        return kept


def _open(path: Path) -> InputContainer:
    # A playlist in the file must not make FFmpeg open network connections.
    return av.open(file_url(path), options={"protocol_whitelist": "file"})


def _copy_metadata(source: InputContainer, output: OutputContainer) -> None:
    """Copy title, date and other metadata of the file and of its video stream."""
    output.metadata.update(phone_tags.lasting(lasting(source.metadata)))
    pictures = _pictures(source)
    if pictures is not None:
        describe(pictures, output.streams.video[0])


def _pictures(source: InputContainer) -> VideoStream | None:
    """Return the video stream; cover pictures do not count."""
    moving = (s for s in source.streams.video if not s.disposition & Disposition.attached_pic)
    return next(moving, None)
