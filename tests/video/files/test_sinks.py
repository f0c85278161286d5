# SPDX-License-Identifier: Apache-2.0
"""Outputs by name: their kind, what they never replace, and warnings about equal times."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from flavr_jax.video.files.sinks import open_sink
from flavr_jax.video.files.writer import VideoWriter
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.pixels.colour import Colour
from flavr_jax.video.stills.images import ImageFolderWriter

INFO = ClipInfo(64, 48, Fraction(24), Fraction(1, 24), colour=Colour(1, 1, 1, 1))


def grey(index):
    pixels = np.full((48, 64, 3), 90 + index, np.uint8)
    return TimedFrame(pixels, Fraction(index, 24), Fraction(1, 24))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.mp4", VideoWriter), ("a", ImageFolderWriter), ("v1.2/", ImageFolderWriter)],
)
def test_a_name_with_a_suffix_is_a_video_and_others_are_folders(tmp_path, name, kind):
    with open_sink(f"{tmp_path}/{name}", INFO, source=Path("in.mp4")) as sink:
        assert isinstance(sink, kind)
        sink.write(grey(0))


def test_the_input_is_never_overwritten(make_clip):
    source = make_clip()
    with pytest.raises(ValueError, match="is the input itself"):
        open_sink(str(source), INFO, source=source, overwrite=True)


def test_an_input_with_a_name_such_as_a_partial_output_survives(make_clip, tmp_path):
    source = make_clip("clip.partial.mp4")
    before = source.read_bytes()
    with open_sink(str(tmp_path / "clip.mp4"), INFO, source=source) as sink:
        for index in range(2):
            sink.write(grey(index))
    assert source.read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"clip.partial.mp4", "clip.mp4"}


def test_a_folder_that_holds_the_input_is_never_replaced(make_clip, tmp_path):
    (tmp_path / "out").mkdir()
    source = make_clip("out/frame_000001.webp", codec="libwebp", pix_fmt="bgra")
    with pytest.raises(ValueError, match="holds the input"):
        open_sink(f"{tmp_path}/out/", INFO, source=source, overwrite=True)
    assert source.exists()


def test_equal_times_at_high_rates_are_told_before_the_first_frame(tmp_path, caplog):
    info = ClipInfo(64, 48, Fraction(1920), Fraction(1, 1920))
    for name, told in (("a.mkv", True), ("a.mp4", False), ("a.avi", False)):
        caplog.clear()
        with (
            caplog.at_level(logging.WARNING),
            open_sink(f"{tmp_path}/{name}", info, source=None) as sink,
        ):
            assert ("steps of 1 ms, so that several frames get equal times" in caplog.text) == told
            sink.write(TimedFrame(np.zeros((48, 64, 3), np.uint8), Fraction(0), Fraction(1, 1920)))
        assert caplog.text.count("equal times") == told


def test_equal_times_of_a_variable_rate_are_told_once(tmp_path, caplog):
    info = ClipInfo(64, 48, Fraction(24), Fraction(1, 24000))
    with (
        caplog.at_level(logging.WARNING),
        open_sink(f"{tmp_path}/a.mkv", info, source=None) as sink,
    ):
        for time in (0, 10000, 10001, 10002, 12000):
            pts = Fraction(time, 24000)
            sink.write(TimedFrame(np.zeros((48, 64, 3), np.uint8), pts, Fraction(1, 24)))
    assert caplog.text.count("equal times") == 1
