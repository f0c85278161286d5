# SPDX-License-Identifier: Apache-2.0
"""Subtitles, chapters, attachments and metadata come along; what cannot is named."""

from __future__ import annotations

from fractions import Fraction

import av
import pytest
from av.stream import Disposition

from tests.video.files.films import (
    FAST,
    SINE,
    kinds,
    made_by,
    texts,
)


def described(path, kind):
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        metadata = {key.lower(): value for key, value in stream.metadata.items()}
        return (
            metadata.get("language"),
            metadata.get("title", metadata.get("name")),
            stream.disposition,
        )


def chapters(path):
    with av.open(str(path)) as container:
        found = []
        for chapter in container.chapters():
            base = Fraction(chapter["time_base"].numerator, chapter["time_base"].denominator)
            times = (chapter["start"] * base, chapter["end"] * base)
            found.append((*times, chapter["metadata"]["title"]))
        return found


def test_matroska_to_matroska_keeps_everything(film, pass_through, tmp_path, packets_of):
    source, output = film(text=("srt", "ass")), tmp_path / "out.mkv"
    pass_through(source, str(output), encoding=FAST)
    assert kinds(output) == kinds(source)
    assert [data for _, data in packets_of(output)] == [data for _, data in packets_of(source)]
    assert chapters(output) == [(0, Fraction(1, 2), "one"), (Fraction(1, 2), 1, "two")]
    assert [text for _, text in texts(output)] == [b"Hello", b"Bye"]
    assert described(output, "audio") == ("fra", "Commentaire", described(source, "audio")[2])
    assert described(output, "subtitle")[::2] == ("eng", Disposition.forced)
    assert described(output, "video")[0] == "deu"
    with av.open(str(output)) as container:
        assert container.metadata["title"] == "Film"
        assert container.metadata["creation_time"].startswith("2020-01-02T03:04:05")
        assert container.streams[-1].disposition & Disposition.attached_pic


@pytest.mark.parametrize(
    ("name", "left_out", "text"),
    [
        ("out.mp4", "attachment", "mov_text"),
        ("out.webm", "audio aac, attachment, video mjpeg", "webvtt"),
        ("out.avi", "subtitle srt, attachment, video mjpeg, chapters", None),
    ],
)
def test_what_a_container_cannot_hold_is_left_out_with_one_line(
    film, pass_through, tmp_path, caplog, name, left_out, text
):
    pass_through(film(), str(tmp_path / name), encoding=FAST)
    lines = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert [line.split("output: ")[1] for line in lines] == [left_out + "."]
    assert ("subtitle", text) in kinds(tmp_path / name) or text is None
    if text:
        assert [text[-5:] for _, text in texts(tmp_path / name)] != []
        assert chapters(tmp_path / name)[1][2] == "two"


def test_subtitles_change_their_kind_but_not_their_words(film, pass_through, tmp_path):
    pass_through(film(), str(tmp_path / "a.mp4"), encoding=FAST)
    assert [(time, text[2:7].rstrip(b"\0")) for time, text in texts(tmp_path / "a.mp4")] == [
        (0.1, b"Hello"), (0.6, b"Bye"),
    ]  # fmt: skip
    pass_through(tmp_path / "a.mp4", str(tmp_path / "b.webm"), encoding=FAST)
    assert [text for _, text in texts(tmp_path / "b.webm")] == [b"Hello", b"Bye"]


def test_a_cover_stays_a_cover_in_mp4_and_comes_back(film, pass_through, tmp_path):
    source = film()
    for name in ("a.mp4", "b.mkv"):
        pass_through(source, str(tmp_path / name), encoding=FAST)
        source = tmp_path / name
        with av.open(str(tmp_path / name)) as container:
            covers = [
                s for s in container.streams.video if s.disposition & Disposition.attached_pic
            ]
            assert [(cover.width, cover.height) for cover in covers] == [(16, 16)]


def test_a_second_video_is_left_out_with_one_line(make_clip, pass_through, tmp_path, caplog):
    source = make_clip("in.mkv", extra_video="mpeg4")
    pass_through(source, str(tmp_path / "a.mkv"), encoding=FAST)
    assert kinds(tmp_path / "a.mkv") == [("video", "h264")]
    assert "left out of the output: video mpeg4." in caplog.text


def test_slow_motion_drops_the_sound_and_stretches_subtitles_and_chapters(
    film, pass_through, tmp_path
):
    pass_through(film(), str(tmp_path / "a.mkv"), stretch=4, encoding=FAST)
    assert "audio" not in dict(kinds(tmp_path / "a.mkv"))
    assert texts(tmp_path / "a.mkv") == [(0.4, b"Hello"), (2.4, b"Bye")]
    assert chapters(tmp_path / "a.mkv") == [(0, 2, "one"), (2, 4, "two")]


@pytest.mark.parametrize("name", ["out.mov", "out.mp4", "out.mkv", "out.avi"])
def test_a_timecode_track_is_left_out_before_the_first_frame(
    ffmpeg, pass_through, tmp_path, caplog, name
):
    source = made_by(ffmpeg, tmp_path / "in.mov", *SINE, "-timecode", "01:00:00:00")
    pass_through(source, str(tmp_path / name), encoding=FAST)
    assert [kind for kind, _ in kinds(tmp_path / name)] == ["video", "audio"]
    assert "left out of the output: data timecode." in caplog.text


def test_overlapping_subtitles_are_all_shown_in_mp4(ffmpeg, pass_through, tmp_path):
    (tmp_path / "in.srt").write_text(
        "1\n00:00:00,100 --> 00:00:00,500\nFirst\n\n"
        "2\n00:00:00,100 --> 00:00:00,300\nSecond\n\n"
        "3\n00:00:00,200 --> 00:00:00,900\nThird\n\n"
    )
    source = made_by(ffmpeg, tmp_path / "in.mkv", "-i", tmp_path / "in.srt", "-c:s", "srt")
    pass_through(source, str(tmp_path / "a.mp4"), encoding=FAST)
    text, _ = ffmpeg("-i", tmp_path / "a.mp4", "-map", "0:s", "-f", "srt", "-")
    shown = [block.split("\n", 2)[1:] for block in text.decode().strip().split("\n\n")]
    assert shown == [
        ["00:00:00,100 --> 00:00:00,200", "First\nSecond"],
        ["00:00:00,200 --> 00:00:00,300", "First\nSecond\nThird"],
        ["00:00:00,300 --> 00:00:00,500", "First\nThird"],
        ["00:00:00,500 --> 00:00:00,900", "Third"],
    ]
