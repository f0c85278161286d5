# SPDX-License-Identifier: Apache-2.0
"""Sound that is decoded and encoded again: stretched at the same pitch, or with silence before it.

FFmpeg's filter atempo stretches sound, but its output is a few milliseconds too long or too short.
Samples are therefore counted, and the end is cut off or filled up with silence.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.codec import Codec, UnknownCodecError
from av.container import OutputContainer
from av.error import BlockingIOError as NothingYet
from av.error import EOFError as NothingLeft
from av.error import FFmpegError
from av.filter import Graph
from av.filter.context import FilterContext
from av.packet import Packet

from flavr_jax.video.files.times import TimeMap, as_fraction

__all__ = ["EncodedSound", "SoundEncoding", "encodings_for"]

_SLOWEST = Fraction(1, 2)  # atempo's limit; slower tempos take several filters in a row
# Many files round times to a millisecond or more; only gaps longer than this are real.
_GAP = Fraction(1, 10)
_ENCODERS = {"mp3": "libmp3lame", "opus": "libopus"}
_LOSSLESS = ("flac", "alac", "truehd", "mlp", "wavpack", "tta", "ape", "pcm_")
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_MOST_BITS_A_CHANNEL = 192_000


@dataclasses.dataclass(frozen=True)
class SoundEncoding:
    """How sound is encoded.

    Attributes:
        encoder: FFmpeg's name of the encoder.
        rate: samples per second.
        layout: FFmpeg's name of the channel layout.
        bit_rate: bits per second, or None for the encoder's default.
    """

    encoder: str
    rate: int
    layout: str
    bit_rate: int | None


def encodings_for(source: AudioStream, output: OutputContainer) -> Iterator[SoundEncoding]:
    """Yield encodings to try for a stream, the closest to the source first; some may not work.

    Encoders accept only certain rates and layouts: Opus has no 44.1 kHz, Windows Media no 5.1.
    """
    context = source.codec_context
    own = context.codec.canonical_name
    layout = _named_layout(context.layout.name, context.layout.nb_channels)
    for codec in _codecs(own, output):
        rates = codec.audio_rates or [context.sample_rate]
        above = [rate for rate in rates if rate >= context.sample_rate]
        # The lowest rate that keeps all frequencies; if there is none, the highest.
        rate = min(above) if above else max(rates)
        same = codec.canonical_name == own
        lossless = codec.name.startswith(_LOSSLESS)
        for channels in dict.fromkeys((layout, "stereo", "mono")):
            most = _MOST_BITS_A_CHANNEL * av.AudioLayout(channels).nb_channels
            bits = context.bit_rate or None
            if lossless or bits is None:
                bits = None
            elif not same:
                bits = min(bits, most)
            yield SoundEncoding(codec.name, rate, channels, bits)
            # An encoder that does not list its rates may refuse an unusual one.
            if rate not in (44100, 48000) and codec.audio_rates is None:
                yield SoundEncoding(codec.name, 48000, channels, None)


def _codecs(own: str, output: OutputContainer) -> Iterator[Codec]:
    """Yield the source's codec if it can be encoded, then others that the container holds."""
    wanted = [own]
    if own.startswith(_LOSSLESS):
        wanted += ["flac", "pcm_s16le"]
    wanted += [output.default_audio_codec, "aac", "opus", "flac", "pcm_s16le"]
    for name in dict.fromkeys(wanted):
        for encoder in dict.fromkeys((_ENCODERS.get(name, name), name)):
            try:
                codec = Codec(encoder, "w")
            except UnknownCodecError:
                continue
            # FFmpeg's own Vorbis encoder is experimental: it is limited to stereo and sounds worse.
            if not codec.experimental and codec.canonical_name in output.supported_codecs:
                yield codec
                break


def _named_layout(name: str, channels: int) -> str:
    """Return a layout with channel positions; the usual one if a file only gives a count."""
    return _LAYOUTS.get(channels, name) if re.fullmatch(r"\d+ channels", name) else name


class EncodedSound:
    """One stream of sound, decoded, stretched and encoded again.

    Attributes:
        target: the output's stream.
        broken: number of packets that could not be decoded; silence replaces them.
    """

    def __init__(
        self,
        source: AudioStream,
        output: OutputContainer,
        encoding: SoundEncoding,
        times: TimeMap,
        *,
        from_zero: bool = False,
    ) -> None:
        """Add a stream to ``output`` and open its encoder.

        Args:
            source: the stream whose packets will be passed to ``convert``.
            output: the file to add the stream to.
            encoding: how it is encoded.
            times: maps times of the source to the output, including the stretch.
            from_zero: whether to put silence before sound that starts later than the output.

        Raises:
            FFmpegError: the encoder does not accept this encoding.
            ValueError: likewise.
        """
        self._source, self._times, self._from_zero = source, times, from_zero
        self._rate = encoding.rate
        stream = output.add_stream(encoding.encoder, rate=encoding.rate, layout=encoding.layout)
        self.target = cast(AudioStream, stream)
        if encoding.bit_rate:
            self.target.bit_rate = encoding.bit_rate
        # PyAV 19 crashes if a frame is sent to an encoder that failed to open; here it raises.
        self.target.codec_context.open()
        self._format: str = self.target.codec_context.format.name
        self._layout: str = encoding.layout
        self.broken = 0
        self._graph: Graph | None = None
        self._kind: tuple[str, str, int] | None = None
        self._fifo = AudioFifo()
        self._begin = Fraction(0)
        self._seconds_in = Fraction(0)
        self._offset = self._samples_out = 0

    def convert(self, packet: Packet | None) -> Iterator[Packet]:
        """Yield the output packets for a packet of the source, or for its end (None)."""
        try:
            frames = self._source.decode(packet)
        except FFmpegError:
            frames = []
            self.broken += packet is not None
            if packet is not None and self._kind is not None:
                base = as_fraction(packet.time_base) or Fraction(0)
                yield from self._push_silence((packet.duration or 0) * base)
        for frame in frames:
            yield from self._place(frame)
            yield from self._push(frame)
        if packet is None and self._graph is not None:
            yield from self._drain()
            yield from self._emit(self._due() - self._samples_out, pad=True)
            yield from self.target.encode(None)

    def _place(self, frame: AudioFrame) -> Iterator[Packet]:
        """Record where the sound begins, follow format changes, and fill a gap before a frame."""
        base = as_fraction(frame.time_base) or Fraction(1, frame.sample_rate)
        begin = None if frame.pts is None else frame.pts * base
        if self._kind is None:
            self._begin = begin or Fraction(0)
            start = (self._begin - self._times.start) * self._times.stretch
            self._offset = round(start * self._rate)
            # Begin at zero; the check for a gap below then puts silence before the sound.
            if self._from_zero and self._offset > 0:
                self._begin, self._offset = self._times.start, 0
            self._renew(frame)
        elif self._kind != _kind(frame):
            yield from self._drain()
            self._renew(frame)
        if begin is not None and begin - self._begin - self._seconds_in > _GAP:
            yield from self._push_silence(begin - self._begin - self._seconds_in)

    def _push(self, frame: AudioFrame) -> Iterator[Packet]:
        assert self._graph is not None
        frame.pts = None  # small gaps in the times are rounding, not gaps in the sound
        self._seconds_in += Fraction(frame.samples, frame.sample_rate)
        self._graph.push(frame)
        self._pull()
        # atempo may deliver too much: never emit more than the output should have by now.
        yield from self._emit(min(self._fifo.samples, self._due() - self._samples_out))

    def _push_silence(self, seconds: Fraction) -> Iterator[Packet]:
        """Push silence in the source's format, a second at a time."""
        assert self._kind is not None
        form, layout, rate = self._kind
        left = round(seconds * rate)
        while left > 0:
            part = _silence(min(left, rate), form, layout, rate)
            left -= part.samples
            yield from self._push(part)

    def _drain(self) -> Iterator[Packet]:
        """Flush the filters."""
        assert self._graph is not None
        self._graph.push(None)
        self._pull()
        yield from self._emit(min(self._fifo.samples, self._due() - self._samples_out))

    def _pull(self) -> None:
        assert self._graph is not None
        while True:
            try:
                made = self._graph.pull()
            except (NothingYet, NothingLeft):
                return
            assert isinstance(made, AudioFrame)
            made.pts = None
            self._fifo.write(made)

    def _due(self) -> int:
        """Return how many samples the output should have for the input so far."""
        return round(self._seconds_in * self._times.stretch * self._rate)

    def _emit(self, count: int, *, pad: bool = False) -> Iterator[Packet]:
        parts = []
        here = min(count, self._fifo.samples)
        if here > 0:
            part = self._fifo.read(here)
            assert part is not None
            parts.append(part)
        if pad and count > here:
            parts.append(_silence(count - here, self._format, self._layout, self._rate))
        for part in parts:
            part.sample_rate, part.time_base = self._rate, Fraction(1, self._rate)
            part.pts = self._offset + self._samples_out
            self._samples_out += part.samples
            yield from self.target.encode(part)

    def _renew(self, frame: AudioFrame) -> None:
        """Build the filters for this frame's format, which a broadcast may change midway."""
        form, layout, rate = self._kind = _kind(frame)
        graph = Graph()
        nodes: list[FilterContext] = [
            graph.add_abuffer(
                sample_rate=rate, format=form, layout=layout, time_base=Fraction(1, rate)
            )
        ]
        named = _named_layout(layout, frame.layout.nb_channels)
        # Channels without positions get those of the usual layout for their number.
        if named != layout:
            places = "|".join(map(str, range(frame.layout.nb_channels)))
            nodes.append(graph.add("channelmap", f"map={places}:channel_layout={named}"))
        tempo = 1 / self._times.stretch
        while tempo < _SLOWEST:
            nodes.append(graph.add("atempo", str(float(_SLOWEST))))
            tempo /= _SLOWEST
        if tempo != 1:
            nodes.append(graph.add("atempo", repr(float(tempo))))
        # The encoder accepts one format only, and a source may change its own midway.
        form = f"sample_fmts={self._format}:sample_rates={self._rate}"
        nodes.append(graph.add("aformat", f"{form}:channel_layouts={self._layout}"))
        nodes.append(graph.add("abuffersink"))
        graph.link_nodes(*nodes).configure()
        self._graph = graph


def _kind(frame: AudioFrame) -> tuple[str, str, int]:
    """Return sample format, layout and rate; filters are built for one such combination."""
    return frame.format.name, frame.layout.name, frame.sample_rate


def _silence(samples: int, form: str, layout: str, rate: int) -> AudioFrame:
    frame = AudioFrame(format=form, layout=layout, samples=samples)
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    for plane in frame.planes:
        # Samples of 8 bits are unsigned, with silence in the middle of their range.
        plane.update(bytes([128 if form.startswith("u8") else 0]) * plane.buffer_size)
    return frame
