# SPDX-License-Identifier: Apache-2.0
"""Times, rates, sound and files of the output, from a real, if tiny and untrained, network."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.stills.images import ImageFolder
from tests.commands.clips import (
    FILM,
    pictures,
    sound_of,
    times_of,
    write_clip,
    write_folder,
    write_tone,
)

pytestmark = pytest.mark.usefixtures("definition")


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_every_length_gives_all_frames_at_exact_times(interpolate, frames):
    write_clip(Path("in.mp4"), frames)
    assert interpolate("in.mp4", "--factor", 8) == 0
    assert times_of("in_8x.mp4") == [index * FILM / 8 for index in range((frames - 1) * 8 + 1)]


@pytest.mark.parametrize("factor", [2, 8, 16])
def test_powers_of_two_are_factors(interpolate, factor):
    write_clip(Path("in.mp4"), 2)
    assert interpolate("in.mp4", "--factor", factor, "--output", "out.mp4") == 0
    assert len(times_of("out.mp4")) == factor + 1


def test_the_output_may_follow_the_input_without_a_flag(interpolate):
    write_clip(Path("in.mp4"), 2)
    assert interpolate("in.mp4", "out.mkv", "--factor", 2) == 0
    assert len(times_of("out.mkv")) == 3
    assert {path.name for path in Path().iterdir()} == {"in.mp4", "out.mkv"}


def test_a_variable_frame_rate_stays_variable(interpolate):
    times = [Fraction(0), FILM, FILM * 3, FILM * 4]
    write_clip(Path("in.mp4"), 4, times=times)
    assert interpolate("in.mp4", "--factor", 8) == 0
    assert times_of("in_8x.mp4")[::8] == times


def test_slow_motion_keeps_the_rate_and_drops_the_audio(interpolate):
    write_clip(Path("in.mov"), 3, others=write_tone(Path("tone.wav")))
    assert interpolate("in.mov", "--factor", 2, "--slow-motion", "--output", "out.mov") == 0
    assert times_of("out.mov") == [index * FILM for index in range(5)]
    assert sound_of("out.mov") is None


@pytest.mark.parametrize("start", [Fraction(0), Fraction(1, 3)])
def test_any_frame_rate_keeps_start_duration_and_audio(interpolate, start):
    times = [start + n * FILM for n in range(5)]
    source = write_clip(Path("in.mov"), 5, times=times, others=write_tone(Path("tone.wav")))
    assert interpolate(source, "--fps", "60000/1001", "--output", "out.mov") == 0
    made = times_of("out.mov")
    assert made == [start + Fraction(1001 * n, 60000) for n in range(len(made))]
    with av.open("in.mov") as before, av.open("out.mov") as after:
        assert abs(after.duration - before.duration) <= 1  # microseconds
    assert sound_of("out.mov") == sound_of("in.mov") != b""


def test_slow_motion_at_another_rate(interpolate):
    write_clip(Path("in.mp4"), 3)
    assert interpolate("in.mp4", "--fps", "30", "--slow-motion", "--factor", "3") == 0
    made = times_of("in_3x_30fps.mp4")
    assert made == [Fraction(n, 30) for n in range(round(30 * 3 * 3 * FILM))]


def test_audio_is_copied_when_the_duration_is_kept(interpolate):
    write_clip(Path("in.mov"), 3, others=write_tone(Path("tone.wav")))
    assert interpolate("in.mov", "--factor", 2, "--output", "out.mov") == 0
    assert sound_of("out.mov") == sound_of("in.mov") != b""


def test_size_and_pixel_aspect_are_kept(interpolate):
    write_clip(Path("in.mp4"), 2, size=(35, 21), aspect=Fraction(4, 3))
    assert interpolate("in.mp4", "--factor", 8) == 0
    info = VideoReader(Path("in_8x.mp4")).info
    assert (info.width, info.height, info.pixel_aspect) == (35, 21, Fraction(4, 3))


def test_a_folder_becomes_a_folder_with_its_images_unchanged(interpolate):
    write_folder(Path("in"), 3)
    assert interpolate("in", "--factor", 8) == 0
    written = [frame.pixels for frame in ImageFolder(Path("in_8x"))]
    assert len(written) == 17
    np.testing.assert_array_equal(written[::8], list(pictures(3)))


def test_a_folder_becomes_a_video_at_the_rate_given(interpolate):
    write_folder(Path("in"), 2)
    rate = ("--input-rate", "24000/1001")
    assert interpolate("in", "--factor", 8, "--output", "out.mp4", *rate) == 0
    assert times_of("out.mp4") == [index * FILM / 8 for index in range(9)]


def test_a_lossless_video_holds_the_original_frames(interpolate):
    write_clip(Path("in.mp4"), 3)
    assert interpolate("in.mp4", "--factor", 2, "--codec", "ffv1", "--output", "out.mp4") == 0
    originals = [frame.pixels for frame in VideoReader(Path("in.mp4"))]
    written = [frame.pixels for frame in VideoReader(Path("out.mp4"))]
    np.testing.assert_array_equal(written[::2], originals)


@pytest.mark.parametrize("suffix", [".mov", ".mkv", ".webm"])
def test_the_output_is_a_file_of_the_kind_of_the_input(interpolate, suffix):
    write_clip(Path("in.mp4"), 2).rename("in" + suffix)
    assert interpolate("in" + suffix, "--factor", 2) == 0
    assert len(times_of("in_2x" + suffix)) == 3


def test_a_range_of_a_clip_begins_at_zero(interpolate):
    write_clip(Path("in.mp4"), 8)
    options = ("--factor", 2, "--range", "0.1-0.25", "--codec", "ffv1")
    assert interpolate("in.mp4", "out.mp4", *options) == 0
    assert times_of("out.mp4") == [index * FILM / 2 for index in range(5)]
    originals = [frame.pixels for frame in VideoReader(Path("in.mp4"))][3:6]
    written = [frame.pixels for frame in VideoReader(Path("out.mp4"))]
    np.testing.assert_array_equal(written[::2], originals)
