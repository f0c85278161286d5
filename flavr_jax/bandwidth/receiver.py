# SPDX-License-Identifier: Apache-2.0
"""Receives a stream with one frame in K, and restores the others while it goes on.

After a loss, frames are left out until the next key frame, because they would show damage; the
network fills the gap as it fills every other. To restore the frames of an interval, the network
needs frames after it: with 4 inputs, a frame is shown two sent frames late, plus the time to
compute it. A buffer hides how that time varies.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from flavr_jax.bandwidth.rtp import PAYLOAD, RtpReader
from flavr_jax.bandwidth.sender import is_url
from flavr_jax.config import Cut
from flavr_jax.inference import stream
from flavr_jax.inference.passes import AtOnce, Network
from flavr_jax.inference.pipeline import Pipeline
from flavr_jax.video.files.times import as_fraction
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.pixels.colour import Colour, picture

__all__ = ["Receiver", "Reception", "restored"]

_QUEUE = "fifo_size=65536&overrun_nonfatal=1&buffer_size=4194304"  # of UDP, for bursts


@dataclasses.dataclass
class Reception:
    """What arrived and when frames were ready, updated while it goes on.

    Attributes:
        live: whether frames come from a network; a file has no latency worth reporting.
        frames: frames decoded.
        left_out: packets left out, because they or those that they depend on are damaged.
        gaps: frames missing between decoded ones.
        latencies: seconds from when a frame could have been shown at the sender's pace, if nothing
            delayed it, until it was ready; for each frame of the output.
        late: frames that were ready only after their turn.
    """

    live: bool = True
    frames: int = 0
    left_out: int = 0
    gaps: int = 0
    latencies: list[float] = dataclasses.field(default_factory=list)
    late: int = 0

    def __str__(self) -> str:
        parts = [f"{self.frames} frames received, {len(self.latencies)} shown"]
        if self.gaps or self.left_out:
            parts.append(f"{self.gaps} lost, {self.left_out} damaged packets left out")
        if self.live and self.latencies:
            usual, most = np.percentile(self.latencies, [50, 99])
            parts.append(f"latency {usual:.3f} s (99 %: {most:.3f} s), {self.late} late")
        return ", ".join(parts)


class Receiver:
    """The video of a stream, as a source of the frames that were sent.

    Attributes:
        info: properties of the frames; the rate is that of sent frames.
        reception: counts.
    """

    def __init__(self, source: str, *, timeout: float = 5.0) -> None:
        """Open a stream, and wait for its first frame.

        Args:
            source: a file, or a URL such as rtp://host:port or udp://host:port.
            timeout: seconds without data after which the stream has ended.

        Raises:
            OSError: the source cannot be opened.
            ValueError: nothing that can be shown arrived.
        """
        self._source, self.reception = source, Reception(live=is_url(source))
        self._rtp: RtpReader | None = None
        try:
            self._container = self._opened(timeout)
        except (FFmpegError, OSError) as error:
            self._closed()
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"{source} cannot be received: {reason}.") from error
        self._stream: VideoStream = self._container.streams.video[0]
        self._frames = self._decoded()
        self._start: Fraction | None = None
        self._earliest = np.inf
        self._first = next(self._frames, None)
        if self._first is None:
            raise ValueError(f"{source} sent nothing that can be shown within {timeout:.3g} s.")
        rate = self._rate()
        self.info = ClipInfo(
            self._first.width,
            self._first.height,
            rate,
            Fraction(1, 90000),
            colour=Colour.of(self._first),
            pixel_format=self._first.format.name,
        )

    def __iter__(self) -> Iterator[TimedFrame]:
        step, before = 1 / self.info.rate, None
        waiting: av.VideoFrame | None = self._first
        while waiting is not None:
            pts = self._time(waiting)
            if before is not None:
                self.reception.gaps += max(0, round((pts - before) / step) - 1)
            if before is None or pts > before:
                # When the frame would have arrived, had it been sent at once: the fastest counts.
                self._earliest = min(self._earliest, time.monotonic() - float(pts))
                yield TimedFrame(picture(waiting, self.info.colour), pts, step)
                before = pts
            waiting = next(self._frames, None)

    def close(self) -> None:
        """Close the connection."""
        self._container.close()
        self._closed()

    def shown(self, frame: TimedFrame, buffer: float) -> TimedFrame:
        """Note that a frame is ready, and wait until it is due.

        Args:
            frame: a frame to show.
            buffer: seconds that frames are shown after the earliest time they could have arrived.
        """
        ready = time.monotonic() - self._earliest - float(frame.pts)
        self.reception.latencies.append(ready)
        if not buffer:
            return frame
        if ready > buffer:
            self.reception.late += 1
        else:
            time.sleep(buffer - ready)
        return frame

    def _opened(self, timeout: float) -> InputContainer:
        """Open the source; wait for the first packets of a stream four times the timeout."""
        source, wait = self._source, str(round(timeout * 1e6))
        if not is_url(source):
            return av.open(source)
        options = {
            # By default, FFmpeg reads up to 5 MB or 5 s before the first frame. The codec states
            # the rate, so that no frames are needed to guess it.
            "probesize": "200000",
            "analyzeduration": "500000",
            "rw_timeout": wait,
            "fpsprobesize": "0",
        }
        if source.startswith("rtp:"):
            self._rtp = RtpReader(source, patience=4 * timeout, timeout=timeout)
            return av.open(self._rtp, "r", format="mpegts", options=options, buffer_size=PAYLOAD)
        url = source
        if source.startswith("udp:"):
            url += f"{'&' if '?' in source else '?'}{_QUEUE}&timeout={wait}"
        # PyAV's own timeout for reading would count from the first packet on.
        return av.open(url, options=options, timeout=(4 * timeout, None))

    def _closed(self) -> None:
        if self._rtp is not None:
            self._rtp.close()

    def _rate(self) -> Fraction:
        """Return the rate that the codec states; otherwise that which the container measured."""
        context: Any = self._stream.codec_context
        for rate in (context.framerate, self._stream.average_rate, self._stream.guessed_rate):
            found = as_fraction(rate)
            # More is the rate of ticks, which some streams state.
            if found and found <= 1000:
                return found
        return Fraction(25)

    def _time(self, frame: av.VideoFrame) -> Fraction:
        time_of_frame = (frame.pts or 0) * (as_fraction(frame.time_base) or Fraction(1, 90000))
        if self._start is None:
            self._start = time_of_frame
        return time_of_frame - self._start

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Yield frames without damage until the stream ends."""
        damaged = True  # until the first key frame
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (OSError, FFmpegError):  # nothing arrived for some time
                packet = None
            if packet is None:
                return
            if packet.is_corrupt:
                damaged = True
            elif packet.is_keyframe:
                damaged = False
            # The empty packet at the end has to reach the decoder, to flush it.
            if damaged and packet.size:
                # What came before the first key frame is no loss.
                self.reception.left_out += self.reception.frames > 0
                continue
            try:
                frames = packet.decode()
            except FFmpegError:
                damaged = True
                self.reception.left_out += 1
                continue
            for frame in frames:
                if isinstance(frame, av.VideoFrame) and not frame.is_corrupt:
                    self.reception.frames += 1
                    yield frame


def restored(
    receiver: Receiver,
    network: Network,
    drop: int,
    pipeline: Pipeline,
    *,
    cut: Cut = "ignore",
) -> Iterator[TimedFrame]:
    """Yield the frames of the original clip: those received, and between them those restored.

    Args:
        receiver: what was sent.
        network: restores frames.
        drop: K; one frame in K was sent.
        pipeline: receives and computes at the same time.
        cut: what is shown at cuts; finding them delays all frames by 3 sent frames.
    """
    # A rate instead of a factor: gaps of any length then get frames at their exact times.
    options = stream.Options(fps=receiver.info.rate * drop, cut=cut)
    received: Iterable[TimedFrame] = pipeline.stage("receive", receiver, capacity=64)
    made = stream.interpolate(received, AtOnce(network), options, finest=network.factor)
    # The first frame may wait for the network to be compiled.
    return pipeline.stage("network", stream.fetched(made), patience=600.0)
