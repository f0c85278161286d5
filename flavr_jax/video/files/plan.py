# SPDX-License-Identifier: Apache-2.0
"""Parameters of a video file, chosen before it exists: encoder, pixel format, tags, time unit."""

from __future__ import annotations

import dataclasses
import functools
import math
from fractions import Fraction
from pathlib import Path

from flavr_jax.video.files.encoders import Encoding, check_encoder, options_of
from flavr_jax.video.files.formats import Container, container_of, encoder_for, pixel_format_for
from flavr_jax.video.frames import ClipInfo
from flavr_jax.video.pixels.colour import Colour
from flavr_jax.video.pixels.layout import Layout

__all__ = ["MOV_LIKE", "Plan"]

MOV_LIKE = ("mp4", "mov")
_MACROBLOCK = 16  # pixels; the unit of x264's lookahead
# MP4 stores ticks per second in 32 bits; FFmpeg replaces a value below 10,000 by a multiple of it.
_FEWEST_TICKS, _MOST_TICKS = 10_000, 10**9


@dataclasses.dataclass(frozen=True)
class Plan:
    """Parameters of a video file, chosen before it exists.

    Attributes:
        container: the kind of file.
        encoder: FFmpeg's name of the encoder.
        options: of the encoder.
        pixel_format: how pictures are stored.
        tags: the colour tags.
        kept: layout of source pictures whose values can be stored without conversion; None if
            every picture has to be converted.
        tick: unit of time in seconds; every pts is a multiple of it.
        plays: how often an animation plays, 0 for endlessly.
        threads: of the encoder; 0 lets it choose.
    """

    container: Container
    encoder: str
    options: dict[str, str]
    pixel_format: str
    tags: Colour
    kept: Layout | None
    tick: Fraction
    plays: int = 0
    threads: int = 0

    @classmethod
    def of(cls, name: str, info: ClipInfo, encoding: Encoding) -> Plan:
        """Choose the parameters for an output of this name.

        Raises:
            ValueError: the container cannot hold the codec, or the encoder does not work here.
        """
        container, layout = container_of(name), Layout.of(info.pixel_format)
        encoder = encoder_for(name, encoding, layout)
        check_encoder(encoder)
        options = options_of(encoder, encoding, info.hdr)
        if encoder == "libvpx-vp9" and layout.alpha:
            # Colour and alpha are encoded separately. With lookahead, the two encoders may put
            # out their frames in different orders.
            options["lag-in-frames"] = "0"
        if encoder == "libx264" and _has_avx512() and math.ceil(info.width / _MACROBLOCK) % 8:
            # For such widths x264 core 165 encodes the same frames differently from time to time.
            options["x264-params"] = ":".join([*options.get("x264-params", "").split(), "asm=AVX2"])
        size = (info.width, info.height)
        pixel_format = pixel_format_for(encoder, encoding, container, layout, size)
        tags = info.colour.stored_in(pixel_format, info.height)
        same = (tags.matrix, tags.levels) == (info.colour.matrix, info.colour.levels)
        kept = Layout.of(pixel_format) if same or layout.kind == "rgb" else None
        tick = container.tick or Fraction(1, _ticks_per_second(info.time_base))
        if container.one_rate:
            tick = 1 / info.rate
        # GIF and WebP store the number in 16 bits.
        plays = min(info.plays or 0, 65535)
        threads = encoding.threads or 0
        return cls(container, encoder, options, pixel_format, tags, kept, tick, plays, threads)

    @property
    def muxer(self) -> str:
        """FFmpeg's name of the file's format."""
        return "rawvideo" if self.encoder == "rawvideo" else self.container.muxer

    @property
    def resumable(self) -> bool:
        """True if packets can be stored and written later.

        Some encoders return pointers to frames, or one packet at the end; and PyAV cannot set the
        second stream in which VP9 has its alpha.
        """
        if self.encoder == "libvpx-vp9":
            return not Layout.of(self.pixel_format).alpha
        return self.encoder not in ("wrapped_avframe", "libwebp_anim", "rawvideo")

    @property
    def splittable(self) -> bool:
        """True if segments can be encoded without the times of the frames before them."""
        return self.resumable and not self.container.one_rate

    @property
    def container_options(self) -> dict[str, str]:
        """FFmpeg's options for the file."""
        if self.muxer in MOV_LIKE:
            # A track's start is stored in units of the movie time scale, by default 1 ms.
            return {"movie_timescale": str(self.tick.denominator), "movflags": "+faststart"}
        if self.muxer in ("matroska", "webm"):
            return {"fflags": "+bitexact"}  # otherwise each file has random identifiers
        # FFmpeg writes Y4M of more than 8 bits only with this option.
        return {"strict": "-1", **({"loop": str(self.plays)} if self.muxer == "webp" else {})}


@functools.cache
def _has_avx512() -> bool:
    """Return whether x264 would use AVX-512, as far as Linux tells."""
    try:
        return "avx512bw" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _ticks_per_second(time_base: Fraction) -> int:
    """Return ticks per second such that every multiple of ``time_base`` is a whole number of them.

    At most 10⁹, where times are rounded to nanoseconds.
    """
    ticks = time_base.denominator
    return min(ticks * max(1, math.ceil(_FEWEST_TICKS / ticks)), _MOST_TICKS)
