# SPDX-License-Identifier: Apache-2.0
"""Sound, subtitles, chapters, attachments and metadata come along; what cannot is named."""

from __future__ import annotations

import io
import itertools
from fractions import Fraction

import av
import imageio.v3 as imageio
import numpy as np
import pytest
from av.stream import Disposition
from av.subtitles.subtitle import SubtitleSet

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.streams import OtherStreams

STYLES = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname\n\n[Events]\n"
    b"Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)
RATE = 48000
FAST = Encoding(preset="ultrafast")


def add_sound(container, codec):
    stream = container.add_stream(codec, rate=RATE, layout="stereo")
    stream.metadata.update(language="fra", title="Commentaire")
    stream.disposition = Disposition.comment | Disposition.default
    return stream


def sound(stream, seconds):
    for start in range(0, int(seconds * RATE), 1024):
        wave = 0.5 * np.sin(np.arange(start, start + 1024) * 2 * np.pi * 440 / RATE)
        frame = av.AudioFrame.from_ndarray(
            np.stack([wave, wave]).astype(np.float32), format="fltp", layout="stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def subtitles(stream, texts):
    for index, text in enumerate(texts):
        event = SubtitleSet.create(f"{index},0,Default,,0,0,0,,{text}".encode(), start=0, end=300)
        packet = stream.codec_context.encode_subtitle(event)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = 500 * index + 100
        packet.duration = 300
        yield packet


@pytest.fixture
def film(tmp_path):
    """A second of video with all that a film has beside it."""

    def make(name="in.mkv", *, codec="aac", text=("srt",), attachment=True, chapters=True):
        cover = io.BytesIO()
        imageio.imwrite(cover, np.full((16, 16, 3), 99, np.uint8), extension=".jpg")
        with av.open(str(tmp_path / name), "w") as container:
            container.metadata.update(title="Film", creation_time="2020-01-02T03:04:05.000000Z")
            video = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            video.metadata["language"] = "deu"
            audio = add_sound(container, codec)
            texts = [container.add_stream(kind) for kind in text]
            for stream in texts:
                stream.codec_context.subtitle_header = STYLES
                stream.codec_context.time_base = Fraction(1, 1000)
                stream.metadata["language"] = "eng"
                stream.disposition = Disposition.forced
            if attachment:
                container.add_attachment("font.ttf", "font/ttf", b"a font")
                container.add_attachment("cover.jpg", "image/jpeg", cover.getvalue())
            if chapters:
                container.set_chapters(
                    [
                        {"id": n + 1, "start": 500 * n, "end": 500 * n + 500,
                         "time_base": Fraction(1, 1000), "metadata": {"title": title}}
                        for n, title in enumerate(("one", "two"))
                    ]
                )  # fmt: skip
            container.start_encoding()
            for index in range(24):
                frame = av.VideoFrame.from_ndarray(
                    np.full((48, 64, 3), 5 * index, np.uint8), "rgb24"
                )
                frame.pts, frame.time_base = index, Fraction(1, 24)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            container.mux(list(sound(audio, 1)))
            for stream in texts:
                container.mux(list(subtitles(stream, ("Hello", "Bye"))))
        return tmp_path / name

    return make


def kinds(path):
    with av.open(str(path)) as container:
        return [
            (stream.type, stream.codec_context.name if stream.codec_context else None)
            for stream in container.streams
        ]


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


def texts(path):
    with av.open(str(path)) as container:
        return [
            (packet.pts * packet.time_base.numerator / packet.time_base.denominator, bytes(packet))
            for packet in container.demux(subtitles=0)
            if packet.size > 2
        ]


def samples(path):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    # Packed formats have both channels in one row.
    return np.concatenate([f[0] if len(f) == 2 else f[0, ::2] for f in frames])


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


def test_slow_motion_drops_the_sound_and_stretches_subtitles_and_chapters(
    film, pass_through, tmp_path
):
    pass_through(film(), str(tmp_path / "a.mkv"), stretch=4, encoding=FAST)
    assert "audio" not in dict(kinds(tmp_path / "a.mkv"))
    assert texts(tmp_path / "a.mkv") == [(0.4, b"Hello"), (2.4, b"Bye")]
    assert chapters(tmp_path / "a.mkv") == [(0, 2, "one"), (2, 4, "two")]


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


def seconds_of_sound(path, index=0):
    with av.open(str(path)) as container:
        return sum(f.samples / f.sample_rate for f in container.decode(audio=index))


def made_by(ffmpeg, path, *arguments, seconds=1):
    """A file with a second of video and what ``arguments`` add."""
    ffmpeg("-y", "-f", "lavfi", "-i", f"smptebars=s=64x48:r=24:d={seconds}", *arguments, path)
    return path


SINE = ("-f", "lavfi", "-i", "sine=440:r=44100:d=1")
STRETCHED = Encoding(preset="ultrafast", audio="stretch")


@pytest.mark.parametrize("name", ["out.mov", "out.mp4", "out.mkv", "out.avi"])
def test_a_timecode_track_is_left_out_before_the_first_frame(
    ffmpeg, pass_through, tmp_path, caplog, name
):
    source = made_by(ffmpeg, tmp_path / "in.mov", *SINE, "-timecode", "01:00:00:00")
    pass_through(source, str(tmp_path / name), encoding=FAST)
    assert [kind for kind, _ in kinds(tmp_path / name)] == ["video", "audio"]
    assert "left out of the output: data timecode." in caplog.text


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
