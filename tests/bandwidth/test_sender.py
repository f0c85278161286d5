# SPDX-License-Identifier: Apache-2.0
"""What is sent, to files: which frames, how often a key frame, and how it is summed up."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import av
import numpy as np
import pytest

from flavr_jax.bandwidth.sender import TICK, Sending, Sent, is_url, send
from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.pixels.colour import Colour

RATE = Fraction(30)
INFO = ClipInfo(64, 48, RATE, TICK, None, Fraction(1), Colour(1, 1, 1, 1))


def clip(count, start=Fraction(0)):
    for number in range(count):
        picture = np.full((48, 64, 3), 20 + 5 * (number % 40), np.uint8)
        yield TimedFrame(picture, start + number / RATE, 1 / RATE)


def packets_of(path):
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(("count", "drop", "sent"), [(0, 2, 0), (1, 3, 1), (7, 1, 7), (8, 3, 3)])
def test_every_k_th_frame_is_sent_from_the_first_on(tmp_path, count, drop, sent):
    done = send(clip(count), INFO, str(tmp_path / "a.mkv"), Sending(drop, preset="ultrafast"))
    assert (done.frames_in, done.frames) == (count, sent)
    assert done.seconds == count / RATE
    packets = packets_of(tmp_path / "a.mkv") if sent else []
    assert len(packets) == sent
    assert done.bytes == pytest.approx(sum(packet.size for packet in packets), abs=100)


@pytest.mark.parametrize(("key", "frames"), [(0.2, 3), (0.5, 8), (0.01, 1)])
def test_key_frames_come_as_often_as_asked_for(tmp_path, key, frames):
    # 30 frames a second, every second one sent: 15 of them in a second.
    sending = Sending(2, key=key, preset="ultrafast")
    send(clip(48), INFO, str(tmp_path / "a.mkv"), sending)
    keys = [n for n, packet in enumerate(packets_of(tmp_path / "a.mkv")) if packet.is_keyframe]
    assert keys == list(range(0, 24, frames))


def test_times_are_those_of_the_clip(tmp_path):
    send(clip(6, start=Fraction(10)), INFO, str(tmp_path / "a.mkv"), Sending(2, preset="ultrafast"))
    times = sorted(
        float(packet.pts * packet.time_base) for packet in packets_of(tmp_path / "a.mkv")
    )
    np.testing.assert_allclose(np.diff(times), 2 / 30, atol=1e-3)


def test_pictures_arrive_upright_and_in_shape(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24] = 200  # the upper half
    frames = [TimedFrame(picture, Fraction(0), 1 / RATE)]
    # Clockwise, (x, y) becomes (-y, x): the upper half is shown on the right.
    turned = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    info = dataclasses.replace(INFO, display_matrix=turned, pixel_aspect=Fraction(4, 3))
    send(frames, info, str(tmp_path / "a.ts"), Sending(1, preset="ultrafast"))
    received = VideoReader(tmp_path / "a.ts")
    assert (received.info.width, received.info.height) == (48, 64)
    assert received.info.pixel_aspect == Fraction(3, 4)
    (shown,) = received
    assert shown.pixels[:, :20].mean() < 10
    assert shown.pixels[:, 28:].mean() == pytest.approx(200, abs=5)


@pytest.mark.skipif(
    not hasattr(av.VideoFrame, "chroma_location"), reason="PyAV 18 does not tell chroma's place"
)
@pytest.mark.parametrize(("codec", "siting"), [("h264", 2), ("h264", 3), ("hevc", 3)])
def test_the_place_of_chroma_arrives(tmp_path, codec, siting):
    info = dataclasses.replace(INFO, colour=Colour(1, 1, 1, 1, siting))
    send(clip(15), info, str(tmp_path / "a.ts"), Sending(1, codec=codec, preset="ultrafast"))
    assert VideoReader(tmp_path / "a.ts").info.colour.siting == siting


def test_a_summary_has_the_rate_over_the_whole_clip():
    assert str(Sent(50, 25, 25000, Fraction(2))) == "25 of 50 frames, 25000 bytes, 100 kbit/s"
    assert str(Sent()) == "0 of 0 frames, 0 bytes, 0 kbit/s"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("udp://host:9", True),
        ("srt://host:9?mode=listener", True),
        ("clip.ts", False),
        ("a:/b", False),
    ],
)
def test_addresses_are_told_from_files(name, url):
    assert is_url(name) == url


def test_a_file_that_exists_stays_unless_it_may_be_replaced(tmp_path):
    target = tmp_path / "a.mkv"
    target.write_bytes(b"mine")
    with pytest.raises(OSError, match="exists"):
        send(clip(2), INFO, str(target), Sending(preset="ultrafast"))
    assert target.read_bytes() == b"mine"
    send(clip(2), INFO, str(target), Sending(preset="ultrafast"), overwrite=True)
    assert target.read_bytes() != b"mine"


def test_a_file_is_written_without_waiting_for_the_clips_times(tmp_path):
    slept = []
    send(clip(4), INFO, str(tmp_path / "a.mkv"), Sending(preset="ultrafast"), sleep=slept.append)
    assert slept == []


def test_a_source_that_fails_leaves_no_file(tmp_path):
    def broken():
        yield from clip(3)
        raise OSError("the source ends early")

    with pytest.raises(OSError, match="ends early"):
        send(broken(), INFO, str(tmp_path / "a.mkv"), Sending(preset="ultrafast"))
    assert list(tmp_path.iterdir()) == []
