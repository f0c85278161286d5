# SPDX-License-Identifier: Apache-2.0
"""HDR10 metadata arrives in every container, whether the bitstream carries it or the file."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.pixels.hdr import StaticHDR

# BT.2020 in P3-like primaries, D65, 0.005 to 1000 cd/m², as x265 is told: units of 0.00002 and
# of 0.0001 cd/m².
MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
EXPECTED = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 1000.0)
HDR10 = (9, 1, 9, 16)


@pytest.fixture
def film(make_clip):
    parameters = f"log-level=error:hdr10=1:master-display={MASTERING}:max-cll=900,400"
    return make_clip(
        "hdr.mp4",
        codec="libx265",
        pix_fmt="yuv420p10le",
        options={"x265-params": parameters, "preset": "ultrafast"},
        tags=HDR10,
        pts=[Fraction(index, 24) for index in range(3)],
    )


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "auto"), ("a.mp4", "h264"), ("a.mkv", "hevc"), ("a.mkv", "av1"),
        ("a.webm", "av1"), ("a.mov", "prores"), ("a.mkv", "ffv1"), ("a.webm", "vp9"),
    ],
)  # fmt: skip
def test_static_metadata_arrives(film, pass_through, ffmpeg, tmp_path, name, codec):
    encoding = Encoding(codec, preset="ultrafast")
    pass_through(film, str(tmp_path / name), encoding=encoding)
    info = VideoReader(tmp_path / name).info
    assert info.hdr is not None
    assert info.hdr.light == (900, 400)
    assert info.hdr.mastering == pytest.approx(EXPECTED, abs=5e-5)
    assert (info.colour.matrix, info.colour.primaries, info.colour.transfer) == (9, 9, 16)
    report = ffmpeg("-i", tmp_path / name, "-vf", "showinfo", "-frames:v", 1, "-f", "null", "-")[1]
    assert "MaxCLL=900, MaxFALL=400" in report
    luminance = re.search(r"min_luminance=([0-9.]+), max_luminance=([0-9.]+)", report)
    assert luminance is not None
    assert [float(value) for value in luminance.groups()] == pytest.approx([0.005, 1000], rel=0.02)


def test_a_clip_without_metadata_gets_none(make_clip, pass_through, tmp_path):
    pass_through(make_clip(), str(tmp_path / "a.mkv"), encoding=Encoding("ffv1"))
    assert VideoReader(tmp_path / "a.mkv").info.hdr is None


def test_light_levels_alone_are_kept(make_clip, pass_through, tmp_path):
    source = make_clip(
        "hdr.mp4", codec="libx265", pix_fmt="yuv420p10le", tags=HDR10,
        options={"x265-params": "log-level=error:max-cll=900,400"},
    )  # fmt: skip
    pass_through(source, str(tmp_path / "a.mkv"), encoding=Encoding("ffv1"))
    assert VideoReader(tmp_path / "a.mkv").info.hdr == StaticHDR(None, (900, 400))
