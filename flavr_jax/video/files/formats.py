# SPDX-License-Identifier: Apache-2.0
"""The codecs that each container holds, and the pixel format nearest to a source's."""

from __future__ import annotations

import dataclasses
import functools
from fractions import Fraction
from pathlib import Path

from flavr_jax.video.files.encoders import ENCODERS, Encoding, failure, stored
from flavr_jax.video.pixels.layout import Layout

__all__ = ["CONTAINERS", "Container", "container_of", "encoder_for", "pixel_format_for"]


@dataclasses.dataclass(frozen=True)
class Container:
    """A kind of file.

    Attributes:
        codecs: the choices of ``--codec auto``, in order of preference.
        muxer: FFmpeg's name of the format.
        also: further codecs, used only on request.
        text: the codec of text subtitles in it, if any.
        rich: whether it stores orientation and chapters.
        vp9_alpha: whether it holds VP9's alpha, which is a second stream.
        tick: its unit of time in seconds, if that is fixed.
        one_rate: whether it has one constant frame rate.
    """

    codecs: tuple[str, ...]
    muxer: str
    also: tuple[str, ...] = ()
    text: str | None = None
    rich: bool = False
    vp9_alpha: bool = False
    tick: Fraction | None = None
    one_rate: bool = False

    @property
    def holds(self) -> tuple[str, ...]:
        """All codecs that it holds."""
        return self.codecs + self.also


_MILLISECOND = Fraction(1, 1000)
CONTAINERS = {
    ".mp4": Container(
        ("h264", "hevc", "av1", "vp9"), "mp4", ("ffv1",), text="mov_text", rich=True
    ),
    ".mov": Container(("h264", "hevc", "prores"), "mov", text="mov_text", rich=True),
    ".mkv": Container(
        ("h264", "hevc", "av1", "vp9", "ffv1", "prores"), "matroska",
        text="subrip", rich=True, vp9_alpha=True, tick=_MILLISECOND,
    ),
    ".webm": Container(
        ("vp9", "av1"), "webm", text="webvtt", rich=True, vp9_alpha=True, tick=_MILLISECOND
    ),
    ".avi": Container(("h264", "ffv1"), "avi", one_rate=True),
    ".y4m": Container(("y4m",), "yuv4mpegpipe", one_rate=True),
    ".webp": Container(("webp",), "webp", tick=_MILLISECOND),
    ".gif": Container(("gif",), "gif", tick=Fraction(1, 100)),
}  # fmt: skip
PIPE = Container(("y4m",), "yuv4mpegpipe", ("raw",), one_rate=True)


_NEVER_LOSSLESS = ("prores", "_qsv", "_videotoolbox")
# Hardly any player shows H.264 of more than 8 bits, so it is used only on request.
_AUTO_BITS = {"h264": 8}


def container_of(name: str) -> Container:
    """Return the container for an output of this name.

    Raises:
        ValueError: no container has this suffix.
    """
    suffix = Path(name).suffix.lower()
    if name == "-":
        return PIPE
    if suffix not in CONTAINERS:
        raise ValueError(
            f"{name} has the suffix {suffix!r}; videos are written as {', '.join(CONTAINERS)}, and "
            "a name that ends in / is a folder of images."
        )
    return CONTAINERS[suffix]


def encoder_for(name: str, encoding: Encoding, source: Layout) -> str:
    """Return FFmpeg's name of the encoder for an output of this name.

    Args:
        name: of the output, for its container.
        encoding: what the user asked for.
        source: what the frames hold, for ``--codec auto``.

    Raises:
        ValueError: the container cannot hold the codec, or cannot keep it lossless.
    """
    container = container_of(name)
    codec: str = encoding.codec
    if codec == "auto":
        wanted = source if encoding.pixel_format is None else Layout.of(encoding.pixel_format)
        # Among codecs that suit equally well, min() takes the first: the order of preference.
        codec = min(container.codecs, key=functools.partial(_unfit, wanted, encoding, container))
    if codec in ENCODERS:
        encoder = codec
    else:
        encoder = next(key for key, value in ENCODERS.items() if value.codec == codec)
    if ENCODERS[encoder].codec not in container.holds:
        suffixes = [
            key for key, value in CONTAINERS.items() if ENCODERS[encoder].codec in value.holds
        ]
        raise ValueError(
            f"{Path(name).suffix or name} cannot hold {codec}; it holds "
            f"{', '.join(container.holds)}. Use one of these as --codec, or an --output in "
            f"{', '.join(suffixes) or '- (a pipe)'}."
        )
    if encoding.lossless and encoder.endswith(_NEVER_LOSSLESS):
        raise ValueError(f"`lossless` is set, but {codec} always loses; use ffv1, h264 or hevc.")
    return encoder


def pixel_format_for(
    encoder: str,
    encoding: Encoding,
    container: Container,
    source: Layout,
    size: tuple[int, int],
) -> str:
    """Choose the pixel format: the user's, or else the one nearest to the source.

    Args:
        encoder: its name.
        encoding: what the user asked for.
        container: where it goes.
        source: what the frames hold.
        size: width and height.

    Raises:
        ValueError: the encoder cannot store what the user asked for, or frames of that size.
    """
    offered = _offered(encoder, container)
    if size[0] < ENCODERS[encoder].narrowest:
        raise ValueError(
            f"The frames are {size[0]} pixels wide; {encoder} needs {ENCODERS[encoder].narrowest}. "
            "Use --codec h264 or ffv1."
        )
    if encoding.pixel_format is not None:
        if encoding.pixel_format not in offered:
            raise ValueError(
                f"{encoder} cannot store {encoding.pixel_format}; it stores {', '.join(offered)}."
            )
        return encoding.pixel_format
    if source.kind == "rgb" and ENCODERS[encoder].delivery:
        # Players mostly show 4:2:0 only.
        source = dataclasses.replace(source, kind="yuv", chroma=(1, 1))
    elif source.kind == "grey":
        # Grey has no chroma to lose: prefer the coarsest.
        source = dataclasses.replace(source, chroma=(1, 1))
    if ENCODERS[encoder].even:
        # Chroma must not be subsampled along a side of odd length.
        odd = (size[0] % 2, size[1] % 2)
        offered = [
            form
            for form in offered
            if not any(length and finer for length, finer in zip(odd, Layout.of(form).chroma))
        ]
    # Among equals, a planar format needs no packing.
    return min(offered, key=lambda form: (*_loss(source, Layout.of(form)), _packed(form)))


def _packed(pixel_format: str) -> bool:
    return pixel_format != Layout.of(pixel_format).planar


def _loss(source: Layout, target: Layout) -> tuple[int, ...]:
    """Return a sort key: what storing ``source`` as ``target`` loses, worst first, then wastes."""
    coarser = [max(0, t - s) for s, t in zip(source.chroma, target.chroma)]
    finer = [max(0, s - t) for s, t in zip(source.chroma, target.chroma)]
    return (
        source.alpha and not target.alpha,
        source.kind != "grey" and target.kind == "grey",
        max(0, source.bits - target.bits),
        sum(coarser),
        source.kind != target.kind,
        target.alpha and not source.alpha,
        target.bits - source.bits,
        sum(finer),
    )


def _unfit(source: Layout, encoding: Encoding, container: Container, codec: str) -> tuple[int, ...]:
    """Return a sort key of how badly a codec suits a source; the lowest is chosen."""
    encoder = next(key for key, value in ENCODERS.items() if value.codec == codec)
    if failure(encoder) is not None:
        # Encoders that do not work here come last.
        return (1, 0, 0, 0)
    offered = _offered(encoder, container)
    formats = [Layout.of(form) for form in offered]
    most = min(_AUTO_BITS.get(codec, 16), max(form.bits for form in formats))
    return (
        0,
        encoding.pixel_format is not None and encoding.pixel_format not in offered,
        source.alpha and not any(form.alpha for form in formats),
        max(0, source.bits - most),
    )


def _offered(encoder: str, container: Container) -> list[str]:
    """Return the pixel formats that an encoder can store and a container holds."""
    alpha = encoder != "libvpx-vp9" or container.vp9_alpha
    return [form for form in stored(encoder) if alpha or not Layout.of(form).alpha]
