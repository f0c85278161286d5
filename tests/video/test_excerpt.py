# SPDX-License-Identifier: Apache-2.0
"""A part of a clip has the frames, sound and subtitles of its times, and begins at zero."""

from __future__ import annotations

import subprocess
from fractions import Fraction

import av
import imageio_ffmpeg
import numpy as np
import pytest

from flavr_jax.reading.inputs import Input
from flavr_jax.video.excerpt import Excerpt, Span
from flavr_jax.video.files import sinks
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import VideoReader, open_source


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Seven seconds at 10 frames a second with open groups of pictures, a tone and a subtitle."""
    folder = tmp_path_factory.mktemp("film")
    (folder / "text.srt").write_text(
        "1\n00:00:01,000 --> 00:00:05,000\nlong\n\n2\n00:00:06,500 --> 00:00:06,900\nlate\n\n"
    )
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error",
        "-f", "lavfi", "-i", "testsrc=r=10:d=7:s=64x48",
        "-f", "lavfi", "-i", "sine=d=7:r=8000", "-i", "text.srt",
        "-c:v", "libx264", "-x264-params", "keyint=15:open-gop=1:bframes=3", "-pix_fmt", "yuv420p",
        "-c:a", "pcm_s16le", "-c:s", "srt", "film.mkv",
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True)
    return folder / "film.mkv"


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("00:01:00-00:02:00.5", (Fraction(60), Fraction(241, 2))),
        ("90-1:40", (Fraction(90), Fraction(100))),
        ("1:00:00-", (Fraction(3600), None)),
        ("-2.25", (Fraction(0), Fraction(9, 4))),
    ],
)
def test_times_are_read_exactly(text, span):
    assert (Span.parse(text).start, Span.parse(text).end) == span


@pytest.mark.parametrize("text", ["", "-", "5", "5-5", "6-5", "a-b", "1:2:3:4-", "-1-2", "1e3-"])
def test_what_is_no_range_is_explained(text):
    with pytest.raises(ValueError, match="write START-END"):
        Span.parse(text)


@pytest.mark.parametrize("start", ["0.5", "4.6", "5.05"])
def test_frames_are_those_of_a_reader_of_the_whole_clip(film, start):
    span = Span.parse(f"{start}-6")
    whole = [frame for frame in VideoReader(film) if span.start <= frame.pts < span.end]
    excerpt = Excerpt(VideoReader(film), span)
    for _ in range(2):  # an iteration starts again at the first frame
        part = list(excerpt)
        assert [frame.pts for frame in part] == [frame.pts - whole[0].pts for frame in whole]
        assert [frame.original.opaque.index for frame in part] == list(range(len(whole)))
        for one, other in zip(part, whole, strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)
    assert excerpt.info.frame_count == len(whole)


def test_the_beginning_of_a_film_is_not_decoded(film, monkeypatch):
    reader = VideoReader(film)
    decoded = []
    decode = reader._decode
    monkeypatch.setattr(reader, "_decode", lambda *a: (decoded.append(f) or f for f in decode(*a)))
    list(Excerpt(reader, Span.parse("5.5-5.6")))
    assert 0 < len(decoded) < 50  # of 57 up to there


def test_a_range_without_frames_is_explained(film):
    with pytest.raises(ValueError, match="begins at 70 s and has no frame"):
        Input(range="70-80").open(film)


def test_a_folder_of_images_has_ranges_too(film, tmp_path):
    source = open_source(film)
    with sinks.open_sink(f"{tmp_path}/images/", source.info, source=None) as sink:
        for frame in source:
            sink.write(frame)
    part = list(Input(range="1-1.3", input_rate="10").open(tmp_path / "images"))
    assert [frame.original.opaque.path.name for frame in part] == [
        f"frame_{number:06}.png" for number in (11, 12, 13)
    ]


# The long text is shown from 1 to 5 seconds.
@pytest.mark.parametrize(("end", "shown"), [(6, 3), (4, 2)])
def test_sound_and_subtitles_are_cut_with_the_pictures(film, tmp_path, end, shown):
    source = Excerpt(VideoReader(film), Span.parse(f"2-{end}"))
    output = tmp_path / "part.mkv"
    sink = sinks.open_sink(
        str(output), source.info, source=film, span=source.span, encoding=Encoding(crf=30)
    )
    with sink:
        for frame in source:
            sink.write(frame)
    with av.open(str(output)) as part, av.open(str(film)) as whole:
        sound = [(p.pts * p.time_base, bytes(p)) for p in part.demux(audio=0) if p.size]
        expected = [
            (p.pts * p.time_base - 2, bytes(p))
            for p in whole.demux(audio=0)
            if p.size and 2 <= p.pts * p.time_base < end
        ]
        assert [data for _, data in sound] == [data for _, data in expected]
        assert [float(time) for time, _ in sound] == pytest.approx(
            [float(time) for time, _ in expected], abs=1e-3
        )
    with av.open(str(output)) as part:
        (text,) = [packet for packet in part.demux(subtitles=0) if packet.size]
        base = text.time_base
        assert (text.pts * base, text.duration * base, bytes(text)) == (0, shown, b"long")
