# SPDX-License-Identifier: Apache-2.0
"""An output that is finished by a second run equals one that was never interrupted."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flavr_jax.video.files import sinks
from flavr_jax.video.files.encoders import Encoding, failure
from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.journal.job import Job
from flavr_jax.video.journal.journal import Journal
from flavr_jax.video.pixels.colour import Colour

STEADY = [Fraction(n, 25) for n in range(40)]
UNSTEADY = list(itertools.accumulate(Fraction(3 + n * n % 7, 50) for n in range(40)))
FORMATS = [
    ("a.mp4", "h264"), ("a.mkv", "h264"), ("a.mov", "hevc"), ("a.mp4", "av1"), ("a.webm", "vp9"),
    ("a.mkv", "ffv1"), ("a.mov", "prores"), ("a.avi", "h264"), ("a.avi", "ffv1"),
    ("images/", "auto"),
]  # fmt: skip
ENCODER = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}


class PowerLoss(BaseException):
    """Ends a run in the middle."""


def frames(times):
    x, y = np.arange(96)[None, :, None], np.arange(64)[:, None, None]
    for number, pts in enumerate(times):
        wave = np.sin((x - 3 * number) / 7 + y / 9 + np.array([0.0, 2.0, 4.0]))
        yield TimedFrame((127 + 90 * wave).astype(np.uint8), pts, Fraction(1, 25))


def tone(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = (3000 * np.sin(np.arange(16000) / 3)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    return path


def write(path, codec, times, *, source=None, stop=None, job=None, **changes):
    """Write a clip, or the part of it up to a number of frames; return how many were there."""
    info = ClipInfo(96, 64, Fraction(25), Fraction(1, 50), None, colour=Colour(1, 1, 1, 1))
    job = job or Job({"input": "a"}, segment=12)
    encoding = Encoding(codec=codec, preset="veryfast", audio="copy")
    name = f"{path}/" if path.suffix == "" else str(path)
    sink = sinks.open_sink(name, info, source=source, encoding=encoding, job=job, **changes)
    with sink:
        for number, frame in enumerate(frames(times)):
            if number == stop:
                raise PowerLoss
            if number < sink.done:
                frame = TimedFrame(np.zeros_like(frame.pixels), frame.pts, frame.duration)
            sink.write(frame)
    return sink.done


def content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("times", [STEADY, UNSTEADY], ids=["steady", "unsteady"])
@pytest.mark.parametrize(("name", "codec"), FORMATS, ids=lambda value: value)
def test_a_resumed_output_is_the_same_bit_for_bit(tmp_path, name, codec, times):
    if codec in ENCODER and failure(ENCODER[codec]):
        pytest.skip(f"no {codec} encoder here")
    source = tone(tmp_path / "tone.wav")
    whole, resumed = tmp_path / "whole" / name, tmp_path / "resumed" / name
    write(whole, codec, times, source=source)
    for stop in (5, 30, 37):
        with pytest.raises(PowerLoss):
            write(resumed, codec, times, source=source, stop=stop)
    assert write(resumed, codec, times, source=source) == 36
    assert content(resumed) == content(whole)
    assert [entry.name for entry in resumed.parent.iterdir()] == [resumed.name]


@pytest.mark.parametrize("times", [STEADY, UNSTEADY], ids=["steady", "unsteady"])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_seams_are_invisible_to_a_player(tmp_path, codec, times):
    write(tmp_path / "a.mp4", codec, times)
    with av.open(str(tmp_path / "a.mp4")) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        assert all(packet.dts <= packet.pts for packet in packets)
        assert all(a.dts < b.dts for a, b in itertools.pairwise(packets))
    shown = list(VideoReader(tmp_path / "a.mp4"))
    assert [frame.pts for frame in shown] == times
    for got, sent in zip(shown, frames(times), strict=True):
        assert np.abs(got.pixels.astype(int) - sent.pixels).mean() < 5


def test_another_job_does_not_go_on_with_a_journal_and_cleans_it_up(tmp_path, caplog):
    path = tmp_path / "a.mp4"
    with pytest.raises(PowerLoss):
        write(path, "h264", STEADY, stop=30)
    assert write(path, "h264", STEADY, job=Job({"input": "b"}, segment=12)) == 0
    assert "unfinished work for" in caplog.text
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("name", ["n" * 251 + ".mp4", "ä" * 125 + ".mp4", "n" * 255])
def test_the_longest_names_can_be_resumed_and_cleaned_up(tmp_path, name):
    path = tmp_path / name
    codec = "h264" if path.suffix else "auto"
    with pytest.raises(PowerLoss):
        write(path, codec, STEADY, stop=30)
    assert write(path, codec, STEADY, job=Job({"input": "b"}, segment=12)) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    with pytest.raises(PowerLoss):
        write(tmp_path / "new" / name, codec, STEADY, stop=30)
    assert write(tmp_path / "new" / name, codec, STEADY) == 24
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == [name]


def test_a_job_can_start_over(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(PowerLoss):
        write(path, "h264", STEADY, stop=30)
    assert write(path, "h264", STEADY, job=Job({"input": "a"}, segment=12, resume=False)) == 0


def test_two_runs_of_a_job_do_not_write_the_same_output(tmp_path):
    info = ClipInfo(96, 64, Fraction(25), Fraction(1, 50))
    job = Job({"input": "a"}, segment=12)
    with sinks.open_sink(str(tmp_path / "a.mp4"), info, source=None, job=job) as sink:
        with pytest.raises(OSError, match="being written by another run"):
            sinks.open_sink(str(tmp_path / "a.mp4"), info, source=None, job=job)
        for frame in frames(STEADY[:3]):
            sink.write(frame)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


def test_a_segment_is_kept_as_soon_as_its_file_is_there(tmp_path):
    # A thread writes it; a run that is interrupted in this moment has to count it.
    journal = Journal(tmp_path / "a.mp4", Job({"input": "a"}, segment=12))
    assert journal.frames == 0
    (journal.folder / "000000.segment").touch()
    assert journal.frames == 12
    journal.close(complete=False)
    again = Journal(tmp_path / "a.mp4", Job({"input": "a"}, segment=12))
    assert (again.finished, again.frames) == (1, 12)
    again.close(complete=True)


def test_a_damaged_segment_is_named(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(PowerLoss):
        write(path, "h264", STEADY, stop=30)
    (segment,) = tmp_path.glob("a.partial-*/000001.segment")
    data = bytearray(segment.read_bytes())
    data[100] ^= 1
    segment.write_bytes(data)
    with pytest.raises(ValueError, match=r"000001.segment is damaged .* Delete it"):
        write(path, "h264", STEADY)
    segment.unlink()
    assert write(path, "h264", STEADY) == 12


def test_images_that_are_gone_are_made_again(tmp_path):
    with pytest.raises(PowerLoss):
        write(tmp_path / "images", "auto", STEADY, stop=30)
    (partial,) = (entry for entry in tmp_path.glob("images.partial-*") if any(entry.glob("*.png")))
    partial.rename(tmp_path / "moved")
    assert write(tmp_path / "images", "auto", STEADY) == 0
    assert len(content(tmp_path / "images")) == 40


@pytest.mark.parametrize("name", ["a.y4m", "a.webp"])
def test_formats_made_in_one_piece_begin_again(tmp_path, name):
    for _ in range(2):
        with pytest.raises(PowerLoss):
            write(tmp_path / name, "auto", STEADY, stop=30)
        assert list(tmp_path.iterdir()) == []
    assert write(tmp_path / name, "auto", STEADY) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
