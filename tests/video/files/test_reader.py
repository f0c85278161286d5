# SPDX-License-Identifier: Apache-2.0
"""Reading video: exact times, true colours, and an honest word about broken files."""

from __future__ import annotations

import io
import itertools
import os
import re
import struct
from fractions import Fraction

import av
import imageio.v3 as imageio
import numpy as np
import pytest

from flavr_jax.video.files import decoding
from flavr_jax.video.files.reader import VideoReader, open_source

VARIABLE = [Fraction(n, 24000) for n in (0, 1000, 1001, 4000, 4500, 9000)]
# H.273 matrix → (Kr, Kb) of ITU-R BT.709, BT.601 and BT.2020.
WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def flat_frame(yuv, size, pix_fmt):
    frame = av.VideoFrame(*size, pix_fmt)
    for plane, value in zip(frame.planes, yuv, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame


def rgb_of(yuv, matrix, full):
    """YUV to RGB by the formulas of ITU-T H.273, in float64."""
    kr, kb = WEIGHTS[matrix]
    y, u, v = yuv
    luma = y / 255 if full else (y - 16) / 219
    u, v = ((u - 128) / 255, (v - 128) / 255) if full else ((u - 128) / 224, (v - 128) / 224)
    red, blue = luma + 2 * (1 - kr) * v, luma + 2 * (1 - kb) * u
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return 255 * np.clip([red, green, blue], 0, 1)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_times_are_exact_for_a_variable_frame_rate(make_clip, name):
    path = make_clip(name, pts=VARIABLE)  # libx264 reorders frames by default
    frames = list(VideoReader(path))
    assert [frame.pts for frame in frames] == VARIABLE
    assert frames[-1].duration == Fraction(1, 24)


def test_a_late_first_frame_stays_late_in_mp4(make_clip):
    path = make_clip(
        pts=[Fraction(1, 3) + Fraction(i, 24) for i in range(3)],
        container_options={"movie_timescale": "24000"},
    )
    assert next(iter(VideoReader(path))).pts == Fraction(1, 3)


def test_a_broadcast_clock_starts_at_zero(make_clip):
    tick = Fraction(1, 90000)
    path = make_clip("a.ts", pts=[100 + Fraction(i, 24) for i in range(3)], tick=tick)
    assert [frame.pts for frame in VideoReader(path)] == [0, Fraction(1, 24), Fraction(1, 12)]


def test_frames_without_times_run_at_their_rate(make_clip, tmp_path):
    source = make_clip("a.h264", codec="libx264", options={"bf": "0"})
    times = [frame.pts for frame in VideoReader(source)]
    assert len(times) == 5
    assert all(after > before for before, after in itertools.pairwise(times))


def test_a_clip_can_be_read_again_from_its_start(make_clip):
    source = VideoReader(make_clip())
    first, second = list(source), list(source)
    assert [f.pts for f in first] == [f.pts for f in second]
    np.testing.assert_array_equal(first[-1].pixels, second[-1].pixels)


def test_facts_of_a_clip(make_clip):
    info = VideoReader(make_clip(aspect=Fraction(4, 3), tags=(6, 1, 6, 6))).info
    assert (info.width, info.height, info.frame_count) == (64, 48, 5)
    assert info.rate == 24
    assert info.pixel_aspect == Fraction(4, 3)
    colour = info.colour
    assert (colour.matrix, colour.levels, colour.primaries, colour.transfer) == (6, 1, 6, 6)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_colours_follow_the_matrix_and_range_of_the_stream(make_clip, pix_fmt, matrix, full):
    yuv = (90, 110, 160)
    path = make_clip(
        pts=[Fraction(0)],
        frames=[flat_frame(yuv, (64, 48), pix_fmt)],
        pix_fmt=pix_fmt,
        options={"qp": "0"},
        tags=(matrix, 2 if full else 1, 2, 2),
    )
    pixels = next(iter(VideoReader(path))).pixels
    assert np.abs(pixels - rgb_of(yuv, matrix, full)).max() <= 0.51  # rounding to 8 bits


def test_untagged_grey_is_full_range(make_clip):
    frame = flat_frame((200,), (64, 48), "gray")
    path = make_clip("a.mkv", codec="ffv1", pix_fmt="gray", pts=[Fraction(0)], frames=[frame])
    source = VideoReader(path)
    assert source.info.colour.levels == 2
    assert set(next(iter(source)).pixels.ravel()) == {200}


@pytest.mark.parametrize(("height", "matrix"), [(704, 6), (720, 1)])
def test_untagged_video_is_bt709_from_720_lines_on_and_bt601_below(make_clip, height, matrix):
    yuv = (90, 110, 160)
    path = make_clip(
        pts=[Fraction(0)],
        frames=[flat_frame(yuv, (32, height), "yuv420p")],
        size=(32, height),
        options={"qp": "0"},
    )
    pixels = next(iter(VideoReader(path))).pixels
    assert np.abs(pixels - rgb_of(yuv, matrix, full=False)).max() <= 0.51


def test_pictures_stored_turned_stay_so_and_say_how_to_show_them(make_clip):
    path = make_clip(aspect=Fraction(4, 3))
    upright = next(iter(VideoReader(path))).pixels
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40  # the 3×3 matrix in a version 0 track header
    matrix = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # a phone held upright: 90° clockwise
    content[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    source = VideoReader(path)
    assert source.info.display_matrix == matrix
    np.testing.assert_array_equal(next(iter(source)).pixels, upright)
    assert (source.info.width, source.info.height) == (64, 48)


def test_a_cover_picture_is_not_the_video(make_clip):
    cover = io.BytesIO()
    imageio.imwrite(cover, np.zeros((16, 16, 3), np.uint8), extension=".jpg")
    source = VideoReader(make_clip("a.mkv", cover=cover.getvalue()))
    assert (source.info.width, source.info.height) == (64, 48)
    assert len(list(source)) == 5


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        open_source(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("junk.mp4", bytes(range(256)) * 20),
        ("empty.mp4", b""),
        ("notes.txt", b"hello\n" * 100),
        ("fake.png", b"hello\n" * 100),
    ],
)
def test_a_file_that_is_no_video_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=name):
        open_source(path)


def test_a_file_with_sound_only_is_no_video(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ValueError, match=r"sound\.wav is not a video: it has no video stream"):
        VideoReader(path)


@pytest.mark.parametrize(
    ("name", "codec", "unknown"),
    [("a.mkv", b"V_MPEG4/ISO/AVC", b"V_XXXXX/ISO/AVC"), ("a.mp4", b"avc1", b"xxxx")],
)
def test_a_codec_that_nobody_knows_is_one_line(make_clip, name, codec, unknown):
    path = make_clip(name)
    data = path.read_bytes()
    assert codec in data
    path.write_bytes(data.replace(codec, unknown))
    with pytest.raises(ValueError, match=rf"{name} has video in a codec that this FFmpeg does not"):
        VideoReader(path)


@pytest.mark.parametrize("name", ["none.mp4", "none.mkv", "none.ts"])
def test_a_video_without_frames_is_an_error(make_clip, name):
    path = make_clip(name, pts=[])
    with pytest.raises(ValueError, match=name):
        VideoReader(path)


def test_a_whole_clip_is_not_called_damaged(make_clip):
    for name, audio in [("a.mp4", "aac"), ("a.mkv", "aac"), ("b.mp4", None), ("a.avi", None)]:
        source = VideoReader(make_clip(name, audio=audio, tick=Fraction(1, 24)))
        assert len(list(source)) == 5
        assert source.damage is None


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_a_clip_that_starts_late_is_not_called_damaged(make_clip, name):
    late = [Fraction(7, 20) + Fraction(i, 24) for i in range(5)]
    source = VideoReader(make_clip(name, pts=late))
    assert len(list(source)) == 5
    assert source.damage is None


@pytest.mark.parametrize(
    ("name", "share"), [("a.mp4", 0.6), ("a.mp4", 0.97), ("a.mkv", 0.6), ("a.mp4", 0.3)]
)
def test_a_truncated_clip_gives_what_decodes_and_says_so(make_clip, name, share):
    path = make_clip(
        name,
        pts=[Fraction(i, 24) for i in range(48)],
        options={"crf": "1", "g": "8"},  # so that pictures, not the index, make up the file
        container_options={"movflags": "+faststart"} if name.endswith("mp4") else None,
    )
    whole = {frame.pts: frame.pixels for frame in VideoReader(path)}
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    source = VideoReader(path)
    frames = list(source)
    assert 0 < len(frames) < 48
    assert source.damage
    # Half a packet would decode to half a picture; such a frame is not given out.
    for frame in frames:
        np.testing.assert_array_equal(frame.pixels, whole[frame.pts])


@pytest.mark.parametrize("name", ["whole.mp4", "cut.ts", "cut.mkv", "broken.mkv"])
def test_frames_decoded_in_threads_are_the_same(make_clip, name):
    times = [Fraction(i, 24) for i in range(48)]
    # Of the codecs with threads for frames, this one checks what it decodes.
    codec, options = (
        ("ffv1", {"slicecrc": "1"}) if name == "broken.mkv" else ("libx264", {"bf": "2"})
    )
    path = make_clip(name, pts=times, codec=codec, options=options)
    content = bytearray(path.read_bytes())
    if name.startswith("broken"):
        content[len(content) // 2] ^= 255
    path.write_bytes(content[: int(len(content) * 0.7)] if name.startswith("cut") else content)
    sources = VideoReader(path), VideoReader(path, threads=True)
    one_by_one, several = (list(source) for source in sources)
    assert sources[0].damage == sources[1].damage
    for one, other in zip(one_by_one, several, strict=True):
        assert (one.pts, one.duration) == (other.pts, other.duration)
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert [frame.pts for frame in sources[1].since(Fraction(1, 2))] == [
        frame.pts for frame in one_by_one if frame.pts >= Fraction(1, 2)
    ]


def test_frames_around_a_damaged_one_are_decoded_in_threads_too(make_clip, monkeypatch):
    path = make_clip("a.mkv", pts=[Fraction(i, 24) for i in range(30)], options={"g": "1"})
    usual = decoding.decoder

    def failing(stream):
        count = 0

        def decode(packet):
            nonlocal count
            count += 1
            if count == 15:
                raise av.error.InvalidDataError(1094995529, "damaged")
            return usual(stream)(packet)

        return decode

    monkeypatch.setattr(decoding, "decoder", failing)
    sources = VideoReader(path), VideoReader(path, threads=True)
    one_by_one, several = ([frame.pts for frame in source] for source in sources)
    assert len(one_by_one) == 29
    assert several == one_by_one
    assert sources[0].damage == sources[1].damage is not None


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize(("codec", "options"), [("libx264", {"bf": "3"}), ("mpeg4", {"bf": "2"})])
def test_frames_of_an_avi_with_b_frames_are_evenly_spaced(make_clip, codec, options, threads):
    times = [Fraction(index, 24) for index in range(24)]
    path = make_clip("b.avi", pts=times, codec=codec, options=options, tick=Fraction(1, 24))
    source = VideoReader(path, threads=threads)
    assert [frame.pts for frame in source] == times
    assert source.damage is None


def test_a_dv_tape_has_its_rate(tmp_path):
    path = tmp_path / "tape.dv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("dvvideo", rate=Fraction(30000, 1001))
        video.width, video.height, video.pix_fmt = 720, 480, "yuv411p"
        sound = container.add_stream("pcm_s16le", rate=48000, layout="stereo")
        for index in range(3):  # DV's muxer needs sound with each picture
            container.mux(video.encode(av.VideoFrame(720, 480, "yuv411p")))
            silence = np.zeros((1, 2 * 1602), np.int16)
            chunk = av.AudioFrame.from_ndarray(silence, format="s16", layout="stereo")
            chunk.sample_rate, chunk.pts = 48000, 1602 * index
            container.mux(sound.encode(chunk))
        container.mux(video.encode(None))
    source = VideoReader(path)
    assert source.info.rate == Fraction(30000, 1001)
    assert [frame.pts for frame in source] == [Fraction(1001 * n, 30000) for n in range(3)]


@pytest.mark.parametrize("change", [{"size": (96, 48)}, {"pix_fmt": "yuv420p10le"}])
def test_what_precedes_a_change_of_size_or_depth_is_kept(make_clip, tmp_path, change):
    first = make_clip("1.ts", options={"bf": "0"})
    times = [Fraction(index, 24) for index in range(5, 10)]
    second = make_clip("2.ts", pts=times, options={"bf": "0"}, **change)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    source = VideoReader(joined)
    frames = list(source)
    assert [frame.pixels.shape for frame in frames] == [(48, 64, 3)] * 5
    assert source.damage is not None
    assert re.match(r"it changes from .* to .* at frame 6; a clip has one size", source.damage)


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("gone", ["shorter", "unreadable", "removed"])
def test_a_file_that_vanishes_while_it_is_read_is_no_damaged_clip(tmp_path, gone, threads):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame(320, 240, "yuv420p")))
    frames = iter(VideoReader(path, threads=threads))
    next(frames)
    os.truncate(path, 400_000)
    if gone != "shorter":
        path.unlink()
    if gone == "unreadable":
        path.mkdir()
    message = {
        "shorter": r"had \d+ bytes when it was opened, and has 400000 now",
        "unreadable": "cannot be read any more",
        "removed": "cannot be read any more",
    }
    with pytest.raises(OSError, match=message[gone]):
        list(frames)
