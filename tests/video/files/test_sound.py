# SPDX-License-Identifier: Apache-2.0
"""Sound is copied, dropped or stretched, in time with the pictures."""

from __future__ import annotations

import itertools

import av
import numpy as np
import pytest

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.streams import OtherStreams
from tests.video.files.films import (
    FAST,
    RATE,
    SINE,
    kinds,
    made_by,
    samples,
    seconds_of_sound,
)

STRETCHED = Encoding(preset="ultrafast", audio="stretch")


def test_a_broken_packet_of_sound_does_not_cost_the_video(film, pass_through, tmp_path, caplog):
    source = film("in.mp4", text=(), attachment=False, chapters=False)
    with av.open(str(source)) as container:
        places = [(p.pos, p.size) for p in container.demux(audio=0) if p.size]
    content = bytearray(source.read_bytes())
    for start, size in places[10:20]:
        content[start : start + size] = bytes(size)
    source.write_bytes(content)
    pass_through(source, str(tmp_path / "a.mkv"), encoding=FAST)
    with av.open(str(tmp_path / "a.mkv")) as container:
        assert len(list(container.decode(video=0))) == 47


def test_sound_can_be_kept_in_slow_motion(film, pass_through, tmp_path, packets_of):
    source = film()
    encoding = Encoding(preset="ultrafast", audio="copy")
    pass_through(source, str(tmp_path / "a.mkv"), stretch=4, encoding=encoding)
    kept = [data for _, data in packets_of(tmp_path / "a.mkv")]
    assert kept == [data for _, data in packets_of(source)]


def test_sound_can_be_dropped(film, pass_through, tmp_path):
    encoding = Encoding(preset="ultrafast", audio="drop")
    pass_through(film(), str(tmp_path / "a.mkv"), encoding=encoding)
    assert "audio" not in dict(kinds(tmp_path / "a.mkv"))


@pytest.mark.parametrize("stretch", [2, 3, 8])
def test_stretched_sound_has_the_exact_length_and_the_same_pitch(
    film, pass_through, tmp_path, stretch
):
    source = film(codec="pcm_s16le")
    encoding = Encoding(preset="ultrafast", audio="stretch")
    pass_through(source, str(tmp_path / "a.mkv"), stretch=stretch, encoding=encoding)
    stretched = samples(tmp_path / "a.mkv")
    assert len(stretched) == stretch * len(samples(source))
    second = stretched[RATE // 2 : RATE // 2 + RATE].astype(np.float64)
    assert np.abs(np.fft.rfft(second)).argmax() == 440
    assert kinds(tmp_path / "a.mkv")[1] == ("audio", "pcm_s16le")


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.webm", "opus")])
def test_stretched_sound_is_in_a_codec_that_the_container_holds(
    film, pass_through, tmp_path, name, codec
):
    encoding = Encoding(preset="ultrafast", audio="stretch")
    pass_through(film(), str(tmp_path / name), stretch=2, encoding=encoding)
    assert dict(kinds(tmp_path / name))["audio"] == codec
    assert len(samples(tmp_path / name)) / RATE == pytest.approx(2.0, abs=0.05)


def test_sound_and_stretched_sound_start_when_they_did(film, pass_through, tmp_path, packets_of):
    encoding = Encoding(preset="ultrafast", audio="stretch")
    pass_through(film("in.mp4", text=(), attachment=False), str(tmp_path / "a.mp4"), stretch=4,
                 encoding=encoding)  # fmt: skip
    with av.open(str(tmp_path / "a.mp4")) as container:
        first = next(container.decode(audio=0))
    assert first.pts * first.time_base.numerator / first.time_base.denominator == 0


@pytest.mark.parametrize("audio", ["stretch", "copy"])
def test_a_broken_packet_costs_itself_alone(film, pass_through, tmp_path, audio):
    source = film("in.mkv", text=(), attachment=False, chapters=False)
    with av.open(str(source)) as container:
        places = [(p.pos, p.size) for p in container.demux(audio=0) if p.size]
    content = bytearray(source.read_bytes())
    # A position is that of Matroska's block; its header of a few bytes stays as it is.
    content[places[10][0] + 8 : sum(places[10]) - 1] = b"\xff" * (places[10][1] - 9)
    source.write_bytes(content)
    encoding = Encoding(preset="ultrafast", audio=audio)
    sink = pass_through(source, str(tmp_path / "a.mkv"), stretch=2, encoding=encoding)
    if audio == "stretch":
        assert sink.broken == 1
        heard = samples(tmp_path / "a.mkv")
        assert len(heard) / RATE == pytest.approx(2, abs=0.1)
        # The second half keeps its place: the broken packet is silence, not a cut.
        assert np.abs(heard[int(1.8 * RATE) : int(1.9 * RATE)]).max() > 0.3
    else:
        with av.open(str(tmp_path / "a.mkv")) as container:
            assert len([p for p in container.demux(audio=0) if p.size]) == len(places)


def test_joined_broadcasts_keep_the_sound_of_both(ffmpeg, pass_through, tmp_path):
    part = made_by(ffmpeg, tmp_path / "part.ts", *SINE, "-c:a", "aac", "-muxdelay", "0")
    source = tmp_path / "in.ts"
    source.write_bytes(2 * part.read_bytes())
    pass_through(source, str(tmp_path / "a.mp4"), encoding=FAST)
    assert seconds_of_sound(tmp_path / "a.mp4") == pytest.approx(
        2.09, abs=0.06
    )  # AAC begins with 1024 samples more
    with av.open(str(tmp_path / "a.mp4")) as container:
        times = [float(p.pts * p.time_base) for p in container.demux(audio=0) if p.size]
        assert len(list(container.streams)) == 2
    assert times == sorted(times)
    assert max(after - before for before, after in itertools.pairwise(times)) < 0.1
    assert times[-1] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
def test_sound_that_starts_late_does_so_in_the_output(ffmpeg, pass_through, tmp_path, name):
    source = made_by(ffmpeg, tmp_path / "in.mkv", "-itsoffset", "0.5", *SINE, "-c:a", "aac")
    pass_through(source, str(tmp_path / name), encoding=FAST)
    raw, _ = ffmpeg(
        "-i", tmp_path / name, "-map", "0:a", "-af", "aresample=async=1:first_pts=0",
        "-ac", "1", "-ar", "8000", "-f", "s16le", "-",
    )  # fmt: skip
    loud = np.flatnonzero(np.abs(np.frombuffer(raw, np.int16)) > 500)[0] / 8000
    assert loud == pytest.approx(0.5, abs=0.05)


def test_pictures_that_start_late_do_so_in_avi(ffmpeg, pass_through, tmp_path):
    source = tmp_path / "in.mkv"
    ffmpeg(
        "-itsoffset", "0.5", "-f", "lavfi", "-i", "color=s=64x48:r=24:d=0.5",
        "-f", "lavfi", "-i", "sine=440:r=44100:d=1", "-c:a", "aac", source,
    )  # fmt: skip
    pass_through(source, str(tmp_path / "a.avi"), encoding=FAST)
    with av.open(str(tmp_path / "a.avi")) as container:
        times = [float(p.dts * p.time_base) for p in container.demux(video=0) if p.size]
    assert times[0] == 0
    assert times[1] >= 0.4
    assert times[-1] == pytest.approx(1 - 1 / 24, abs=0.05)


@pytest.mark.parametrize(
    ("form", "codec", "name"),
    [
        ("webm", ("-c:a", "libvorbis"), "a.webm"),
        ("mkv", ("-c:a", "libvorbis"), "a.mkv"),
        ("mp4", ("-c:a", "aac"), "a.webm"),  # 44.1 kHz is no rate of Opus
        ("mkv", ("-c:a", "truehd", "-strict", "-2", "-ac", "2"), "a.mkv"),
        ("mkv", ("-c:a", "truehd", "-strict", "-2", "-ac", "2"), "a.mp4"),
        ("asf", ("-c:a", "wmav2"), "a.avi"),
        ("asf", ("-c:a", "wmav2"), "a.mkv"),
        ("mkv", ("-c:a", "pcm_s16le", "-ac", "6"), "a.webm"),
        ("mkv", ("-c:a", "pcm_s16le", "-ac", "1"), "a.mov"),
        ("mkv", ("-c:a", "flac", "-ac", "3"), "a.mp4"),
        ("mkv", ("-c:a", "flac", "-ar", "96000"), "a.avi"),
        ("wav", ("-c:a", "pcm_s16le", "-ac", "6"), None),
    ],
)
def test_any_sound_can_be_stretched(ffmpeg, pass_through, tmp_path, form, codec, name):
    video = ("-c:v", "wmv2") if form == "asf" else ("-c:v", "libvpx") if form == "webm" else ()
    if name is None:  # AVI from bare channels, whose places nothing tells
        form, name = "avi", "a.mp4"
    source = made_by(ffmpeg, tmp_path / f"in.{form}", *SINE, *video, *codec)
    sink = pass_through(source, str(tmp_path / name), stretch=2, encoding=STRETCHED)
    assert sink.broken == 0
    assert seconds_of_sound(tmp_path / name) == pytest.approx(2, abs=0.1)


def test_what_an_edit_list_cuts_off_stays_off_in_matroska(ffmpeg, pass_through, tmp_path):
    long = made_by(
        ffmpeg, tmp_path / "long.mp4", "-f", "lavfi", "-i", "sine=440:r=44100:d=2",
        "-g", "24", "-c:a", "aac", seconds=2,
    )  # fmt: skip
    source = tmp_path / "in.mp4"
    ffmpeg("-ss", "1.4", "-i", long, "-c", "copy", source)
    pass_through(source, str(tmp_path / "a.mkv"), encoding=FAST)
    with av.open(str(tmp_path / "a.mkv")) as container:
        times = {
            kind: [float(p.pts * p.time_base) for p in container.demux(**{kind: 0}) if p.size]
            for kind in ("video", "audio")
            if container.seek(0) is None
        }
        delay = getattr(container.streams.audio[0].codec_context, "initial_padding", 0)
    assert delay <= 1024  # players skip it
    assert 0 <= min(times["video"]) < 0.03
    assert -0.05 < min(times["audio"]) < 0.05  # a decoder needs one packet before the first
    assert max(times["audio"]) == pytest.approx(0.6, abs=0.06)


def test_a_failure_of_the_sound_at_the_end_keeps_the_pictures(
    film, pass_through, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(OtherStreams, "copy", _failing_at_the_end(OtherStreams.copy))
    pass_through(film(), str(tmp_path / "a.mp4"), encoding=FAST)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert len(list(container.decode(video=0))) == 47
    assert "sound and subtitles end early (no more)" in caplog.text


def _failing_at_the_end(copy):
    def failing(self, until=None):
        if until is None:
            raise ValueError("no more")
        copy(self, until)

    return failing
