# SPDX-License-Identifier: Apache-2.0
"""Rate and distortion of clips sent with all frames, and with one in K and the others restored.

Both are encoded by the same encoder at several qualities. A method that drops frames spends fewer
bytes at one quality, but the other could have spent fewer bytes at a lower quality: only curves of
quality over rate compare them, and the Bjøntegaard delta is the distance between two curves.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias, cast

import av
import av.filter
import numpy as np
from av.filter.context import FilterContext
from av.video.codeccontext import VideoCodecContext

from flavr_jax.extras import install_command
from flavr_jax.typing import Frame, Frames
from flavr_jax.video.files.encoders import Encoding, options_of
from flavr_jax.video.pixels.colour import Colour, from_rgb, to_rgb

__all__ = ["CODECS", "Point", "Score", "bd_rate", "decode", "encode", "measure", "vmaf"]

Restore: TypeAlias = Callable[[Frames, int], Frames]
"""Makes ``(n − 1) · K + 1`` frames from n, such as an Interpolator does."""
Score: TypeAlias = Callable[[Frames, Frames], Mapping[str, float]]
"""Returns the mean of each metric over frames and their originals."""

CODECS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}
"""Encoders, by codec."""

_TAGS = Colour(matrix=6, levels=1, primaries=1, transfer=1)  # BT.601 matrix, limited range


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a curve.

    Attributes:
        drop: K; 1 if all frames were sent.
        crf: quality setting of the encoder.
        rate: kilobits per second.
        scores: metrics of all frames.
        kept: metrics of the frames that were sent.
        restored: metrics of the others; empty if there are none.
    """

    drop: int
    crf: int
    rate: float
    scores: Mapping[str, float]
    kept: Mapping[str, float]
    restored: Mapping[str, float]


def encode(frames: Iterable[Frame], rate: Fraction, codec: str, encoding: Encoding) -> list[bytes]:
    """Encode frames as 4:2:0 with 8 bits; return the packets in decoding order."""
    encoder = cast(VideoCodecContext, av.CodecContext.create(CODECS[codec], "w"))
    encoder.options = options_of(CODECS[codec], encoding, None)
    encoder.framerate, encoder.time_base = rate, 1 / rate
    encoder.pix_fmt = "yuv420p"
    packets: list[bytes] = []
    for index, frame in enumerate(frames):
        if index == 0:
            encoder.height, encoder.width = frame.shape[:2]
        picture = from_rgb(frame, "yuv420p", _TAGS)
        picture.pts, picture.time_base = index, 1 / rate
        packets += map(bytes, encoder.encode(picture))
    return [*packets, *map(bytes, encoder.encode(None))]


def decode(packets: Iterable[bytes], codec: str) -> Frames:
    """Decode the packets of :func:`encode`."""
    # FFmpeg's own decoder of AV1 works with hardware only.
    names = {"av1": "libdav1d"}
    decoder = cast(VideoCodecContext, av.CodecContext.create(names.get(codec, codec), "r"))
    pictures = [each for data in packets for each in decoder.decode(av.Packet(data))]
    return np.stack([to_rgb(each, _TAGS) for each in [*pictures, *decoder.decode(None)]])


def measure(
    frames: Frames,
    rate: Fraction,
    codec: str,
    encoding: Encoding,
    drop: int,
    restore: Restore,
    score: Score,
) -> Point:
    """Send one frame in ``drop``, restore the others, and compare all frames with the originals.

    Frames after the last one that is sent are left out.

    Args:
        frames: uint8 RGB ``[n, height, width, 3]`` with even sides.
        rate: frames per second.
        codec: one of ``CODECS``.
        encoding: quality and speed of the encoder.
        drop: K; 1 sends all frames.
        restore: makes the dropped frames.
        score: compares.
    """
    frames = frames[: (len(frames) - 1) // drop * drop + 1]
    packets = encode(frames[::drop], rate / drop, codec, encoding)
    shown = decode(packets, codec)
    if drop > 1:
        shown = restore(shown, drop)
    sent = np.arange(len(frames)) % drop == 0
    return Point(
        drop,
        encoding.crf or 0,
        # Per second of the whole clip, also if fewer frames were sent.
        8 * sum(map(len, packets)) / float(len(frames) / rate) / 1000,
        score(shown, frames),
        score(shown[sent], frames[sent]),
        score(shown[~sent], frames[~sent]) if drop > 1 else {},
    )


def bd_rate(anchor: Sequence[Point], other: Sequence[Point], metric: str) -> float | None:
    """Return by how many percent more bits ``other`` needs for equal quality; negative if fewer.

    Args:
        anchor: points of a curve, at least 4.
        other: likewise.
        metric: a metric of both; more of it is better, except for LPIPS.

    Returns:
        Bjøntegaard's delta with Akima splines; None if no quality is reached by both curves.

    Raises:
        ModuleNotFoundError: the package bjontegaard is not installed.
    """
    try:
        import bjontegaard
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"BD rates need the package bjontegaard: {install_command('bandwidth')}."
        ) from error
    sign = -1.0 if metric == "lpips" else 1.0
    curves = [
        sorted((sign * point.scores[metric], point.rate) for point in points)
        for points in (anchor, other)
    ]
    if max(curve[0][0] for curve in curves) >= min(curve[-1][0] for curve in curves):
        return None
    (qualities, rates), (other_qualities, other_rates) = (
        map(list, zip(*curve)) for curve in curves
    )
    delta: Any = bjontegaard.bd_rate(
        rates,
        qualities,
        other_rates,
        other_qualities,
        method="akima",
        require_matching_points=False,
        # Whether the curves meet is decided above.
        min_overlap=0,
    )
    return float(delta)


def vmaf(frames: Frames, originals: Frames) -> list[float]:
    """Return VMAF (v0.6.1) of each frame, measured by FFmpeg's filter.

    Raises:
        ValueError: this FFmpeg lacks libvmaf.
    """
    if "libvmaf" not in av.filter.filters_available:
        raise ValueError("VMAF needs an FFmpeg with libvmaf, and this one has none; leave it out.")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "vmaf.json"
        _compare(frames, originals, f"log_fmt=json:log_path={log}")
        gc.collect()  # the filter writes its log when the graph, which refers to itself, is freed
        return [each["metrics"]["vmaf"] for each in json.loads(log.read_text())["frames"]]


def _compare(frames: Frames, originals: Frames, options: str) -> None:
    """Run FFmpeg's libvmaf over both clips."""
    height, width = frames.shape[1:3]
    yuv420p = av.VideoFormat("yuv420p")  # PyAV 18 takes no name here
    graph = av.filter.Graph()
    made, true = (
        graph.add_buffer(width=width, height=height, format=yuv420p, time_base=Fraction(1, 25))
        for _ in range(2)
    )
    compared, sink = graph.add("libvmaf", options), graph.add("buffersink")
    made.link_to(compared, 0, 0)
    true.link_to(compared, 0, 1)
    compared.link_to(sink)
    graph.configure()
    for index, pair in enumerate(zip(frames, originals)):
        for source, pixels in zip((made, true), pair):
            picture = from_rgb(pixels, "yuv420p", _TAGS)
            picture.pts, picture.time_base = index, Fraction(1, 25)
            source.push(picture)
    for source in (made, true):
        source.push(None)
    _drain(sink)


def _drain(sink: FilterContext) -> None:
    while True:
        try:
            cast(Any, sink.pull())
        except (BlockingIOError, EOFError):  # FFmpeg's errors derive from these
            return
