# SPDX-License-Identifier: Apache-2.0
"""Sound in slow motion: longer at the same pitch, to the sample as long as it should be.

FFmpeg's atempo does it. What it gives out is only nearly as long as asked, so samples are counted,
and silence or a cut of a few milliseconds at the very end makes up for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.error import BlockingIOError as NothingYet
from av.error import EOFError as NothingLeft
from av.filter import Graph
from av.packet import Packet

from flavr_jax.video.files.reader import as_fraction

__all__ = ["StretchedAudio"]

_SLOWEST = Fraction(1, 2)  # atempo's limit; several in a row go further


class StretchedAudio:
    """One stream of sound, decoded, stretched and encoded again."""

    def __init__(
        self,
        source: AudioStream,
        output: OutputContainer,
        *,
        stretch: Fraction,
        start: Fraction = Fraction(0),
    ) -> None:
        """Add a stream to ``output``, in the source's codec if that can be encoded.

        Args:
            source: the stream whose packets will come.
            output: where to.
            stretch: how many times as long it becomes.
            start: the source's time that is the output's zero, in seconds.
        """
        context = source.codec_context
        self._source, self._stretch = source, stretch
        self._rate: int = context.sample_rate
        self._layout: str = context.layout.name
        name = _encoder_name(source, output)
        stream = output.add_stream(name, rate=self._rate, layout=self._layout)
        self.stream = cast(AudioStream, stream)
        if context.bit_rate and not name.startswith(("pcm_", "flac")):
            self.stream.bit_rate = context.bit_rate
        self._start, self._offset = start, 0
        self._graph: Graph | None = None
        self._fifo = AudioFifo()
        self._samples_in = self._samples_out = 0

    def stretched(self, packet: Packet | None) -> Iterator[Packet]:
        """The packets that follow from one of the source's, or from its end (None)."""
        for frame in self._source.decode(packet):
            if self._graph is None:
                self._graph = self._make_graph(frame)
                base = as_fraction(frame.time_base) or Fraction(1, self._rate)
                begin = (frame.pts or 0) * base - self._start
                self._offset = round(begin * self._stretch * self._rate)
            self._samples_in += frame.samples
            yield from self._push(frame)
        if packet is None:
            if self._graph is not None:
                yield from self._push(None)
                yield from self._emit(self._due() - self._samples_out, pad=True)
            yield from self.stream.encode(None)

    def _push(self, frame: AudioFrame | None) -> Iterator[Packet]:
        assert self._graph is not None
        if frame is not None:
            frame.pts = None  # gaps in the times are not gaps in the sound
        self._graph.push(frame)
        while True:
            try:
                made = self._graph.pull()
            except (NothingYet, NothingLeft):
                break
            assert isinstance(made, AudioFrame)
            made.pts = None
            self._fifo.write(made)
        yield from self._emit(min(self._fifo.samples, self._due() - self._samples_out))

    def _due(self) -> int:
        """How many samples there should be of those that came in."""
        return round(self._samples_in * self._stretch)

    def _emit(self, count: int, *, pad: bool = False) -> Iterator[Packet]:
        parts = []
        here = min(count, self._fifo.samples)
        if here > 0:
            part = self._fifo.read(here)
            assert part is not None
            parts.append(part)
        if pad and count > here:
            parts.append(self._silence(count - here))
        for part in parts:
            part.sample_rate, part.time_base = self._rate, Fraction(1, self._rate)
            part.pts = self._offset + self._samples_out
            self._samples_out += part.samples
            yield from self.stream.encode(part)

    def _make_graph(self, frame: AudioFrame) -> Graph:
        graph = Graph()
        nodes = [
            graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format.name,
                layout=frame.layout.name,
                time_base=Fraction(1, frame.sample_rate),
            )
        ]
        tempo = 1 / self._stretch
        while tempo < _SLOWEST:
            nodes.append(graph.add("atempo", str(float(_SLOWEST))))
            tempo /= _SLOWEST
        nodes.append(graph.add("atempo", repr(float(tempo))))
        form = f"sample_fmts=fltp:sample_rates={self._rate}:channel_layouts={self._layout}"
        nodes += [graph.add("aformat", form), graph.add("abuffersink")]
        graph.link_nodes(*nodes).configure()
        return graph

    def _silence(self, samples: int) -> AudioFrame:
        channels = self._source.codec_context.layout.nb_channels
        zeros = np.zeros((channels, samples), np.float32)
        return AudioFrame.from_ndarray(zeros, format="fltp", layout=self._layout)


def _encoder_name(source: AudioStream, output: OutputContainer) -> str:
    """An encoder for the source's codec, or for the one that the container has by default."""
    name = source.codec_context.codec.canonical_name
    for wanted in ({"mp3": "libmp3lame", "opus": "libopus"}.get(name, name), name):
        try:
            av.Codec(wanted, "w")
        except UnknownCodecError:
            continue
        if name in output.supported_codecs:
            return wanted
    return output.default_audio_codec
