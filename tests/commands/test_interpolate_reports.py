# SPDX-License-Identifier: Apache-2.0
"""What a run tells people and programs, and the pictures it makes for looking."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3 as imageio
import numpy as np
import pytest

from flavr_jax.video.files.reader import VideoReader
from tests.commands.clips import FILM, pictures, times_of, write_clip, write_folder

pytestmark = pytest.mark.usefixtures("definition")


def test_a_run_tells_how_far_off_its_times_were(interpolate, capsys):
    write_clip(Path("in.mp4"), 3)
    interpolate("in.mp4", "--fps", "60")
    assert "at most 2.1 ms off their times in in_60fps.mp4" in capsys.readouterr().out
    interpolate("in.mp4", "--fps", "60", "--exact-times", "--overwrite")
    assert "at most 0.28 ms off their times in in_60fps.mp4" in capsys.readouterr().out


def test_a_run_says_what_it_did(interpolate, capsys):
    write_clip(Path("in.mp4"), 3)
    interpolate("in.mp4", "--factor", 8)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "in.mp4 → in_8x.mp4, 23.976 → 191.81 frames/s"
    assert "tiny_8x" in lines[1]
    assert lines[1].endswith("on cpu (cpu) in fp32 (the device is a CPU)")
    assert lines[-1].startswith("3 frames → 17 frames in in_8x.mp4, ")


def test_an_output_can_be_verified(interpolate, capsys):
    write_clip(Path("in.mkv"), 3)
    assert interpolate("in.mkv", "--factor", 2, "--codec", "ffv1", "--verify") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("verify: 3 originals differ from the source by at most 0.000 levels")


@pytest.mark.parametrize("output", ["out.gif", "out.webp"])
def test_an_animation_that_leaves_frames_out_is_no_failure(interpolate, capsys, output):
    write_folder(Path("in"), 2)
    shutil.copy("in/1.png", "in/2.png")
    arguments = ("in", output, "--fps", 100, "--input-rate", 100, "--verify")
    assert interpolate(*arguments) == 0
    warning = capsys.readouterr().err.splitlines()[-1]
    assert f"warning: {output} is complete, but not verified: The output has" in warning
    assert "2 frames, but 3 were written" in warning


def test_a_video_that_lost_frames_is_a_failure(interpolate, monkeypatch, capsys):
    read = VideoReader.__iter__

    def fewer(reader):
        return itertools.islice(read(reader), 4 if reader.path.name == "out.mkv" else None)

    write_clip(Path("in.mkv"), 3)
    monkeypatch.setattr(VideoReader, "__iter__", fewer)
    assert interpolate("in.mkv", "out.mkv", "--factor", 2, "--verify") == 2
    assert "The output has 4 frames, but 5 were written" in capsys.readouterr().err


def test_several_clips_are_told_in_a_table_and_one_failure_stops_none(interpolate, capsys):
    write_clip(Path("a.mp4"), 2)
    write_folder(Path("b"), 2)
    arguments = ("a.mp4", "nowhere.mp4", "b", "--factor", 2, "--output-folder", "new")
    assert interpolate(*arguments) == 2
    captured = capsys.readouterr()
    assert len(times_of("new/a_2x.mp4")) == 3
    assert len(list(Path("new/b_2x").iterdir())) == 3
    assert "error: " in captured.err
    table = captured.out[captured.out.index("Summary") :]
    for text in ("new/a_2x.mp4", "2 → 3", "failed", "done"):
        assert text in table


def test_programs_are_told_of_progress_in_json(interpolate, capsys):
    write_clip(Path("in.mp4"), 3)
    assert interpolate("in.mp4", "--factor", 8, "--json") == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    # Another test may have compiled the program.
    events = [each for each in events if each["event"] not in ("plan", "compile")]
    assert [each["event"] for each in events] == ["start", "progress", "progress", "end"]
    assert (events[0]["output"], events[0]["frames"]) == ("in_8x.mp4", 17)
    assert (events[-2]["done"], events[-2]["total"]) == (17, 17)
    assert (events[-1]["frames_out"], events[-1]["code"]) == (17, 0)
    assert captured.err == ""
    assert interpolate("in.mp4", "--factor", 8, "--json") == 2
    captured = capsys.readouterr()
    event = json.loads(captured.out.splitlines()[-1])
    assert event["event"] == "error"
    assert "in_8x.mp4 exists" in event["message"]
    assert "error: in_8x.mp4 exists" in captured.err


def test_programs_are_told_of_warnings_that_modules_log(interpolate, capsys):
    write_clip(Path("in.mkv"), 1, size=(32, 23))
    write_clip(Path("in2.mkv"), 1, size=(32, 23))
    clips = ("in.mkv", "in2.mkv", "--output-folder", ".")
    assert interpolate(*clips, "--factor", 2, "--codec", "h264", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (message,) = (each["message"] for each in events if each["event"] == "warning")
    assert message.startswith("32×23 is an odd size")
    assert interpolate("in.mkv", "--factor", 2, "--codec", "h264", "--overwrite") == 0
    assert '"event"' not in capsys.readouterr().out


def test_names_of_files_cannot_move_the_cursor(interpolate, capsys):
    write_clip(Path("in\x1b[2J\nerror: none.mkv"), 1)
    assert interpolate("in\x1b[2J\nerror: none.mkv", "out.mkv", "--factor", 2) == 0
    assert capsys.readouterr().out.startswith("in\\x1b[2J error: none.mkv → out.mkv, ")


def test_quiet_shows_warnings_only(interpolate, capsys):
    path = write_clip(Path("in.mp4"), 40)
    assert interpolate("in.mp4", "--factor", 2, "--quiet") == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    assert interpolate("in.mp4", "--factor", 2, "--quiet", "--overwrite") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("warning: in.mp4 is damaged")


def test_help_shows_examples_and_the_common_options_first(interpolate, capsys):
    assert interpolate("--help") == 0
    text = capsys.readouterr().out
    places = [text.index(word) for word in ("clip.mp4 --factor 4", "--factor {", "--crf", "--json")]
    assert places == sorted(places)


def test_a_dry_run_prints_the_plan_and_writes_nothing(interpolate, tmp_path, capsys):
    write_folder(tmp_path / "clip")
    assert interpolate("clip", "out.mp4", "--factor", 4, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "32×24: 1 interval at a time, whole frames" in printed
    # The last frame is held, so the output lasts as long as the input.
    assert re.search(r"3 frames in (\S+ s) → 9 frames in \1; .* computes 2 windows in", printed)
    assert not (tmp_path / "out.mp4").exists()


def test_a_result_can_be_looked_at(interpolate, monkeypatch, capsys):
    def missing():
        raise ModuleNotFoundError("LPIPS needs the extra metrics")

    monkeypatch.setattr("flavr_jax.commands.inspection.perceptual_metric", missing)
    write_clip(Path("in.mp4"), 9)
    asked = ("--preview", "--compare", "--report")
    assert interpolate("in.mp4", "--factor", 2, *asked, "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["what"] for each in events if each["event"] == "stage"] == [
        "sheet", "preview", "compare", "report",
    ]  # fmt: skip
    (weakest,) = (each["moments"] for each in events if each["event"] == "weakest")
    assert sorted(each["time"] for each in weakest) == [float(n * FILM) for n in (3, 4, 5)]
    scores = [each["scores"]["PSNR"] for each in weakest]
    assert scores == sorted(scores)
    assert len(times_of("in_2x_compare.mp4")) == len(times_of("in_2x_preview.mp4")) == 17
    assert VideoReader(Path("in_2x_compare.mp4")).info.width == 64
    assert "3 frames were left out one by one" in Path("in_2x_report.html").read_text()
    assert Path("in_2x_preview.png").exists()
    Path("in_2x.mp4").unlink()
    capsys.readouterr()
    assert interpolate("in.mp4", "--factor", 2, "--report") == 2
    assert "in_2x_report.html exists. Use --overwrite" in capsys.readouterr().err
    assert not Path("in_2x.mp4").exists()


def test_a_comparison_with_a_folder_of_images_is_in_step(interpolate, capsys):
    write_folder(Path("in"), 5)
    arguments = ("in", "--output", "out", "--factor", 2, "--input-rate", 10)
    assert interpolate(*arguments, "--verify", "--compare") == 0
    assert times_of("out_compare.mp4") == [Fraction(n, 20) for n in range(9)]
    sides = [np.split(frame.pixels, 2, axis=1) for frame in VideoReader(Path("out_compare.mp4"))]
    # The third original is beside itself; two frames of the clip differ by 35 levels or more.
    assert np.abs(np.subtract(*sides[4], dtype=int)).mean() < 8
    flicker_at = re.search(r"at (\S+) s\n", capsys.readouterr().out)
    assert flicker_at is not None
    assert float(flicker_at[1]) in (0.05, 0.15, 0.25, 0.35)


def test_a_comparison_with_a_folder_of_images_has_the_times_of_the_clip(interpolate):
    times = [Fraction(each, 24000) for each in (0, 1000, 2000, 10000, 30000)]
    write_clip(Path("in.mkv"), 5, times=times)
    assert interpolate("in.mkv", "out/", "--factor", 2, "--compare") == 0
    between = [(a + b) / 2 for a, b in itertools.pairwise(times)]
    found = times_of("out_compare.mp4")
    # Matroska's times, from which those between are made, are rounded to 1 ms.
    assert [float(each) for each in found] == pytest.approx(
        sorted(map(float, times + between)), abs=0.0011
    )


@pytest.mark.parametrize(("source", "output"), [("in", "exr"), ("exr", "out.mkv")])
def test_linear_light_is_compared_as_it_is_shown(interpolate, capsys, source, output):
    write_folder(Path("in"), 3)
    assert interpolate("in", "--output", "exr", "--factor", 2, "--images", "exr") == 0
    arguments = (source, "--output", output, "--factor", 2, "--images", "exr", "--overwrite")
    assert interpolate(*arguments, "--codec", "ffv1", "--verify", "--preview") == 0
    found = re.search(r"by at most (\S+) levels", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) < 0.5
    name = Path(output).stem
    first = next(iter(VideoReader(Path(f"{name}_preview.mp4")))).pixels.astype(float)
    original, made = np.split(first / np.iinfo(np.uint16).max * 255, 2, axis=1)
    (expected,) = pictures(1)
    for side in (original, made):
        assert np.abs(side - expected).mean() < 6
    sheet = imageio.imread(f"{name}_preview.png")[18:258, :316]
    np.testing.assert_allclose(sheet.mean(axis=(0, 1)), expected.mean(axis=(0, 1)), atol=3)


def test_a_report_of_linear_light_scores_what_is_shown(interpolate, monkeypatch):
    def missing():
        raise ModuleNotFoundError("LPIPS needs the extra metrics")

    monkeypatch.setattr("flavr_jax.commands.inspection.perceptual_metric", missing)
    write_folder(Path("in"), 7)
    assert interpolate("in", "exr", "--factor", 2, "--images", "exr") == 0
    for number in range(2, 14, 2):
        Path(f"exr/frame_{number:06}.exr").unlink()  # the originals are left
    averaging = []  # its PSNR does not depend on the network
    for source in ("in", "exr"):
        assert interpolate(source, f"{source}.mkv", "--factor", 2, "--report") == 0
        (value,) = re.findall(r"<td>([^<]+)</td></tr>", Path(f"{source}_report.html").read_text())
        averaging.append(float(value.split()[0]))
    assert averaging[1] == pytest.approx(averaging[0], abs=0.1)


def test_a_folder_keeps_the_dots_of_its_name(interpolate):
    write_folder(Path("shot.1"), 2)
    assert interpolate("shot.1", "--factor", 2, "--preview") == 0
    assert len(list(Path("shot.1_2x").iterdir())) == 3
    assert Path("shot.1_2x_preview.png").exists()


def test_a_comparison_for_browsers_is_h264_with_8_bits(interpolate):
    write_clip(Path("in.mp4"), 2, size=(32, 23))
    encoding = ("--codec", "ffv1", "--pixel-format", "yuv444p10le")
    assert interpolate("in.mp4", "out.mkv", "--factor", 2, *encoding, "--compare", "--browser") == 0
    with av.open("out_compare.mp4") as made:
        (stream,) = made.streams
        assert (stream.codec.canonical_name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (64, 24)


def test_a_clip_that_is_too_short_for_a_report_is_made_all_the_same(interpolate, capsys):
    write_clip(Path("in.mp4"), 3)
    assert interpolate("in.mp4", "--factor", 2, "--report") == 0
    assert "warning: There is no report" in capsys.readouterr().err
    assert len(times_of("in_2x.mp4")) == 5
