# SPDX-License-Identifier: Apache-2.0
"""Everything of a file that is not its video: sound, subtitles, chapters, attachments, metadata.

It goes from file to file as it is, in step with the video so that little is buffered. Where time
is stretched, subtitles and chapters are stretched along, and sound if asked for. What the output
cannot hold is left out, with one line that says so.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeAlias, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import SubtitleSet
from av.video.stream import VideoStream

from flavr_jax.video.files import phone_tags
from flavr_jax.video.files.audio import StretchedAudio
from flavr_jax.video.files.formats import Container
from flavr_jax.video.files.reader import as_fraction, timeline_start

__all__ = ["OtherStreams", "SoundMode"]

logger = logging.getLogger(__name__)

SoundMode = Literal["auto", "copy", "stretch", "drop"]
_Step: TypeAlias = Callable[[Packet | None], Iterator[Packet]]
# What a muxer writes by itself, or what is no longer true of the output.
_STALE = re.compile(
    r"encoder|major_brand|minor_version|compatible_brands|timecode|alpha_mode|duration|"
    r"number_of_.*|_statistics_.*|bps|stereo_mode|vendor_id",
    re.IGNORECASE,
)
_MILLISECOND = Fraction(1, 1000)
_NO_TEXT = b"\0\0"  # MP4 has a packet for every pause between two subtitles, and muxes its own
_TEXT = ("subrip", "srt", "mov_text", "webvtt", "text", "ass", "ssa")


class OtherStreams:
    """The streams of a file beside its video, on their way into another file."""

    def __init__(
        self,
        path: Path,
        output: OutputContainer,
        container: Container,
        *,
        sound: SoundMode = "auto",
        stretch: Fraction = Fraction(1),
    ) -> None:
        """Add the streams to ``output``, before its header is written.

        Args:
            path: the file that they come from.
            output: the file that they go to, which has its video stream already.
            container: what kind of file that is.
            sound: copied, stretched along, or dropped; auto copies it unless time is stretched.
            stretch: how many times as long the output takes.
        """
        self._output, self._kind, self._stretch = output, container, stretch
        self._sound = sound if sound != "auto" else ("copy" if stretch == 1 else "drop")
        self._container = av.open(str(path))
        self._lost: list[str] = []
        self._refused = False
        self._steps: dict[int, _Step] = {}
        self._covers: list[Packet] = []
        for stream in self._container.streams:
            self._add(stream)
        _copy_metadata(self._container, output)
        self._lost += phone_tags.left_out(self._container.metadata, container.muxer)
        self._copy_chapters()
        if self._lost:
            logger.warning("%s: left out of the output: %s.", path, ", ".join(self._lost))
        self._packets = self._read()
        self._next = next(self._packets, None)

    def copy(self, until: Fraction | None = None) -> None:
        """Copy the packets that start before a time of the output, or all that are left."""
        while self._next is not None and (until is None or self._next[0] < until):
            self._mux(self._next[1])
            self._next = next(self._packets, None)

    def _mux(self, packet: Packet) -> None:
        """Write a packet; one that the container refuses is no reason to lose the video."""
        try:
            self._output.mux_one(packet)
        except (ArgumentError, InvalidDataError):
            if not self._refused:
                logger.warning("%s: packets that are broken are left out.", self._container.name)
            self._refused = True

    def close(self) -> None:
        """Close the file."""
        self._packets.close()
        self._container.close()

    def _add(self, stream: Stream) -> None:
        if isinstance(stream, VideoStream):
            cover = stream.disposition & Disposition.attached_pic
            kept = self._add_cover(stream) if cover else stream == _pictures(self._container)
        elif isinstance(stream, AudioStream):
            kept = self._sound == "drop" or self._add_sound(stream)
        else:
            kept = self._add_copy(stream) or (
                isinstance(stream, SubtitleStream) and self._add_text(stream)
            )
        # MP4 keeps chapters in a stream as well.
        if not kept and not (stream.type == "data" and self._container.chapters()):
            name = stream.codec_context.name if stream.codec_context else ""
            self._lost.append(f"{stream.type} {name}".strip())

    def _add_copy(self, stream: Stream) -> bool:
        """Whether a stream could be added as it is."""
        # WebM's muxer takes attachments and forgets them.
        forgotten = stream.type == "attachment" and self._kind.muxer != "matroska"
        if forgotten or not _holds(self._kind.muxer, stream):
            return False
        target = self._output.add_stream_from_template(stream, opaque=True)
        _describe(stream, target)
        if stream.type != "attachment":
            self._steps[stream.index] = self._copier(stream, target)
        return True

    def _add_cover(self, stream: VideoStream) -> bool:
        """Whether a cover picture could be added; Matroska has them as attachments."""
        if self._kind.muxer not in ("matroska", "mp4", "mov"):
            return False
        with av.open(self._container.name) as again:
            packet = next(again.demux(again.streams[stream.index]))
        if self._kind.muxer == "matroska":
            kind = "jpeg" if stream.name == "mjpeg" else stream.name
            name = stream.metadata.get("filename", f"cover.{kind}")
            mimetype = stream.metadata.get("mimetype", f"image/{kind}")
            self._output.add_attachment(name, mimetype, bytes(packet))
            return True
        packet.stream = self._output.add_stream_from_template(stream, opaque=True)
        packet.stream.disposition = stream.disposition
        packet.pts = packet.dts = 0
        self._covers.append(packet)
        return True

    def _add_sound(self, stream: AudioStream) -> bool:
        """Whether sound could be added, stretched if asked for."""
        if self._sound == "copy" or self._stretch == 1:
            return self._add_copy(stream)
        start = timeline_start(self._container)
        audio = StretchedAudio(stream, self._output, stretch=self._stretch, start=start)
        _describe(stream, audio.stream)
        self._steps[stream.index] = audio.stretched
        return True

    def _add_text(self, stream: SubtitleStream) -> bool:
        """Whether subtitles could be added as text of the kind that the output holds."""
        if self._kind.text is None or stream.codec_context.name not in _TEXT:
            return False
        stream.codec_context.open(strict=False)  # so that it knows the styles
        target = cast(SubtitleStream, self._output.add_stream(self._kind.text))
        encoder = target.codec_context
        encoder.subtitle_header = stream.codec_context.subtitle_header
        encoder.time_base = _MILLISECOND
        _describe(stream, target)
        move = self._copier(stream, target)

        def step(packet: Packet | None) -> Iterator[Packet]:
            subtitle = stream.codec_context.decode2(packet) if packet is not None else None
            for event in subtitle or ():
                text = getattr(event, "ass", b"")
                made = encoder.encode_subtitle(SubtitleSet.create(text, start=0, end=0))
                assert packet is not None
                made.time_base, made.pts, made.dts = packet.time_base, packet.pts, packet.dts
                made.duration = packet.duration or 0
                yield from move(made)

        self._steps[stream.index] = step
        return True

    def _copier(self, source: Stream, target: Stream) -> _Step:
        """Moves packets in time as the output has it, and to the output's stream."""
        start = timeline_start(self._container)
        stretch = Fraction(1) if source.type == "audio" else self._stretch
        text = source.codec_context is not None and source.codec_context.name == "mov_text"

        def step(packet: Packet | None) -> Iterator[Packet]:
            if packet is None:
                return
            base = as_fraction(packet.time_base)
            if packet.dts is None or base is None or (text and bytes(packet) == _NO_TEXT):
                return
            offset = start / base
            pts = packet.dts if packet.pts is None else packet.pts
            packet.stream = target
            packet.pts, packet.dts = (
                round((time - offset) * stretch) for time in (pts, packet.dts)
            )
            packet.duration = round((packet.duration or 0) * stretch)
            yield packet

        return step

    def _read(self) -> Generator[tuple[Fraction, Packet], None, None]:
        """Start and packet, up to the end or to where the file is broken."""
        yield from ((Fraction(0), packet) for packet in self._covers)
        if not self._steps:
            return
        streams = [self._container.streams[index] for index in self._steps]
        with contextlib.suppress(FFmpegError):
            for packet in self._container.demux(*streams):
                if packet.size and not packet.is_corrupt:
                    yield from _timed(self._steps[packet.stream_index](packet))
        for step in self._steps.values():
            yield from _timed(step(None))

    def _copy_chapters(self) -> None:
        chapters = self._container.chapters()
        if not chapters:
            return
        if not self._kind.rich:
            self._lost.append("chapters")
            return
        start = timeline_start(self._container)
        for chapter in chapters:
            base = as_fraction(chapter["time_base"]) or Fraction(1)
            for end in ("start", "end"):
                chapter[end] = round((chapter[end] - start / base) * self._stretch)
        self._output.set_chapters(chapters)


def _timed(packets: Iterator[Packet]) -> Iterator[tuple[Fraction, Packet]]:
    for packet in packets:
        base = as_fraction(packet.time_base) or Fraction(1)
        yield (packet.dts if packet.dts is not None else packet.pts or 0) * base, packet


def _holds(muxer: str, stream: Stream) -> bool:
    """Whether a container can hold a stream as it is: a header is written in memory to see."""
    try:
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
    except (FFmpegError, ValueError, OSError):
        return False
    return True


def _copy_metadata(source: InputContainer, output: OutputContainer) -> None:
    """Title, date and so on, of the file and of its video."""
    output.metadata.update(phone_tags.lasting(_lasting(source.metadata)))
    pictures = _pictures(source)
    if pictures is not None:
        _describe(pictures, output.streams.video[0])


def _pictures(source: InputContainer) -> VideoStream | None:
    """The stream that is the video."""
    moving = (s for s in source.streams.video if not s.disposition & Disposition.attached_pic)
    return next(moving, None)


def _describe(source: Stream, target: Stream) -> None:
    """Language, title and dispositions."""
    target.metadata.update(_lasting(source.metadata))
    target.disposition = source.disposition


def _lasting(metadata: dict[str, str]) -> dict[str, str]:
    lasting = {key: value for key, value in metadata.items() if not _STALE.fullmatch(key)}
    if "name" in lasting:  # what MP4 calls the title of a stream
        lasting["title"] = lasting.pop("name")
    return lasting
