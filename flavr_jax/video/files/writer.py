# SPDX-License-Identifier: Apache-2.0
"""Writes timed frames to video files with exact times, unchanged colours and copied streams.

MP4 and MOV count time in ticks of any length; the length is chosen so that every pts is a whole
number of ticks. Matroska rounds each pts to a millisecond; AVI and Y4M have one constant rate.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import av
from av.codec.context import Flags
from av.container import OutputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.packet import Packet
from av.video.stream import VideoStream

from flavr_jax.partial import Partial
from flavr_jax.video.excerpt import Span
from flavr_jax.video.files import phone_tags
from flavr_jax.video.files.encoders import ENCODERS, Encoding
from flavr_jax.video.files.names import file_url
from flavr_jax.video.files.plan import MOV_LIKE, Plan
from flavr_jax.video.files.reader import explained
from flavr_jax.video.files.streams import OtherStreams
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.journal.encoding import SegmentedEncoder
from flavr_jax.video.journal.job import Job
from flavr_jax.video.journal.journal import Journal, Part
from flavr_jax.video.journal.segments import sync
from flavr_jax.video.pixels import hdr
from flavr_jax.video.pixels.colour import conversion, from_rgb, from_samples, repacked
from flavr_jax.video.pixels.conversion import Conversion
from flavr_jax.video.pixels.layout import Layout
from flavr_jax.video.pixels.picture import Planar
from flavr_jax.video.stills.animations import last_until

__all__ = ["VideoWriter"]

logger = logging.getLogger(__name__)


class VideoWriter:
    """Writes a video file, which gets its name when it is complete, or a pipe.

    Attributes:
        conversion: from RGB to the planes that the file stores.
    """

    def __init__(
        self,
        path: Path,
        info: ClipInfo,
        *,
        encoding: Encoding = Encoding(),
        others: Path | None = None,
        stretch: Fraction = Fraction(1),
        span: Span | None = None,
        overwrite: bool = False,
        job: Job | Part | None = None,
    ) -> None:
        """Create the partial file and write its header.

        Args:
            path: a name with a suffix of ``formats.CONTAINERS``, or ``-`` for standard output.
            info: properties of the frames to come.
            encoding: codec and quality.
            others: a file whose sound, subtitles, chapters and metadata are copied.
            stretch: duration of the output divided by that of ``others``.
            span: the part of ``others`` to copy.
            overwrite: whether ``path`` may exist.
            job: what the result depends on. Given it, finished segments are kept if the run is
                interrupted, and the next run of the same job goes on after them. Given a part of
                another writer's segments, only these are of use.

        Raises:
            OSError: ``path`` exists, cannot be written, or is being written by another run.
            ValueError: the container cannot hold the codec, or the encoder does not work here.
        """
        self.path, self.info = path, info
        self._plan = Plan.of(str(path), info, encoding)
        planar = Layout.of(self._plan.pixel_format).planar
        self.conversion: Conversion | None = conversion(planar, self._plan.tags, info.height)
        self._first: int | None = None
        self._last: int | None = None
        self._duration, self._moved, self._doubled = 1, False, False
        mov_like = self._plan.muxer in MOV_LIKE
        self._phone_tags = mov_like and others is not None and phone_tags.in_file(others)
        with contextlib.ExitStack() as undo:
            self._partial = None if str(path) == "-" else Partial(path, overwrite=overwrite)
            self._container = self._open(undo)
            part = job if isinstance(job, Part) else None
            self._journal = None if isinstance(job, Part) else self._open_journal(job, undo)
            with explained(f"{path} cannot hold this video; use another suffix or --codec"):
                self._stream = self._add_video(self._container)
                self._others = others and self._open_others(others, encoding, stretch, span, undo)
                self._container.start_encoding()
            kept = part or (self._journal if self._plan.resumable else None)
            self._encoder = SegmentedEncoder(self._stream, self._memory_file, self._plan.tick, kept)
            undo.callback(self._encoder.close)
            self._mux(self._encoder.replay())
            self._undo = undo.pop_all()
        self._tell_of_losses()

    @property
    def done(self) -> int:
        """Number of frames that an earlier run has finished; their pixels are not read."""
        return self._encoder.done

    def write(self, frame: TimedFrame) -> None:
        """Encode a frame and copy the other streams up to its time; pts must increase."""
        tick = round(frame.pts / self._plan.tick)
        if self._plan.container.one_rate:
            # A tick is one frame here: if two frames round to the same, the second takes the next.
            tick = max(tick, 0 if self._last is None else self._last + 1)
            if abs(tick * self._plan.tick - frame.pts) > self._plan.tick / 100 and not self._moved:
                self._moved = True
                logger.warning(
                    "%s knows one rate: frames are shown at multiples of 1/%.6g s.",
                    self.path.suffix or "A pipe",
                    1 / self._plan.tick,
                )
        elif self._last is not None and tick <= self._last:
            self._warn_of_doubled_times()
        late = self._last is None and tick > 0 and self._plan.muxer == "avi"
        if late and self._others is not None and self._others.has_sound:
            # AVI has no start times, so show the first picture from zero on, where sound starts.
            self._encode(frame, 0, tick, counted=False)
        self._first = tick if self._first is None else self._first
        self._last = tick
        self._duration = max(1, round(frame.duration / self._plan.tick))
        self._encode(frame, tick, self._duration)

    def _encode(self, frame: TimedFrame, tick: int, duration: int, *, counted: bool = True) -> None:
        packets = self._encoder.encode(
            lambda: self._picture(frame), tick, duration, counted=counted
        )
        self._mux(packets)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._undo:
            if kind is None:
                self._finish()

    @property
    def broken(self) -> int:
        """Number of sound and subtitle packets left out, as they could not be read or written."""
        return self._others.broken if self._others is not None else 0

    def _finish(self) -> None:
        """Write what is left, close the file and give it its name.

        Raises:
            OSError: the file could not be completed; what was written is kept, and the message
                gives its path.
        """
        packets = self._encoder.finish(self._duration)
        try:
            self._mux(packets)
            self._copy_rest()
            self._container.close()
            if self._partial is not None and self._phone_tags:
                phone_tags.rename_second_date(self._partial.path)
            if self._partial is not None and self._plan.muxer == "webp":
                end = (self._last or 0) + self._duration - (self._first or 0)
                last_until(self._partial.path, end)
            if self._partial is not None and self._journal is not None:
                sync(self._partial.path)  # the segments are removed when it has its name
        except (FFmpegError, OSError, ValueError) as error:
            if self._partial is None:
                raise
            message = (
                f"{self.path} could not be finished: {getattr(error, 'strerror', None) or error}."
            )
            if self.kept == 0:
                message += f" What was written is kept as {self._partial.keep()}."
            raise OSError(message) from error
        if self._partial is not None:
            self._partial.commit()
        if self._journal is not None:
            self._journal.close(complete=True)

    @property
    def kept(self) -> int:
        """Number of frames that the next run of the same job will not have to make."""
        return self._journal.frames if self._journal is not None else 0

    def _open_journal(self, job: Job | None, undo: contextlib.ExitStack) -> Journal | None:
        """Open the journal of a job, in which the partial file is named."""
        if job is None or self._partial is None:
            return None
        journal = Journal(self._partial.target, job)
        undo.callback(journal.close, complete=False)
        journal.claim(self._partial.path)
        return journal

    def _open_others(
        self,
        path: Path,
        encoding: Encoding,
        stretch: Fraction,
        span: Span | None,
        undo: contextlib.ExitStack,
    ) -> OtherStreams:
        """Open the file whose sound, subtitles and metadata are copied; ``undo`` closes it."""
        with self._memory_file() as empty:
            others = OtherStreams(
                path,
                self._container,
                self._plan.container,
                pictures=empty,
                sound=encoding.audio,
                stretch=stretch,
                span=span,
            )
        undo.callback(others.close)
        return others

    def _copy_rest(self) -> None:
        """Copy what is left of the other streams; if that fails, the video is kept."""
        try:
            if self._others is not None:
                self._others.copy()
        except (FFmpegError, OSError, ValueError, ArithmeticError) as error:
            logger.warning(
                "%s: sound and subtitles end early (%s).", self.path,
                getattr(error, "strerror", None) or error,
            )  # fmt: skip

    def _mux(self, packets: Iterable[Packet]) -> None:
        """Write packets of the video, each after those of other streams that start before it.

        FFmpeg's muxer buffers packets to write those of all streams in the order of their times.
        An error for a packet of the video may therefore come from another stream's packet.
        """
        for packet in packets:
            if self._others is not None and packet.dts is not None:
                self._others.copy(until=packet.dts * self._plan.tick)
            try:
                self._container.mux_one(packet)
            except (ArgumentError, InvalidDataError):
                if self._others is None or not self._others.blame():
                    raise

    def _open(self, undo: contextlib.ExitStack) -> OutputContainer:
        """Open the partial file, or standard output."""
        # `undo` runs in reverse: the file is closed before it is discarded.
        if self._partial is not None:
            undo.callback(self._partial.discard)
        options = self._plan.container_options
        if self._phone_tags:
            options["movflags"] += "+use_metadata_tags"
        if self._partial is None:
            _widen(1)
        container = av.open(
            "pipe:1" if self._partial is None else file_url(self._partial.path),
            "w",
            format=self._plan.muxer,
            options=options,
        )
        undo.callback(_close, container)
        return container

    def _picture(self, frame: TimedFrame) -> av.VideoFrame:
        """Convert a frame to the stored format; an original keeps its values if they fit."""
        original = frame.original
        if (
            original is not None
            and self._plan.kept == Layout.of(original.format.name)
            and (original.width, original.height) == (self.info.width, self.info.height)
        ):
            picture = repacked(original, self._plan.pixel_format)
            picture.pict_type = 0  # otherwise the encoder would copy the source's key frames
            return picture
        made, plan = frame.picture, self._plan
        if isinstance(made, Planar) and made.conversion == self.conversion:
            return from_samples(made.samples, made.size, plan.pixel_format, plan.tags)
        return from_rgb(frame.pixels, plan.pixel_format, plan.tags)

    @contextlib.contextmanager
    def _memory_file(self) -> Iterator[VideoStream]:
        """Yield the video stream of a file in memory, for trials and for segments."""
        # "+faststart" reads the file again to move its parts, which needs a name.
        options = {k: v for k, v in self._plan.container_options.items() if k != "movflags"}
        with av.open(io.BytesIO(), "w", format=self._plan.muxer, options=options) as empty:
            stream = self._add_video(empty)
            empty.start_encoding()
            yield stream

    def _add_video(self, container: OutputContainer) -> VideoStream:
        info, plan, encoder = self.info, self._plan, ENCODERS[self._plan.encoder]
        if info.hdr is not None and encoder.matroska is not None:
            with hdr.template(encoder.matroska, info.width, info.height, info.hdr) as template:
                stream = container.add_stream_from_template(template.streams.video[0], opaque=False)
        else:
            stream = container.add_stream(plan.encoder, rate=info.rate)
        stream = cast(VideoStream, stream)
        context = stream.codec_context
        context.options = plan.options
        # PyAV's default, SLICE, makes x264 cut every frame into slices: slower, and larger files.
        context.thread_type = "AUTO"
        context.thread_count = plan.threads
        stream.width, stream.height, stream.pix_fmt = info.width, info.height, plan.pixel_format
        stream.time_base = context.time_base = plan.tick
        context.framerate = info.rate
        # Without this flag, encoders assume that every frame is shown for 1 / rate.
        context.flags |= Flags.frame_duration
        context.sample_aspect_ratio = info.pixel_aspect
        context.colorspace, context.color_range = plan.tags.matrix, plan.tags.levels
        context.color_primaries, context.color_trc = plan.tags.primaries, plan.tags.transfer
        if hasattr(context, "chroma_sample_location"):  # not in PyAV 18
            cast(Any, context).chroma_sample_location = plan.tags.siting
        if self._plan.container.one_rate:
            context.max_b_frames = 0  # AVI cannot store the presentation times that these need
        if encoder.codec == "hevc" and plan.muxer in MOV_LIKE:
            context.codec_tag = "hvc1"  # Apple's players refuse FFmpeg's default, hev1
        if info.display_matrix is not None:
            stream.set_display_matrix(info.display_matrix)
        context.open()  # PyAV does not open a stream that was made from a template
        return stream

    def _warn_of_doubled_times(self) -> None:
        """Log once that frames follow each other faster than the file's unit of time."""
        if not self._doubled:
            logger.warning(
                "%s: %s counts time in steps of %g ms, so that several frames get equal times "
                "(%.6g frames/s); an --output in .mp4 or .mov keeps all times.",
                self.path, self._plan.muxer, 1000 * self._plan.tick, self.info.rate,
            )  # fmt: skip
        self._doubled = True

    def _tell_of_losses(self) -> None:
        """Log one line if the output stores less than the source."""
        if not self._plan.container.one_rate and self._plan.tick * self.info.rate > 1:
            self._warn_of_doubled_times()
        source = Layout.of(self.info.pixel_format)
        stored = Layout.of(self._plan.pixel_format)
        lost = ["transparency"] * (source.alpha and not stored.alpha)
        if stored.bits < source.bits:
            lost.append(f"{source.bits - stored.bits} of {source.bits} bits")
        if source.kind == "yuv" and any(t > s for s, t in zip(source.chroma, stored.chroma)):
            lost.append("chroma resolution")
        if lost:
            holds = ", ".join(self._plan.container.holds)
            logger.warning(
                "%s: stored as %s, which loses %s (--codec: %s).",
                self.path, self._plan.pixel_format, " and ".join(lost), holds,
            )  # fmt: skip
        if ENCODERS[self._plan.encoder].even and (self.info.width % 2 or self.info.height % 2):
            logger.warning(
                "%d×%d is an odd size: written as %s, which browsers and some players cannot show.",
                self.info.width, self.info.height, self._plan.pixel_format,
            )  # fmt: skip


def _widen(pipe: int) -> None:
    """Let a pipe hold 1 MiB, so that its writer and reader take turns less often; Linux alone can.

    Linux's default is 64 KiB, a twentieth of a frame of 1280×720.
    """
    # Standard output may be a file, and a system may limit the size of pipes.
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


def _close(container: OutputContainer) -> None:
    """Close a file that is discarded or already closed."""
    with contextlib.suppress(FFmpegError, ValueError):
        container.close()
