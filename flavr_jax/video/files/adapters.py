# SPDX-License-Identifier: Apache-2.0
"""Adapters, which take one stream of the input into the output, packet by packet.

``try_adapters`` writes only the first packets of some streams to a trial file, because many muxers
accept a stream and then fail at its first packet, or at the end of the file, hours later.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Literal, TypeAlias, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.video.stream import VideoStream

from flavr_jax.video.files.audio import EncodedSound, SoundEncoding
from flavr_jax.video.files.formats import Container
from flavr_jax.video.files.subtitles import TextSubtitles
from flavr_jax.video.files.times import TimeMap, as_fraction

__all__ = [
    "ERRORS",
    "Adapter",
    "Copy",
    "Cover",
    "Way",
    "adapter_for",
    "describe",
    "lasting",
    "try_adapters",
]

ERRORS = (FFmpegError, ValueError, OverflowError)
"""Exceptions that a single packet or stream can cause."""
# Tags that a muxer writes by itself, or that are not true of the output.
_STALE = re.compile(
    r"encoder|major_brand|minor_version|compatible_brands|timecode|alpha_mode|duration|"
    r"number_of_.*|_statistics_.*|bps|stereo_mode|vendor_id",
    re.IGNORECASE,
)
_NO_TEXT = b"\0\0"  # MP4's packet for a pause between subtitles; the muxer adds its own
_MOST_PADDING = 4096  # samples that a sound encoder may put before the first one
_ROUNDING = Fraction(1, 1000)
_ONE_TEXT_AT_A_TIME = ("mp4", "mov")
_TRIED_PACKETS, _TRIED_BYTES = 300, 2**25
_ENOUGH_PACKETS = 8  # of each stream


@dataclasses.dataclass(frozen=True)
class Way:
    """How a stream goes into the output.

    Attributes:
        index: of the stream in the input.
        kind: copied unchanged, stored as a cover picture, converted to another text format, or
            encoded again.
        sound: how sound is encoded.
        from_zero: whether to put silence before sound that starts late.
    """

    index: int
    kind: Literal["copy", "cover", "text", "encode"]
    sound: SoundEncoding | None = None
    from_zero: bool = False


class Copy:
    """A stream whose packets are copied; only their times change."""

    def __init__(self, source: Stream, output: OutputContainer, times: TimeMap) -> None:
        padding = getattr(source.codec_context, "initial_padding", 0)  # not in PyAV 18
        if isinstance(source, AudioStream) and padding > _MOST_PADDING:
            self.target = _add_unpadded(source, output)
        else:
            self.target = output.add_stream_from_template(source, opaque=True)
        self._times = times
        if source.type == "audio":  # copied sound is never stretched
            self._times = TimeMap(times.start)
        self._text = source.codec_context is not None and source.codec_context.name == "mov_text"
        self._last: int | None = None

    def convert(self, packet: Packet | None) -> Iterator[Packet]:
        """Yield the packet at its output time, unless an edit list cuts it off."""
        if packet is None or (self._text and bytes(packet) == _NO_TEXT):
            return
        discard, base = packet.is_discard, as_fraction(packet.time_base)
        self._times.move(packet)
        assert packet.dts is not None
        assert packet.pts is not None
        assert base is not None
        # Packets that an edit list cuts off are marked to be discarded. The one just before zero is
        # kept: sound decoders need a packet to start from.
        end = (packet.pts + (packet.duration or 0)) * base
        if discard and abs(end) > _ROUNDING:
            return
        # Muxers refuse a dts that does not increase.
        if self._last is not None and packet.dts <= self._last:
            packet.dts = self._last + 1
            packet.pts = max(packet.pts, packet.dts)
        self._last = packet.dts
        packet.stream = self.target
        yield packet


class Cover:
    """A cover picture, which MP4 and MOV store as a stream of one packet."""

    def __init__(self, source: VideoStream, output: OutputContainer, path: str) -> None:
        self.target = output.add_stream_from_template(source, opaque=True)
        self.target.disposition = source.disposition
        self._picture = _cover_packet(path, source.index)

    def packet(self) -> Packet:
        """Return the picture's packet."""
        packet = self._picture
        packet.stream = self.target
        packet.pts = packet.dts = 0
        return packet


Adapter: TypeAlias = Copy | TextSubtitles | EncodedSound


def adapter_for(
    way: Way, source: InputContainer, output: OutputContainer, kind: Container, times: TimeMap
) -> Adapter | Cover | None:
    """Add a stream to an output, and return its adapter; None if no packets follow.

    Raises:
        FFmpegError: the output does not accept the stream.
        ValueError: likewise.
    """
    stream = source.streams[way.index]
    adapter: Adapter
    if way.kind == "cover":
        return _add_cover(cast(VideoStream, stream), output, kind, source.name)
    if way.kind == "text":
        assert kind.text is not None
        one = kind.muxer in _ONE_TEXT_AT_A_TIME
        text = cast(SubtitleStream, stream)
        adapter = TextSubtitles(text, output, kind.text, times, one_at_a_time=one)
    elif way.kind == "encode":
        assert way.sound is not None
        heard = cast(AudioStream, stream)
        adapter = EncodedSound(heard, output, way.sound, times, from_zero=way.from_zero)
    else:
        adapter = Copy(stream, output, times)
    describe(stream, adapter.target)
    return None if stream.type == "attachment" else adapter


def _add_cover(
    stream: VideoStream, output: OutputContainer, kind: Container, path: str
) -> Cover | None:
    """Add a cover picture; in Matroska it is an attachment.

    Raises:
        ValueError: the container has no cover pictures.
    """
    if kind.muxer in _ONE_TEXT_AT_A_TIME:
        return Cover(stream, output, path)
    if kind.muxer != "matroska":
        raise ValueError(f"{kind.muxer} has no cover pictures")
    suffix = "jpeg" if stream.name == "mjpeg" else stream.name
    name = stream.metadata.get("filename", f"cover.{suffix}")
    mimetype = stream.metadata.get("mimetype", f"image/{suffix}")
    output.add_attachment(name, mimetype, bytes(_cover_packet(path, stream.index)))
    return None


def _add_unpadded(source: AudioStream, output: OutputContainer) -> Stream:
    """Add a copied stream without the codec padding that stands for an edit list.

    FFmpeg counts sound that an edit list cuts off as codec padding, which Matroska tells players to
    skip. Those packets are not copied, so players would skip sound that should be heard. The
    template is therefore the stream of an in-memory file that begins after the cut.
    """
    memory = io.BytesIO()
    with av.open(source.container.name) as again, av.open(memory, "w", format="mp4") as uncut:
        target = uncut.add_stream_from_template(source, opaque=True)
        first = next(p for p in again.demux(again.streams[source.index]) if not p.is_discard)
        first.stream, first.pts, first.dts = target, 0, 0
        uncut.mux_one(first)
    with av.open(io.BytesIO(memory.getvalue())) as uncut:
        return output.add_stream_from_template(uncut.streams.audio[0], opaque=True)


def _cover_packet(path: str, index: int) -> Packet:
    with av.open(path) as again:
        return next(again.demux(again.streams[index]))


def try_adapters(
    ways: Iterable[Way],
    source: InputContainer,
    trial: OutputContainer,
    kind: Container,
    times: TimeMap,
) -> None:
    """Write the header, the first packets and the end of some streams; raise an error on failure.

    Single packets may fail, but not all of them.
    """
    made = {way.index: adapter_for(way, source, trial, kind, times) for way in ways}
    trial.start_encoding()
    trial.mux([each.packet() for each in made.values() if isinstance(each, Cover)])
    adapters = {
        index: each
        for index, each in made.items()
        if each is not None and not isinstance(each, Cover)
    }
    refused, written = 0, dict.fromkeys(adapters, 0)
    for packet in _first_packets(source):
        if all(count >= _ENOUGH_PACKETS for count in written.values()):
            break
        index = packet.stream_index  # read first: conversion changes it to the output's index
        adapter = adapters.get(index)
        if adapter is None or not packet.size:
            continue
        try:
            trial.mux(list(adapter.convert(packet)))
            written[index] += 1
        except ERRORS:
            refused += 1  # one broken packet does not make the stream unusable
    if refused and not any(written.values()):
        raise ValueError("no packet can be written")
    # The ends are written, too: some muxers fail only there.
    for adapter in adapters.values():
        trial.mux(list(adapter.convert(None)))


def _first_packets(source: InputContainer) -> Iterator[Packet]:
    """Yield a file's first packets, limited in number and bytes, so that large ones cost little."""
    size = 0
    for packet in itertools.islice(source.demux(), _TRIED_PACKETS):
        yield packet
        size += packet.size
        if size > _TRIED_BYTES:
            return


def describe(source: Stream, target: Stream) -> None:
    """Copy a stream's language, title and dispositions."""
    target.metadata.update(lasting(source.metadata))
    target.disposition = source.disposition


def lasting(metadata: dict[str, str]) -> dict[str, str]:
    """Return metadata without the entries that are not true of the output."""
    lasting = {key: value for key, value in metadata.items() if not _STALE.fullmatch(key)}
    if "name" in lasting:  # MP4's name for the title of a stream
        lasting["title"] = lasting.pop("name")
    return lasting
