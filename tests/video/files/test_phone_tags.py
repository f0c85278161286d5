# SPDX-License-Identifier: Apache-2.0
"""Make, model, place and date of a phone's video are kept, or a line names them."""

from __future__ import annotations

import logging

import av
import pytest

PHONE = {
    "com.apple.quicktime.make": "Apple",
    "com.apple.quicktime.model": "iPhone 13",
    "com.apple.quicktime.location.ISO6709": "+48.8584+002.2945+035.000/",
    "com.apple.quicktime.creationdate": "2024-05-01T10:00:00+0200",
}
TIME = "2024-05-01T08:00:00.000000Z"


@pytest.fixture
def phone_clip(make_clip, tmp_path):
    """A clip with the tags of an iPhone, copied packet by packet by PyAV alone."""
    path = tmp_path / "phone.mov"
    options = {"movflags": "use_metadata_tags"}
    with av.open(str(make_clip())) as source, av.open(str(path), "w", options=options) as output:
        output.metadata.update({**PHONE, "title": "Paris", "creation_time": TIME})
        stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    return path


def metadata(path):
    with av.open(str(path)) as container:
        return {key.lower(): value for key, value in container.metadata.items()}


@pytest.mark.parametrize("name", ["a.mov", "a.mp4", "a.mkv"])
def test_the_tags_are_kept(phone_clip, pass_through, tmp_path, name):
    pass_through(phone_clip, str(tmp_path / name))
    found = metadata(tmp_path / name)
    assert {key: found.get(key.lower()) for key in PHONE} == PHONE
    assert found["title"] == "Paris"
    assert found["creation_time"] == TIME


def test_the_tags_are_kept_over_and_over(phone_clip, pass_through, tmp_path):
    pass_through(phone_clip, str(tmp_path / "1.mov"))
    pass_through(tmp_path / "1.mov", str(tmp_path / "2.mov"))
    assert metadata(tmp_path / "2.mov") == metadata(tmp_path / "1.mov")


def test_ffmpeg_reads_the_pictures_and_the_date(phone_clip, pass_through, ffmpeg, tmp_path):
    pass_through(phone_clip, str(tmp_path / "a.mp4"))
    _, report = ffmpeg("-i", tmp_path / "a.mp4", "-f", "null", "-")
    assert f"creation_time   : {TIME}\n" in report


def test_tags_that_an_avi_cannot_hold_are_named(phone_clip, pass_through, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        pass_through(phone_clip, str(tmp_path / "a.avi"))
    assert "left out of the output: creation_time, creationdate, location.iso6709" in caplog.text


def test_other_files_keep_the_metadata_that_players_read(make_clip, pass_through, tmp_path):
    pass_through(make_clip(), str(tmp_path / "a.mp4"))
    assert b"mdta" not in (tmp_path / "a.mp4").read_bytes()
