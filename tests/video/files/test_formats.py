# SPDX-License-Identifier: Apache-2.0
"""Originals keep their values in every container, codec and pixel format that can hold them."""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flavr_jax.video.files.encoders import Encoding, check_encoder, options_of
from flavr_jax.video.files.formats import CONTAINERS, container_of, encoder_for, pixel_format_for
from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.files.sinks import open_sink
from flavr_jax.video.pixels.layout import Layout

LIMITED, FULL = 1, 2
BT709, BT601, HDR10, HLG = (
    (1, LIMITED, 1, 1),
    (6, LIMITED, 6, 6),
    (9, LIMITED, 9, 16),
    (9, 1, 9, 18),
)
FULL709 = (1, FULL, 1, 1)
NAMES = {
    1: "bt709", 6: "smpte170m", 8: "ycgco", 9: "bt2020nc", 13: "iec61966-2-1", 16: "smpte2084",
    18: "arib-std-b67",
}  # fmt: skip
# output, codec, pixel format, tags, frames a second: what is stored losslessly, as cameras,
# broadcasters and archives have it.
KEPT = [
    ("a.mp4", "h264", "yuv420p", BT709, "30000/1001"),
    ("a.mov", "h264", "yuv420p", BT601, "25"),
    ("a.mkv", "h264", "yuv422p", BT709, "50"),
    ("a.mp4", "h264", "yuv444p", FULL709, "24"),
    ("a.mp4", "h264", "yuv420p10le", HLG, "24000/1001"),
    ("a.mp4", "hevc", "yuv420p10le", HDR10, "24000/1001"),
    ("a.mov", "hevc", "yuv422p10le", HLG, "60000/1001"),
    ("a.mkv", "hevc", "yuv444p12le", HDR10, "24"),
    ("a.mkv", "hevc", "gray12le", BT709, "24"),
    ("a.mp4", "h264", "yuv444p", (8, LIMITED, 1, 13), "24"),  # YCgCo, which is not converted here
    ("a.webm", "vp9", "yuv420p", FULL709, "30"),
    ("a.webm", "vp9", "yuv444p", BT709, "15"),
    ("a.mp4", "av1", "yuv420p", BT601, "30"),
    ("a.mkv", "av1", "yuv420p10le", HDR10, "48"),
    ("a.mkv", "ffv1", "yuv422p10le", BT709, "25"),
    ("a.mkv", "ffv1", "yuva444p10le", BT709, "24"),
    ("a.mkv", "ffv1", "gray", FULL709, "24"),
    ("a.mkv", "ffv1", "gbrp12le", (0, FULL, 1, 13), "24"),
    ("a.avi", "ffv1", "yuv420p12le", HDR10, "24"),
    ("a.mp4", "ffv1", "yuva420p", BT709, "24"),
    ("a.y4m", "auto", "yuv420p", BT601, "24000/1001"),
    ("a.y4m", "auto", "yuv422p10le", BT709, "25"),
]


def noise(pix_fmt, count=3, size=(64, 48)):
    """Pictures of random samples, with their bytes as ffmpeg gives them out."""
    random = np.random.default_rng(1)
    for _ in range(count):
        frame = av.VideoFrame(*size, pix_fmt)
        bits = max(c.bits for c in frame.format.components)
        kind = np.uint8 if bits == 8 else np.dtype("<u2")
        for plane in frame.planes:
            rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
            low, high = 16 << (bits - 8), 235 << (bits - 8)
            rows[:, : plane.width] = random.integers(low, high, (plane.height, plane.width))
        yield frame


def stored(frame):
    kind = np.uint8 if max(c.bits for c in frame.format.components) == 8 else np.dtype("<u2")
    return b"".join(
        np.ascontiguousarray(
            np.frombuffer(memoryview(p), kind).reshape(p.height, -1)[:, : p.width]
        ).tobytes()
        for p in frame.planes
    )


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "tags", "rate"), KEPT, ids=lambda value: str(value)
)
def test_originals_are_bit_exact_as_ffmpeg_decodes_them(
    make_clip, pass_through, ffmpeg, tmp_path, name, codec, pix_fmt, tags, rate
):
    pictures = list(noise(pix_fmt))
    expected = [stored(picture) for picture in pictures]
    rate = Fraction(rate)
    source = make_clip(
        "in.mkv", frames=pictures, codec="ffv1", pix_fmt=pix_fmt, tags=tags,
        pts=[index / rate for index in range(3)], tick=1 / rate,
    )  # fmt: skip
    encoding = Encoding(codec, preset="ultrafast", lossless=True, pixel_format=pix_fmt)
    pass_through(source, str(tmp_path / name), encoding=encoding)

    content, report = ffmpeg(
        "-i", tmp_path / name, "-map", "0:v:0", "-fps_mode", "passthrough",
        "-f", "rawvideo", "-pix_fmt", pix_fmt, "-",
    )  # fmt: skip
    size = len(expected[0])
    assert len(content) == 5 * size
    assert [content[index * size : (index + 1) * size] for index in (0, 2, 4)] == expected
    kind = re.search(rf"Video: .*?\b({pix_fmt}\([^)]*\)|{pix_fmt})", report)
    assert kind is not None, report
    if name.endswith((".mp4", ".mov", ".mkv", ".webm")) and "gbr" not in pix_fmt:
        assert ("pc" if tags[1] == FULL else "tv") in kind[1]
        assert all(NAMES[tag] in kind[1] for tag in {tags[0], tags[3]})


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "tags"), sorted({(*case[:3], case[3]) for case in KEPT}), ids=str
)
def test_a_still_clip_does_not_flicker(
    make_clip, pass_through, tmp_path, name, codec, pix_fmt, tags
):
    x, y = np.mgrid[0:48, 0:64]
    shades = np.stack([90 + x, 60 + 2 * y, 200 - x - y], axis=-1).astype(np.uint16) * 257
    picture = av.VideoFrame.from_ndarray(shades, "rgb48le").reformat(
        format=pix_fmt, dst_colorspace=1, dst_color_range=tags[1]
    )
    source = make_clip(
        "in.mkv", frames=[picture] * 3, codec="ffv1", pix_fmt=pix_fmt, tags=tags,
        pts=[Fraction(index, 24) for index in range(3)], tick=Fraction(1, 24),
    )  # fmt: skip
    encoding = Encoding(codec, preset="ultrafast", lossless=True, pixel_format=pix_fmt)
    pass_through(source, str(tmp_path / name), encoding=encoding)
    with av.open(str(tmp_path / name)) as container:
        frames = [stored(frame) for frame in container.decode(video=0)]
    kind = np.uint8 if Layout.of(pix_fmt).bits == 8 else np.dtype("<u2")
    original, made = (np.frombuffer(frame, kind).astype(int) for frame in frames[:2])
    luma = slice(0, 64 * 48)
    assert np.abs(original - made)[luma].max() == 0
    assert np.abs(original - made).max() <= 1
    assert abs((original - made).mean()) < 0.01


def test_an_8_bit_source_in_10_bits_does_not_flicker_either(make_clip, pass_through, tmp_path):
    source = make_clip("in.mkv", codec="ffv1", frames=list(noise("yuv420p", 1)) * 2, pts=[
        Fraction(0), Fraction(1, 24)])  # fmt: skip
    pass_through(source, str(tmp_path / "a.mov"), encoding=Encoding("prores"))
    first, made, _ = [frame.to_ndarray() for frame in _decoded(tmp_path / "a.mov")]
    np.testing.assert_array_equal(first, made)


@pytest.mark.parametrize(
    ("name", "codec", "decoder", "tolerance"),
    [
        ("a.webm", "vp9", ["-c:v", "libvpx-vp9"], 0),
        ("a.mkv", "ffv1", [], 0),
        ("a.mov", "prores", [], 1),
    ],
)
def test_alpha_is_carried(
    make_clip, pass_through, ffmpeg, tmp_path, name, codec, decoder, tolerance
):
    source = make_clip(
        "in.mkv", codec="ffv1", pix_fmt="yuva420p", frames=list(noise("yuva420p", 5))
    )
    encoding = Encoding(codec, preset="ultrafast", lossless=codec != "prores")
    pass_through(source, str(tmp_path / name), encoding=encoding)
    alpha, _ = ffmpeg(
        *decoder, "-i", tmp_path / name, "-vf", "alphaextract,format=gray", "-f", "rawvideo", "-",
        "-fps_mode", "passthrough",
    )  # fmt: skip
    written = np.frombuffer(alpha, np.uint8).reshape(-1, 48, 64).astype(int)
    read = [frame.pixels[..., 3] for frame in VideoReader(source)]
    again = [frame.pixels[..., 3] for frame in VideoReader(tmp_path / name)]
    again = [a if a.dtype == np.uint8 else a // 257 for a in again]
    assert len(read) == 5
    for index, expected in enumerate(read):
        assert np.abs(written[2 * index] - expected).max() <= tolerance
        assert np.abs(again[2 * index].astype(int) - expected).max() <= tolerance


def _decoded(path):
    with av.open(str(path)) as container:
        yield from container.decode(video=0)


@pytest.mark.parametrize(
    ("output", "source", "encoder", "stored_as"),
    [
        ("a.mp4", "yuv420p", "libx264", "yuv420p"),
        ("a.mp4", "yuv420p10le", "libx265", "yuv420p10le"),
        ("a.mp4", "yuv422p", "libx264", "yuv422p"),
        ("a.mp4", "gray", "libx264", "gray"),
        ("a.mp4", "rgb24", "libx264", "yuv420p"),
        ("a.mov", "bgra", "prores", "yuva444p10le"),
        ("a.mov", "yuva444p12le", "prores", "yuva444p10le"),
        ("a.webm", "yuv420p", "libvpx-vp9", "yuv420p"),
        ("a.webm", "yuv420p10le", "libsvtav1", "yuv420p10le"),
        ("a.webm", "bgra", "libvpx-vp9", "yuva420p"),
        ("a.mkv", "yuva420p", "libvpx-vp9", "yuva420p"),
        ("a.mkv", "rgb48le", "ffv1", "gbrp16le"),
        ("a.avi", "yuv420p10le", "ffv1", "yuv420p10le"),
        ("-", "yuv420p10le", "wrapped_avframe", "yuv420p10le"),
        ("-", "nv12", "wrapped_avframe", "yuv420p"),
    ],
)
def test_codec_and_pixel_format_follow_the_source(output, source, encoder, stored_as):
    layout = Layout.of(source)
    assert encoder_for(output, Encoding(), layout) == encoder
    container = container_of(output)
    assert pixel_format_for(encoder, Encoding(), container, layout, (64, 48)) == stored_as


@pytest.mark.parametrize(
    ("output", "pix_fmt", "lost"),
    [
        ("a.mp4", "yuva420p", "transparency"),
        ("a.webm", "yuv444p12le", "2 of 12 bits and chroma resolution"),
        ("a.webm", "yuv420p12le", "2 of 12 bits"),
    ],
)
def test_what_is_lost_is_said_in_one_line(make_clip, tmp_path, caplog, output, pix_fmt, lost):
    source = make_clip("in.mkv", codec="ffv1", pix_fmt=pix_fmt, frames=list(noise(pix_fmt, 5)))
    with (
        caplog.at_level(logging.WARNING),
        open_sink(str(tmp_path / output), VideoReader(source).info, source=source) as sink,
    ):
        for frame in VideoReader(source):
            sink.write(frame)
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"which loses {lost} (--codec" in line


def test_frames_are_named_in_a_rate_that_a_container_does_not_know(make_clip, tmp_path, caplog):
    source = make_clip("in.mp4", pts=[Fraction(n, 24) for n in (0, 1, 3, 4)])
    info = VideoReader(source).info
    with open_sink(str(tmp_path / "a.avi"), info, source=source) as sink:
        for frame in VideoReader(source):
            sink.write(frame)
    assert "knows one rate" in caplog.text


@pytest.mark.parametrize("name", ["a.webm", "a.gif", "a.y4m", "-"])
def test_a_codec_that_a_container_cannot_hold_names_those_it_can(name):
    with pytest.raises(ValueError, match=r"cannot hold h264; it holds .* --output in \.mp4"):
        encoder_for(name, Encoding("h264"), Layout.of("yuv420p"))


def test_an_encoder_that_does_not_work_here_names_those_that_do():
    with pytest.raises(
        ValueError, match=r"h264_videotoolbox cannot be used here .*libx264, libx265"
    ):
        check_encoder("h264_videotoolbox")


def test_a_pixel_format_that_an_encoder_cannot_store_names_those_it_can():
    wanted = Encoding("av1", pixel_format="yuv444p")
    with pytest.raises(ValueError, match=r"libsvtav1 cannot store yuv444p; it stores yuv420p,"):
        pixel_format_for("libsvtav1", wanted, CONTAINERS[".mkv"], Layout.of("yuv444p"), (64, 48))


def test_frames_too_narrow_for_an_encoder_are_an_error():
    with pytest.raises(ValueError, match=r"48 pixels wide; libx265 needs 64\. Use --codec h264"):
        pixel_format_for(
            "libx265", Encoding("hevc"), CONTAINERS[".mp4"], Layout.of("yuv420p"), (48, 90)
        )


def test_a_pixel_format_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match=r"`pixel_format` is 'yuv420', which FFmpeg does not know"):
        Encoding(pixel_format="yuv420")


def test_what_always_loses_cannot_be_lossless():
    with pytest.raises(ValueError, match="prores always loses; use ffv1"):
        encoder_for("a.mov", Encoding("prores", lossless=True), Layout.of("yuv420p"))


def test_hardware_encoders_get_quality_and_speed():
    assert options_of("hevc_nvenc", Encoding(crf=20, preset="slow"), None) == {
        "preset": "p6", "rc": "vbr", "cq": "20", "b": "0",
    }  # fmt: skip


def test_nothing_is_left_behind_where_a_codec_does_not_fit(tmp_path, make_clip):
    source = make_clip()
    before = sorted(Path(tmp_path).iterdir())
    with pytest.raises(ValueError, match="cannot hold prores"):
        open_sink(
            str(tmp_path / "a.mp4"), VideoReader(source).info, source=source,
            encoding=Encoding("prores"),
        )  # fmt: skip
    assert sorted(Path(tmp_path).iterdir()) == before
