# SPDX-License-Identifier: Apache-2.0
"""Writing video, checked with PyAV as an independent reader."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import logging
import os
from fractions import Fraction

import av
import numpy as np
import pytest

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.files.writer import VideoWriter
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.pixels.colour import RGB, Colour

VARIABLE = [Fraction(n, 24000) for n in (0, 1000, 1001, 4000, 4500, 9000)]
INFO = ClipInfo(64, 48, Fraction(24), Fraction(1, 24), colour=Colour(1, 1, 1, 1))
FAST = Encoding(preset="ultrafast")


def frames(times, size=(64, 48), last=Fraction(1, 24)):
    ends = [*times[1:], times[-1] + last]
    x, y = np.arange(size[0])[None, :, None], np.arange(size[1])[:, None, None]
    for index, (pts, end) in enumerate(zip(times, ends, strict=True)):
        wave = np.sin((x - 2 * index) / 9 + y / 13 + np.array([0.0, 2.0, 4.0]))
        yield TimedFrame((127 + 90 * wave).astype(np.uint8), pts, end - pts)


def write(path, info=INFO, times=None, **options):
    times = [Fraction(i, 24) for i in range(5)] if times is None else times
    options.setdefault("encoding", FAST)
    with VideoWriter(path, info, **options) as sink:
        for frame in frames(times, (info.width, info.height)):
            sink.write(frame)
    return path


def context_of(path):
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        return {
            "size": (context.width, context.height),
            "pixels": context.pix_fmt,
            "codec": context.name,
            "tag": context.codec_tag,
            "colour": (
                context.colorspace,
                context.color_range,
                context.color_primaries,
                context.color_trc,
            ),
            "aspect": context.sample_aspect_ratio,
        }


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("start", [Fraction(0), Fraction(1, 3)])
@pytest.mark.parametrize("preset", ["ultrafast", "medium"])  # without and with B-frames
def test_split_intervals_are_exact_at_a_variable_frame_rate(
    tmp_path, times_of, suffix, start, preset
):
    times = [
        start + a + (b - a) * step / 8
        for a, b in itertools.pairwise([*VARIABLE, VARIABLE[-1]])
        for step in range(8 if a < b else 1)
    ]
    info = dataclasses.replace(INFO, rate=Fraction(192), time_base=Fraction(1, 192000))
    path = write(tmp_path / f"a.{suffix}", info, times, encoding=Encoding(preset=preset))
    assert times_of(path) == times


@pytest.mark.parametrize("preset", ["ultrafast", "medium"])  # without and with B-frames
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("last", [Fraction(1, 24), Fraction(1, 12), Fraction(1, 100)])
def test_the_last_frame_keeps_its_duration(tmp_path, preset, suffix, last):
    times = [Fraction(index, 24) for index in range(9)]
    info = dataclasses.replace(INFO, time_base=Fraction(1, 600))
    path = tmp_path / f"a.{suffix}"
    with VideoWriter(path, info, encoding=Encoding(preset=preset)) as sink:
        for frame in frames(times, last=last):
            sink.write(frame)
    with av.open(str(path)) as container:
        end = Fraction(container.duration, av.time_base)
    assert abs(end - (times[-1] + last)) <= Fraction(1, 1000)  # Matroska's tick


@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(2997, 125)]
)
@pytest.mark.parametrize("factor", [2, 8, 64])
def test_every_common_rate_is_exact(tmp_path, times_of, rate, factor):
    info = dataclasses.replace(INFO, rate=rate * factor, time_base=1 / (rate * factor))
    times = [index / (rate * factor) for index in range(10)]
    assert times_of(write(tmp_path / "a.mp4", info, times)) == times


def test_a_time_base_beyond_mp4_is_kept_to_a_nanosecond(tmp_path, times_of):
    info = dataclasses.replace(INFO, time_base=Fraction(1, 7 * 10**9))
    times = [Fraction(index, 7) for index in range(4)]
    written = times_of(write(tmp_path / "a.mp4", info, times))
    assert max(abs(a - b) for a, b in zip(written, times, strict=True)) <= Fraction(1, 10**9)


def test_matroska_keeps_times_to_a_millisecond(tmp_path, times_of):
    times = [Fraction(index, 192) for index in range(10)]
    info = dataclasses.replace(INFO, time_base=Fraction(1, 192))
    written = times_of(write(tmp_path / "a.mkv", info, times))
    assert max(abs(a - b) for a, b in zip(written, times, strict=True)) <= Fraction(1, 1000)


def test_colour_tags_and_pixel_aspect_are_kept(tmp_path):
    info = dataclasses.replace(INFO, colour=Colour(6, 1, 5, 6), pixel_aspect=Fraction(4, 3))
    written = context_of(write(tmp_path / "a.mp4", info))
    assert written["colour"] == (6, 1, 5, 6)
    aspect = written["aspect"]
    assert Fraction(aspect.numerator, aspect.denominator) == Fraction(4, 3)


@pytest.mark.skipif(
    not hasattr(av.VideoFrame, "chroma_location"), reason="PyAV 18 does not tell chroma's place"
)
@pytest.mark.parametrize("siting", [0, 1, 2, 3])
def test_the_place_of_chroma_is_kept(make_clip, tmp_path, siting):
    info = dataclasses.replace(INFO, colour=Colour(1, 1, 1, 1, siting))
    path = write(tmp_path / "a.mp4", info)
    assert VideoReader(path).info.colour.siting == (siting or 1)  # H.264 without a tag is left


def test_untagged_colour_stays_untagged(tmp_path):
    written = context_of(write(tmp_path / "a.mp4", dataclasses.replace(INFO, colour=Colour())))
    assert written["colour"] == (2, 0, 2, 2)


def test_rgb_sources_are_tagged_with_the_matrix_that_is_used(tmp_path):
    info = dataclasses.replace(INFO, colour=Colour(RGB, 2, 1, 13))
    assert context_of(write(tmp_path / "a.mp4", info))["colour"] == (5, 1, 1, 13)


@pytest.mark.parametrize(
    "colour",
    [Colour(), Colour(1, 1), Colour(1, 2), Colour(6, 1), Colour(9, 1), Colour(RGB, 2), Colour(8)],
)
def test_colours_survive_the_way_out_and_in(tmp_path, colour):
    info = dataclasses.replace(INFO, width=65, colour=colour)  # odd, so chroma is not halved
    path = write(tmp_path / "a.mp4", info, encoding=Encoding(crf=0))
    times = [Fraction(i, 24) for i in range(5)]
    for read, original in zip(VideoReader(path), frames(times, (65, 48)), strict=True):
        # 8-bit YUV holds RGB to within 2 levels; crf 0 is lossless for H.264.
        assert np.abs(read.pixels.astype(int) - original.pixels).max() <= 2


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_ffv1_is_lossless(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", encoding=Encoding(codec="ffv1"))
    times = [Fraction(i, 24) for i in range(5)]
    for read, original in zip(VideoReader(path), frames(times), strict=True):
        np.testing.assert_array_equal(read.pixels, original.pixels)


def test_pictures_of_h264_are_not_cut_into_slices(tmp_path):
    # Slices for the sake of threads halve the speed of x264 and make files a fifth larger.
    path = write(tmp_path / "a.mp4", dataclasses.replace(INFO, width=640, height=480))
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert len(packets) == 5
    for packet in packets:
        kinds = []
        while packet:
            size = int.from_bytes(packet[:4], "big")
            kinds.append(packet[4] & 31)
            packet = packet[4 + size :]
        assert sum(kind in (1, 5) for kind in kinds) == 1  # coded slices


def test_hevc_is_tagged_for_apple_players(tmp_path):
    written = context_of(write(tmp_path / "a.mp4", encoding=Encoding("hevc", preset="ultrafast")))
    assert (written["codec"], written["tag"]) == ("hevc", "hvc1")


def test_even_sizes_are_written_as_every_player_wants_them(tmp_path):
    written = context_of(write(tmp_path / "a.mp4"))
    assert (written["codec"], written["pixels"]) == ("h264", "yuv420p")


@pytest.mark.parametrize(
    ("size", "pixels"), [((63, 48), "yuv444p"), ((64, 47), "yuv422p"), ((5, 3), "yuv444p")]
)
def test_odd_sizes_are_kept_and_warned_about(tmp_path, size, pixels, caplog):
    info = dataclasses.replace(INFO, width=size[0], height=size[1])
    with caplog.at_level(logging.WARNING):
        written = context_of(write(tmp_path / "a.mp4", info))
    assert (written["size"], written["pixels"]) == (size, pixels)
    assert "odd size" in caplog.text


@pytest.mark.parametrize("audio", ["aac", "libopus", "libmp3lame", "pcm_s16le", "flac"])
def test_audio_is_copied_bit_exactly_and_in_time(make_clip, tmp_path, packets_of, audio):
    source = make_clip("in.mkv", audio=audio, pts=[Fraction(i, 24) for i in range(12)])
    times = [Fraction(i, 48) for i in range(23)]
    path = write(tmp_path / "out.mkv", times=times, others=source)
    before, after = packets_of(source), packets_of(path)
    assert [data for _, data in after] == [data for _, data in before]
    # Matroska shifts a whole file to let the priming samples of a codec start at zero.
    first = after[0][0] - before[0][0]
    for (time, _), (original, _) in zip(after, before, strict=True):
        assert abs(time - original - first) <= Fraction(1, 1000)


def test_audio_times_are_exact_in_mp4(make_clip, tmp_path, packets_of):
    source = make_clip("in.mp4", audio="aac")
    path = write(tmp_path / "out.mp4", others=source)
    assert packets_of(path) == packets_of(source)


def test_sound_and_picture_of_a_broadcast_stay_together(make_clip, tmp_path, packets_of, times_of):
    start, tick = Fraction(100), Fraction(1, 90000)
    source = make_clip(
        "in.ts", audio="mp2", pts=[start + Fraction(i, 24) for i in range(9)], tick=tick
    )
    reader = VideoReader(source)
    info = dataclasses.replace(reader.info, colour=INFO.colour)
    with VideoWriter(tmp_path / "out.mp4", info, others=source) as sink:
        for frame in reader:
            sink.write(frame)
    lag = packets_of(source)[0][0] - times_of(source)[0]
    copied = packets_of(tmp_path / "out.mp4")[0][0] - times_of(tmp_path / "out.mp4")[0]
    assert abs(copied - lag) <= Fraction(1, 48000)


def test_audio_is_interleaved_with_the_video(make_clip, tmp_path):
    source = make_clip("in.mp4", audio="aac", pts=[Fraction(i, 24) for i in range(48)])
    path = write(tmp_path / "out.mp4", times=[Fraction(i, 24) for i in range(48)], others=source)
    with av.open(str(path)) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
    longest = max(len(list(group)) for _, group in itertools.groupby(kinds))
    assert longest < len(kinds) / 2


def test_a_source_without_audio_gives_a_file_without(make_clip, tmp_path):
    path = write(tmp_path / "out.mp4", others=make_clip())
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_the_file_has_its_name_only_when_complete(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", INFO) as sink:
        for frame in frames([Fraction(0), Fraction(1, 24)]):
            sink.write(frame)
        (entry,) = tmp_path.iterdir()
        assert entry.match("a.partial-*.mp4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


def interrupted_run(path, error, **options):
    with VideoWriter(path, INFO, **options) as sink:
        for frame in frames([Fraction(0), Fraction(1, 24)]):
            sink.write(frame)
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_interrupted_run_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        interrupted_run(tmp_path / "a.mp4", error)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_an_older_result_alone(tmp_path):
    path = write(tmp_path / "a.mp4")
    older = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupted_run(path, KeyboardInterrupt, overwrite=True)
    assert path.read_bytes() == older
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path):
    path = write(tmp_path / "a.mp4")
    with pytest.raises(FileExistsError, match=r"a\.mp4 exists\. Use --overwrite"):
        VideoWriter(path, INFO)
    write(path, overwrite=True)


def test_missing_folders_are_made(tmp_path):
    assert write(tmp_path / "new" / "deep" / "a.mp4").exists()


@pytest.mark.parametrize("name", ["file/a.mp4", "file/deeper/a.mp4", "/proc/a.mp4"])
def test_an_unwritable_place_fails_before_any_frame(tmp_path, name):
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / name  # an absolute name stays as it is
    if not os.path.isdir("/proc") and path.is_absolute():
        pytest.skip("/proc is a Linux folder in which nobody can create files")
    with pytest.raises(OSError, match=r"a\.mp4 cannot be written"):
        VideoWriter(path, INFO)


def test_an_unknown_suffix_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"'\.xyz'; videos are written as \.mp4, \.mov, \.mkv"):
        VideoWriter(tmp_path / "a.xyz", INFO)
    assert list(tmp_path.iterdir()) == []


def test_a_codec_the_container_cannot_hold_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"\.mov cannot hold ffv1; it holds h264, hevc, prores"):
        VideoWriter(tmp_path / "a.mov", INFO, encoding=Encoding(codec="ffv1"))
    assert list(tmp_path.iterdir()) == []


def test_audio_the_container_cannot_hold_is_left_out_with_one_line(make_clip, tmp_path, caplog):
    source = make_clip("in.mkv", audio="libopus")
    path = write(tmp_path / "a.mov", others=source)
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("left out of the output: audio opus.")


@pytest.mark.parametrize(("codec", "crf", "most"), [("h264", 52, 51), ("av1", 64, 63)])
def test_quality_outside_its_range_is_an_error(tmp_path, codec, crf, most):
    with pytest.raises(ValueError, match=f"`crf` is {crf}; .*{most}"):
        VideoWriter(tmp_path / "a.mp4", INFO, encoding=Encoding(codec=codec, crf=crf))
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_meanwhile_costs_nothing(tmp_path):
    path = tmp_path / "a.mkv"
    sink = VideoWriter(path, INFO)
    for frame in frames([Fraction(0), Fraction(1, 24)]):
        sink.write(frame)
    path.write_text("another run's")
    with pytest.raises(OSError, match="kept as") as error:
        sink.__exit__(None, None, None)
    assert path.read_text() == "another run's"
    (kept,) = tmp_path.glob("a.partial-*.mkv")
    assert str(kept) in str(error.value)
    assert len(list(VideoReader(kept))) == 2


class FullDisk:
    """An output container that fails to close, as on a full disk."""

    def __init__(self, container):
        self._container = container

    def __getattr__(self, name):
        return getattr(self._container, name)

    def close(self):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_that_cannot_be_closed_is_kept_and_named(tmp_path, monkeypatch):
    path = tmp_path / "a.mkv"
    sink = VideoWriter(path, INFO)
    for frame in frames([Fraction(0), Fraction(1, 24)]):
        sink.write(frame)
    monkeypatch.setattr(sink, "_container", FullDisk(sink._container))
    with pytest.raises(OSError, match=r"a\.mkv could not be finished: No space") as error:
        sink.__exit__(None, None, None)
    (kept,) = tmp_path.iterdir()
    assert str(kept) in str(error.value)
    assert len(list(VideoReader(kept))) == 2
