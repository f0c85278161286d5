# SPDX-License-Identifier: Apache-2.0
"""Video encoders: their codecs, and their options for quality, speed and losslessness.

Pixel formats and availability of an encoder are queried from FFmpeg, because they depend on its
build and on the GPU.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from fractions import Fraction
from typing import Literal, TypeAlias, cast

import av
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.format import names as pixel_formats  # pyright: ignore[reportAttributeAccessIssue]

from flavr_jax.video.pixels.hdr import StaticHDR
from flavr_jax.video.pixels.layout import Layout

__all__ = ["ENCODERS", "Encoder", "Encoding", "check_encoder", "failure", "options_of", "stored"]

# SVT-AV1 prints a long banner on stderr unless its log level is set to errors only.
os.environ.setdefault("SVT_LOG", "1")

Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]
CodecName = Literal[
    "auto", "h264", "hevc", "av1", "vp9", "prores", "ffv1", "raw",
    "h264_nvenc", "hevc_nvenc", "av1_nvenc", "h264_qsv", "hevc_qsv", "av1_qsv",
    "h264_videotoolbox", "hevc_videotoolbox",
]  # fmt: skip
Options: TypeAlias = dict[str, str | list[str]]


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How frames are compressed and stored.

    Attributes:
        codec: auto takes the container's first codec that suits the source's bit depth and alpha;
            h264 plays everywhere, hevc and av1 make smaller files, ffv1 is lossless, prores is for
            editing; names with an underscore run on a GPU.
        crf: quality, from 0 (best) to 51 (h264, hevc) or 63 (av1, vp9); the default of 18 or 23 is
            hard to tell from the source.
        preset: slower presets make smaller files.
        lossless: keep every value that the pixel format can hold; makes large files.
        pixel_format: how pixels are stored, such as yuv420p10le; by default as in the source, or
            the nearest format that the codec can store.
        audio: auto copies the sound, but drops it in slow motion; stretch slows it down there at
            the same pitch.
        threads: threads of the encoder; by default as many as suit the machine. H.264 files depend
            on it a little.
        images: file format of images in a folder; auto is exr if the source is exr, else png; 16
            bits per channel if the source has more than 8.
    """

    codec: CodecName = "auto"
    crf: int | None = None
    preset: Preset = "medium"
    lossless: bool = False
    pixel_format: str | None = None
    audio: Literal["auto", "copy", "stretch", "drop"] = "auto"
    threads: int | None = None
    images: Literal["auto", "png", "jpg", "tiff", "exr"] = "auto"

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 128:
            raise ValueError(f"`threads` is {self.threads}; it goes from 1 to 128.")
        if self.crf is not None and not 0 <= self.crf <= 63:
            raise ValueError(
                f"`crf` is {self.crf}; it goes from 0 (best) to 51, or 63 for av1, vp9."
            )
        if self.pixel_format is not None and self.pixel_format not in pixel_formats:
            raise ValueError(
                f"`pixel_format` is {self.pixel_format!r}, which FFmpeg does not know; write one "
                "such as yuv420p, yuv422p10le or gbrp."
            )


@dataclasses.dataclass(frozen=True)
class Encoder:
    """One way to encode a codec.

    Attributes:
        codec: the codec that it encodes.
        crf: the default quality and the worst one.
        options: returns FFmpeg's options for quality, preset and losslessness; lists are joined by
            colons.
        matroska: Matroska's codec ID, for encoders whose bitstream cannot carry HDR metadata.
        delivery: whether it is made for players, which mostly show 4:2:0 only.
        even: whether the sides of pictures with subsampled chroma have to be even.
        narrowest: width of the narrowest pictures that it encodes.
        parameters: FFmpeg's option that passes parameters to the encoder itself.
    """

    codec: str
    options: Callable[[Encoding, int], Options]
    crf: tuple[int, int] = (18, 51)
    matroska: str | None = None
    delivery: bool = True
    even: bool = True
    narrowest: int = 1
    parameters: str | None = None


def _x264(encoding: Encoding, crf: int) -> Options:
    quality = {"qp": "0"} if encoding.lossless else {"crf": str(crf)}
    return {"preset": encoding.preset, **quality, "x264-params": []}


def _x265(encoding: Encoding, crf: int) -> Options:
    parameters = ["log-level=error"] + ["lossless=1"] * encoding.lossless
    return {"preset": encoding.preset, "crf": str(crf), "x265-params": parameters}


_SPEEDS: dict[str, tuple[int, int, int]] = {  # preset → speed of SVT-AV1, of libvpx, of NVENC
    "ultrafast": (12, 8, 1), "superfast": (11, 6, 1), "veryfast": (10, 5, 2), "faster": (9, 4, 3),
    "fast": (8, 3, 4), "medium": (6, 2, 5), "slow": (4, 1, 6), "slower": (3, 1, 7),
    "veryslow": (2, 0, 7),
}  # fmt: skip


def _svtav1(encoding: Encoding, crf: int) -> Options:
    # Lossless at speeds above 10, SVT-AV1 writes broken streams for some pictures (PyAV 18 and 19).
    speed = min(_SPEEDS[encoding.preset][0], 10 if encoding.lossless else 13)
    parameters = ["lossless=1"] * encoding.lossless
    return {"preset": str(speed), "crf": str(crf), "svtav1-params": parameters}


def _vpx(encoding: Encoding, crf: int) -> Options:
    speed = str(_SPEEDS[encoding.preset][1])
    # With a bit rate other than 0, crf would only limit the quality instead of setting it.
    quality = {"lossless": "1"} if encoding.lossless else {"crf": str(crf), "b": "0"}
    return {"deadline": "good", "cpu-used": speed, "row-mt": "1", **quality}


def _nvenc(encoding: Encoding, crf: int) -> Options:
    preset = f"p{_SPEEDS[encoding.preset][2]}"
    if encoding.lossless:
        return {"preset": preset, "tune": "lossless"}
    # As for libvpx: with FFmpeg's default bit rate, cq would only be a limit.
    return {"preset": preset, "rc": "vbr", "cq": str(crf), "b": "0"}


def _qsv(encoding: Encoding, crf: int) -> Options:
    # Quick Sync has no presets faster than veryfast.
    known = ("veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
    preset = encoding.preset if encoding.preset in known else "veryfast"
    return {"preset": preset, "global_quality": str(max(1, crf))}


def _videotoolbox(encoding: Encoding, crf: int) -> Options:
    # VideoToolbox's quality goes from 1 to 100, the best; crf goes the other way.
    return {"q:v": str(round(100 - 2 * min(crf, 49)))}


def _ffv1(encoding: Encoding, crf: int) -> Options:
    # Version 3 of FFV1 has slices, which are coded in parallel, with a checksum for each.
    return {"level": "3", "slicecrc": "1"}


def _webp(encoding: Encoding, crf: int) -> Options:
    # WebP's quality goes from 0 to 100, the best; crf goes the other way.
    return {"lossless": "1"} if encoding.lossless else {"quality": str(100 - crf)}


def _none(encoding: Encoding, crf: int) -> Options:
    return {}


ENCODERS = {
    "libx264": Encoder("h264", _x264, parameters="x264-params"),
    # x265 writes out of bounds for pictures that are narrower than one of its blocks.
    "libx265": Encoder("hevc", _x265, narrowest=64, parameters="x265-params"),
    "libsvtav1": Encoder("av1", _svtav1, (23, 63), parameters="svtav1-params"),
    "libvpx-vp9": Encoder("vp9", _vpx, (23, 63), "V_VP9", even=False),
    "ffv1": Encoder("ffv1", _ffv1, matroska="V_FFV1", delivery=False, even=False),
    "prores": Encoder("prores", _none, matroska="V_PRORES", delivery=False, even=False),
    "libwebp_anim": Encoder("webp", _webp, (10, 100), delivery=False, even=False),
    "gif": Encoder("gif", _none, delivery=False, even=False),
    "wrapped_avframe": Encoder("y4m", _none, delivery=False, even=False),
    "rawvideo": Encoder("raw", _none, delivery=False, even=False),
    **{f"{codec}_nvenc": Encoder(codec, _nvenc) for codec in ("h264", "hevc", "av1")},
    **{f"{codec}_qsv": Encoder(codec, _qsv) for codec in ("h264", "hevc", "av1")},
    **{f"{codec}_videotoolbox": Encoder(codec, _videotoolbox) for codec in ("h264", "hevc")},
}
# Pixel formats to use in place of the list that FFmpeg gives.
_FORMATS = {
    # Lossy WebP is always BT.601, so RGB is passed on, which libwebp converts by itself.
    "libwebp_anim": ("bgra",),
    "gif": ("bgra",),
    "libvpx-vp9": ("yuv420p", "yuva420p", "yuv422p", "yuv440p", "yuv444p", "gbrp"),
    # Y4M has names for these.
    "wrapped_avframe": (
        "gray", "gray10le", "gray12le", "gray16le",
        "yuv420p", "yuv420p10le", "yuv420p12le", "yuv420p16le",
        "yuv422p", "yuv422p10le", "yuv422p12le", "yuv422p16le",
        "yuv444p", "yuv444p10le", "yuv444p12le", "yuv444p16le",
    ),
}  # fmt: skip


def options_of(encoder: str, encoding: Encoding, hdr: StaticHDR | None) -> dict[str, str]:
    """Return FFmpeg's options for an encoder.

    Raises:
        ValueError: the quality is outside the encoder's range.
    """
    kind = ENCODERS[encoder]
    crf = kind.crf[0] if encoding.crf is None else encoding.crf
    if crf > kind.crf[1]:
        raise ValueError(
            f"`crf` is {crf}; for {kind.codec} it goes from 0 (best) to {kind.crf[1]}."
        )
    options = kind.options(encoding, crf)
    if kind.parameters is not None and hdr is not None:
        options[kind.parameters] = [*options[kind.parameters], *hdr.parameters(encoder)]
    joined = {key: v if isinstance(v, str) else ":".join(v) for key, v in options.items()}
    return {key: value for key, value in joined.items() if value}


def check_encoder(encoder: str) -> None:
    """Raise a ValueError that names the working encoders if this one does not work here."""
    reason = failure(encoder)
    if reason is None:
        return
    works = [name for name in ENCODERS if ENCODERS[name].delivery and failure(name) is None]
    raise ValueError(
        f"The encoder {encoder} cannot be used here ({reason}); those that can: "
        f"{', '.join([*works, 'prores', 'ffv1'])}."
    )


@functools.cache
def stored(encoder: str) -> list[str]:
    """Return the pixel formats that an encoder can store, each once."""
    if encoder in _FORMATS:
        return list(_FORMATS[encoder])
    if encoder == "rawvideo":
        return sorted(pixel_formats)
    names = [form.name for form in av.Codec(encoder, "w").video_formats or []]
    # yuvj formats only repeat the range tag; no decoder here reads the alpha that x265 writes.
    return [
        name
        for name in names
        if not name.startswith("yuvj")
        and av.VideoFormat(name).components
        and not (encoder == "libx265" and Layout.of(name).alpha)
    ]


@functools.cache
def failure(encoder: str) -> str | None:
    """Try to open an encoder, and return why it does not work on this machine; None if it does."""
    if encoder in ("wrapped_avframe", "rawvideo", "gif"):
        return None
    try:
        context = cast(VideoCodecContext, av.CodecContext.create(encoder, "w"))
        context.width, context.height, context.pix_fmt = 640, 480, stored(encoder)[0]
        context.options = options_of(encoder, Encoding(), None)
        context.framerate, context.time_base = Fraction(25), Fraction(1, 25)
        context.open()
    except UnknownCodecError:
        return "this build of FFmpeg lacks it"
    except FFmpegError as error:
        return str(error.strerror)
    return None
