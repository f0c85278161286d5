# SPDX-License-Identifier: Apache-2.0
"""Uploads are checked by their first bytes, and by what they say about themselves."""

import dataclasses
import os
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.writer import VideoWriter
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.web.limits import HEAD, Limits, Refused, check_kind, check_video


def clip(path, count=10, size=(32, 24)):
    info = ClipInfo(*size, Fraction(10), Fraction(1, 10))
    with VideoWriter(path, info) as sink:
        for number in range(count):
            pixels = np.full((size[1], size[0], 3), 20 * number % 255, np.uint8)
            sink.write(TimedFrame(pixels, Fraction(number, 10), Fraction(1, 10)))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".y4m"])
def test_the_kinds_that_are_written_here_are_taken(tmp_path, suffix):
    from flavr_jax.video.files import sinks

    info = ClipInfo(64, 48, Fraction(10), Fraction(1, 10))
    with sinks.open_sink(str(tmp_path / f"in{suffix}"), info, source=None) as sink:
        for number in range(2):
            pixels = np.full((48, 64, 3), 90 * number, np.uint8)
            sink.write(TimedFrame(pixels, Fraction(number, 10), Fraction(1, 10)))
    check_kind((tmp_path / f"in{suffix}").read_bytes()[:HEAD])


@pytest.mark.parametrize(
    "head",
    [
        b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"G" + b"x" * 400,
        b"#EXTM3U\n/home/me/private.mp4", b"ffconcat version 1.0\nfile /home/me/private.mp4",
        b'<?xml version="1.0"?><MPD>', b"v=0\r\no=- 0 0 IN IP4 127.0.0.1", b"RIFF\0\0\0\0WAVE",
    ],
)  # fmt: skip
def test_playlists_and_other_files_are_refused(head):
    with pytest.raises(Refused, match="not a video of a known kind") as refused:
        check_kind(head)
    assert refused.value.status == 415


@pytest.mark.parametrize("sandbox", [True, False])
def test_a_clip_within_the_limits_is_taken(tmp_path, sandbox):
    limits = Limits(seconds=1.0, megapixels=0.001)
    assert check_video(clip(tmp_path / "a.mp4"), "a.mp4", limits, sandbox=sandbox) == []
    # The child of the sandbox has ended.
    children = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "args="],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    assert "sandbox.child" not in children


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(seconds=0.9), "holiday.mp4 is longer than 0.9 s"),
        (Limits(megapixels=0.0007), "holiday.mp4 has frames of 32×24 pixels; .* 0.0007 million"),
    ],
)
def test_longer_and_larger_clips_are_refused_by_name(tmp_path, limits, message):
    path = clip(tmp_path / "stored.mp4")
    with pytest.raises(Refused, match=message):
        check_video(path, "holiday.mp4", limits, sandbox=False)


def test_a_file_that_only_begins_like_a_video_is_refused_by_name(tmp_path):
    path = tmp_path / "stored.mp4"
    path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(1000))
    with pytest.raises(Refused, match=r"^holiday\.mp4 is not a video") as refused:
        check_video(path, "holiday.mp4", Limits(), sandbox=False)
    assert str(tmp_path) not in str(refused.value)


def test_a_duration_that_is_not_stated_is_a_warning(tmp_path):
    path = tmp_path / "live.webm"  # as browsers record it
    with av.open(str(path), "w", format="webm", options={"live": "1"}) as container:
        stream = container.add_stream("libvpx-vp9", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        picture = np.zeros((24, 32, 3), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    (warning,) = check_video(path, "live.webm", Limits(seconds=5.0), sandbox=False)
    assert warning == "The file does not state its duration. Up to 5 s of it are used."


@pytest.mark.parametrize("form", ["yuv420p10le", "yuv444p", "yuv420p"])
def test_h264_that_few_players_show_is_a_warning(tmp_path, form):
    path = tmp_path / "deep.mkv"
    info = ClipInfo(32, 24, Fraction(10), Fraction(1, 1000))
    with VideoWriter(path, info, encoding=Encoding("ffv1", pixel_format=form)) as sink:
        sink.write(TimedFrame(np.zeros((24, 32, 3), np.uint8), Fraction(0), Fraction(1, 10)))
    found = check_video(path, "deep.mkv", Limits(), sandbox=False, codec="h264")
    assert [form in warning for warning in found] == [True] * (form != "yuv420p")
    assert check_video(path, "deep.mkv", Limits(), sandbox=False, codec="hevc") == []


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
def test_limits_are_more_than_nothing(name):
    with pytest.raises(ValueError, match=f"`{name}` is 0"):
        Limits(**{name: 0 if name == "clips" else 0.0})
