# SPDX-License-Identifier: Apache-2.0
"""The main job from the command line: a real, if tiny and untrained, network on real files."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3 as imageio
import jax
import numpy as np
import pytest

import flavr_jax
from flavr_jax import checkpoint, cli
from flavr_jax.commands import interpolate as script
from flavr_jax.config import ModelConfig
from flavr_jax.inference import stream
from flavr_jax.models import flavr
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.files.writer import VideoWriter
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.pixels.colour import Colour, from_rgb
from flavr_jax.video.stills.images import ImageFolder

pytestmark = pytest.mark.usefixtures("definition")

SCRIPT = Path(__file__).parents[2] / "scripts" / "interpolate.py"
FILM = Fraction(1001, 24000)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "tiny_8x"
    config = ModelConfig(width=4, n_outputs=7)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: random.normal(0, 0.05, leaf.shape).astype(np.float32),
        flavr.parameter_shapes(config),
    )
    checkpoint.save(path, config, params, provenance={"source": "random, for a test"})
    return path


@pytest.fixture(scope="module")
def load_once():
    """Loading, and with it compiling, happens once for each network and frame size."""
    return functools.lru_cache(flavr_jax.load)


@pytest.fixture
def interpolate(network, load_once, monkeypatch, tmp_path):
    """Run the script in this process and in an empty directory; gives its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, checkpoint=network):
        monkeypatch.setattr(flavr_jax, "load", load_once)
        arguments = [*map(str, arguments), "--checkpoint", str(checkpoint)]
        monkeypatch.setattr(sys, "argv", ["interpolate.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.run(script.main, script.Options)
        return stop.value.code

    return run


def pictures(count, size=(32, 24)):
    x, y = np.arange(size[0])[None, :, None], np.arange(size[1])[:, None, None]
    for index in range(count):
        wave = np.sin((x - 3 * index) / 5 + y / 7 + np.array([0.0, 2.0, 4.0]))
        yield (127 + 90 * wave).astype(np.uint8)


def write_clip(path, count=3, *, size=(32, 24), aspect=Fraction(1), others=None, times=None):
    info = ClipInfo(*size, 1 / FILM, Fraction(1, 24000), None, aspect, Colour(1, 1, 1, 1))
    times = times or [index * FILM for index in range(count)]
    with VideoWriter(path, info, encoding=Encoding(crf=1), others=others) as sink:
        for pixels, pts in zip(pictures(count, size), times, strict=True):
            sink.write(TimedFrame(pixels, pts, FILM))
    return path


def write_folder(path, count=3, size=(32, 24)):
    path.mkdir()
    for index, pixels in enumerate(pictures(count, size)):
        imageio.imwrite(path / f"{index}.png", pixels)
    return path


def write_tone(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = (3000 * np.sin(np.arange(1000) / 3)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    return path


def times_of(path):
    with av.open(str(path)) as container:
        return [
            frame.pts * Fraction(frame.time_base.numerator, frame.time_base.denominator)
            for frame in container.decode(video=0)
        ]


def sound_of(path):
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        return b"".join(bytes(packet) for packet in container.demux(audio=0))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_every_length_gives_all_frames_at_exact_times(interpolate, frames):
    write_clip(Path("in.mp4"), frames)
    assert interpolate("in.mp4", "--factor", 8) == 0
    assert times_of("in_8x.mp4") == [index * FILM / 8 for index in range((frames - 1) * 8 + 1)]


@pytest.mark.parametrize("factor", [2, 8, 16])
def test_powers_of_two_are_factors(interpolate, factor):
    write_clip(Path("in.mp4"), 2)
    assert interpolate("in.mp4", "--factor", factor, "--output", "out.mp4") == 0
    assert len(times_of("out.mp4")) == factor + 1


def test_the_output_may_follow_the_input_without_a_flag(interpolate):
    write_clip(Path("in.mp4"), 2)
    assert interpolate("in.mp4", "out.mkv", "--factor", 2) == 0
    assert len(times_of("out.mkv")) == 3
    assert {path.name for path in Path().iterdir()} == {"in.mp4", "out.mkv"}


def start(network, folder, *arguments, through=()):
    """The program in a process of its own."""
    return subprocess.Popen(
        [*through, sys.executable, SCRIPT, *map(str, arguments), "--checkpoint", network],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(folder, pattern, process):
    deadline = time.monotonic() + 120
    while not any(folder.glob(pattern)) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


RESUMED = ("in.mp4", "out.mp4", "--factor", 8, "--segment", 50)


def test_a_run_that_was_killed_goes_on_and_gives_the_same_file(network, tmp_path):
    write_clip(tmp_path / "in.mp4", 60, others=write_tone(tmp_path / "tone.wav"))
    process = start(network, tmp_path, *RESUMED)
    wait_for(tmp_path, "out.partial-*/000001.segment", process)
    process.kill()
    process.communicate(timeout=60)
    kept = 50 * len(list(tmp_path.glob("out.partial-*/*.segment")))
    output, errors = start(network, tmp_path, *RESUMED).communicate(timeout=120)
    assert f"going on after frame {kept}, which an earlier run finished" in output, errors
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "out.mp4", "tone.wav"}
    resumed = (tmp_path / "out.mp4").read_bytes()
    again = start(network, tmp_path, *RESUMED, "--overwrite")
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "going on" not in output
    assert (tmp_path / "out.mp4").read_bytes() == resumed


def test_a_run_that_was_interrupted_tells_what_is_kept(network, tmp_path):
    write_clip(tmp_path / "in.mp4", 200)
    process = start(network, tmp_path, *RESUMED)
    wait_for(tmp_path, "out.partial-*/000001.segment", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    (journal,) = tmp_path.glob("out.partial-*")
    kept = 50 * len(list(journal.glob("*.segment")))
    rest = f"{kept} frames are finished and kept; the same command goes on there."
    assert errors.splitlines()[-1] == f"interrupted. {rest}"


def test_a_full_disk_is_one_line_and_the_work_is_kept(network, tmp_path):
    write_clip(tmp_path / "in.mp4", 60, size=(96, 64))
    limited = ("bash", "-c", 'ulimit -f 20; trap "" XFSZ; exec "$@"', "-")  # 20 KiB a file
    process = start(network, tmp_path, *RESUMED, "--crf", 10, through=limited)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    lines = [line for line in errors.splitlines() if "error" in line.lower()]
    assert len(lines) == 1
    full, rest = lines[0].split(": File too large. ")
    assert full.startswith(f"error: {tmp_path}/out.partial-")
    assert re.fullmatch("[1-9]\\d*0 frames are finished and kept; the same command .*", rest)
    (journal,) = (path for path in tmp_path.glob("out.partial-*"))
    assert journal.is_dir()


def overflowing(path, network):
    """A copy of a network whose weights fit fp16, and whose sums do not."""
    stored = checkpoint.load(network)
    large = jax.tree.map(lambda leaf: leaf * np.float32(1e4), stored.params)
    checkpoint.save(path, stored.config, large)
    return path


@pytest.mark.parametrize("output", ["out.mp4", "out/"])
def test_a_network_that_overflows_is_told_and_leaves_no_output(
    interpolate, network, output, capsys
):
    write_clip(Path("in.mp4"), 3)
    wrong = overflowing(Path("wrong"), network)
    arguments = ("in.mp4", output, "--factor", 8, "--precision", "fp16")
    assert interpolate(*arguments, checkpoint=wrong) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: frame 2 of the output, at 0.005 s, is NaN or infinite: ")
    assert "Use `precision` bf16 or fp32." in line
    assert {path.name for path in Path().iterdir()} == {"in.mp4", "wrong"}


def test_a_checkpoint_with_nan_is_refused_before_anything_is_written(
    interpolate, network, tmp_path, capsys
):
    write_clip(Path("in.mp4"), 3)
    stored = checkpoint.load(network)
    stored.params["out"]["kernel"][0, 0, 0, 0] = np.nan
    checkpoint.save(tmp_path / "nan", stored.config, stored.params)
    assert interpolate("in.mp4", checkpoint=tmp_path / "nan") == 2
    assert "nan holds NaN or infinity in 1 of " in capsys.readouterr().err
    assert {path.name for path in Path().iterdir()} == {"in.mp4", "nan"}


def test_a_variable_frame_rate_stays_variable(interpolate):
    times = [Fraction(0), FILM, FILM * 3, FILM * 4]
    write_clip(Path("in.mp4"), 4, times=times)
    assert interpolate("in.mp4", "--factor", 8) == 0
    assert times_of("in_8x.mp4")[::8] == times


def test_slow_motion_keeps_the_rate_and_drops_the_audio(interpolate):
    write_clip(Path("in.mov"), 3, others=write_tone(Path("tone.wav")))
    assert interpolate("in.mov", "--factor", 2, "--slow-motion", "--output", "out.mov") == 0
    assert times_of("out.mov") == [index * FILM for index in range(5)]
    assert sound_of("out.mov") is None


@pytest.mark.parametrize("start", [Fraction(0), Fraction(1, 3)])
def test_any_frame_rate_keeps_start_duration_and_audio(interpolate, start):
    times = [start + n * FILM for n in range(5)]
    source = write_clip(Path("in.mov"), 5, times=times, others=write_tone(Path("tone.wav")))
    assert interpolate(source, "--fps", "60000/1001", "--output", "out.mov") == 0
    made = times_of("out.mov")
    assert made == [start + Fraction(1001 * n, 60000) for n in range(len(made))]
    with av.open("in.mov") as before, av.open("out.mov") as after:
        assert abs(after.duration - before.duration) <= 1  # microseconds
    assert sound_of("out.mov") == sound_of("in.mov") != b""


def test_slow_motion_at_another_rate(interpolate):
    write_clip(Path("in.mp4"), 3)
    assert interpolate("in.mp4", "--fps", "30", "--slow-motion", "--factor", "3") == 0
    made = times_of("in_3x_30fps.mp4")
    assert made == [Fraction(n, 30) for n in range(round(30 * 3 * 3 * FILM))]


def test_a_run_tells_how_far_off_its_times_were(interpolate, capsys):
    write_clip(Path("in.mp4"), 3)
    interpolate("in.mp4", "--fps", "60")
    assert "at most 2.1 ms off their times in in_60fps.mp4" in capsys.readouterr().out
    interpolate("in.mp4", "--fps", "60", "--exact-times", "--overwrite")
    assert "at most 0.28 ms off their times in in_60fps.mp4" in capsys.readouterr().out


def test_audio_is_copied_when_the_duration_is_kept(interpolate):
    write_clip(Path("in.mov"), 3, others=write_tone(Path("tone.wav")))
    assert interpolate("in.mov", "--factor", 2, "--output", "out.mov") == 0
    assert sound_of("out.mov") == sound_of("in.mov") != b""


def test_size_and_pixel_aspect_are_kept(interpolate):
    write_clip(Path("in.mp4"), 2, size=(35, 21), aspect=Fraction(4, 3))
    assert interpolate("in.mp4", "--factor", 8) == 0
    info = VideoReader(Path("in_8x.mp4")).info
    assert (info.width, info.height, info.pixel_aspect) == (35, 21, Fraction(4, 3))


def test_a_folder_becomes_a_folder_with_its_images_unchanged(interpolate):
    write_folder(Path("in"), 3)
    assert interpolate("in", "--factor", 8) == 0
    written = [frame.pixels for frame in ImageFolder(Path("in_8x"))]
    assert len(written) == 17
    np.testing.assert_array_equal(written[::8], list(pictures(3)))


def test_a_folder_becomes_a_video_at_the_rate_given(interpolate):
    write_folder(Path("in"), 2)
    rate = ("--input-rate", "24000/1001")
    assert interpolate("in", "--factor", 8, "--output", "out.mp4", *rate) == 0
    assert times_of("out.mp4") == [index * FILM / 8 for index in range(9)]


def test_a_lossless_video_holds_the_original_frames(interpolate):
    write_clip(Path("in.mp4"), 3)
    assert interpolate("in.mp4", "--factor", 2, "--codec", "ffv1", "--output", "out.mp4") == 0
    originals = [frame.pixels for frame in VideoReader(Path("in.mp4"))]
    written = [frame.pixels for frame in VideoReader(Path("out.mp4"))]
    np.testing.assert_array_equal(written[::2], originals)


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


@pytest.mark.parametrize("suffix", [".mov", ".mkv", ".webm"])
def test_the_output_is_a_file_of_the_kind_of_the_input(interpolate, suffix):
    write_clip(Path("in.mp4"), 2).rename("in" + suffix)
    assert interpolate("in" + suffix, "--factor", 2) == 0
    assert len(times_of("in_2x" + suffix)) == 3


def test_a_pipe_carries_nothing_but_pictures(network, tmp_path):
    write_clip(tmp_path / "in.y4m", 3)
    done = subprocess.run(
        [sys.executable, SCRIPT, "-", "--factor", "2", "--checkpoint", network],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=(tmp_path / "in.y4m").open("rb"),
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "out.y4m").write_bytes(done.stdout)
    originals = [frame.original.to_ndarray() for frame in VideoReader(tmp_path / "in.y4m")]
    written = [frame.original.to_ndarray() for frame in VideoReader(tmp_path / "out.y4m")]
    assert len(written) == 5
    np.testing.assert_array_equal(written[::2], originals)
    assert done.stdout.startswith(b"YUV4MPEG2 W32 H24")
    assert b"3 frames" in done.stderr


def test_a_truncated_video_is_finished_with_a_warning(interpolate, capsys):
    path = write_clip(Path("in.mp4"), 40)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    assert interpolate("in.mp4", "--factor", 2) == 1
    decoded = len(list(VideoReader(Path("in.mp4"))))
    assert 1 < decoded < 40
    assert len(times_of("in_2x.mp4")) == 2 * decoded - 1
    assert "warning: in.mp4 is damaged" in capsys.readouterr().err


def no_input():
    return ["nowhere.mp4"], "nowhere.mp4"


def junk():
    Path("junk.mp4").write_bytes(bytes(range(256)) * 9)
    return ["junk.mp4"], "junk.mp4 is not a video"


def empty_folder():
    Path("empty").mkdir()
    return ["empty"], "empty holds no images"


def mixed_sizes():
    write_folder(Path("in"))
    imageio.imwrite("in/9.png", np.zeros((4, 4, 3), np.uint8))
    return ["in"], "in/9.png is 4×4 pixels, but 0.png is 32×24"


def impossible_factor():
    write_clip(Path("in.mp4"))
    return ["in.mp4", "--factor", "3"], "--fps 72000/1001 instead, 3 times this clip's frame rate"


def impossible_factor_of_slow_motion():
    write_clip(Path("in.mp4"))
    return ["in.mp4", "--factor", "3", "--slow-motion"], "Or add --fps 24000/1001"


def two_outputs():
    write_clip(Path("in.mp4"))
    return ["in.mp4", "a.mp4", "--output", "b.mp4"], "two outputs are named"


def two_rates():
    write_clip(Path("in.mp4"))
    return ["in.mp4", "--factor", "2", "--fps", "60"], "both set the frame rate"


def existing_output():
    write_clip(Path("in.mp4"))
    write_clip(Path("in_8x.mp4"))
    return ["in.mp4"], "in_8x.mp4 exists. Use --overwrite"


def unwritable_output():
    write_clip(Path("in.mp4"))
    return ["in.mp4", "--output", "in.mp4/out.mp4"], "in.mp4/out.mp4 cannot be written"


def unknown_container():
    write_clip(Path("in.mp4"))
    return ["in.mp4", "--output", "out.wmv"], ".mp4, .mov, .mkv"


def not_calibrated():
    write_clip(Path("in.mp4"))
    return ["in.mp4", "--precision", "fp8"], "flavr quantize CHECKPOINT --output DIR"


@pytest.mark.parametrize(
    "mistake",
    [
        no_input,
        junk,
        empty_folder,
        mixed_sizes,
        impossible_factor,
        impossible_factor_of_slow_motion,
        two_outputs,
        two_rates,
        existing_output,
        unwritable_output,
        unknown_container,
        not_calibrated,
    ],
)
def test_a_mistake_is_one_line_and_costs_nothing(interpolate, capsys, mistake):
    arguments, message = mistake()
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert interpolate(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_leaves_no_file(network, tmp_path, sent, code):
    write_clip(tmp_path / "in.mp4", 600)
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "in.mp4", "--factor", "8", "--checkpoint", network],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("in_8x.partial-*.mp4")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert errors.splitlines()[-1] == "interrupted."
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.mp4"]


def test_a_range_of_a_clip_begins_at_zero(interpolate):
    write_clip(Path("in.mp4"), 8)
    options = ("--factor", 2, "--range", "0.1-0.25", "--codec", "ffv1")
    assert interpolate("in.mp4", "out.mp4", *options) == 0
    assert times_of("out.mp4") == [index * FILM / 2 for index in range(5)]
    originals = [frame.pixels for frame in VideoReader(Path("in.mp4"))][3:6]
    written = [frame.pixels for frame in VideoReader(Path("out.mp4"))]
    np.testing.assert_array_equal(written[::2], originals)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.mp4", "b.mp4"), "Use --overwrite to replace it by the output, or --output-folder ."),
        (("a.mp4", "b.mp4", "c/a.mp4"), "a.mp4 and c/a.mp4 would both be written to a_8x.mp4"),
        (("a.mp4", "b.mp4", "d.mp4", "--output", "e.mp4"), "there are 3 inputs"),
        (("a.mp4", "--output", "b.mp4", "--output-folder", "."), "are both set"),
        (("a.mp4", "--quiet", "--json"), "are both set"),
        (("a.mp4", "--range", "2-1"), "write START-END"),
    ],
)
def test_names_that_contradict_each_other_are_explained(interpolate, capsys, arguments, message):
    for name in ("a.mp4", "b.mp4"):
        write_clip(Path(name), 2)
    assert interpolate(*arguments) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert {path.name for path in Path().iterdir()} == {"a.mp4", "b.mp4"}


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


def test_a_null_output_takes_all_frames_and_leaves_no_file(interpolate, capsys):
    write_clip(Path("in.mp4"), 3)
    assert interpolate("in.mp4", "null:", "--factor", 4) == 0
    assert "3 frames → 9 frames in null:" in capsys.readouterr().out
    assert [path.name for path in Path().iterdir()] == ["in.mp4"]
    assert interpolate("in.mp4", "null:", "--factor", 4, "--verify") == 2
    assert "use a file" in capsys.readouterr().err


def test_the_pipeline_changes_no_value_of_the_output(interpolate, network, load_once):
    write_clip(Path("in.mkv"), 5)
    assert interpolate("in.mkv", "--factor", 8, "--codec", "ffv1") == 0
    # Frame by frame, with conversion on the host, as a library user would do it.
    source = VideoReader(Path("in.mkv"), headroom=True)
    made = stream.interpolate(source, load_once(network, precision="auto"), stream.Options(8))
    for expected, written in zip(made, VideoReader(Path("in_8x.mkv")), strict=True):
        if expected.original is None:
            frame = from_rgb(expected.pixels, "yuv420p", source.info.colour)
        else:
            frame = expected.original
        np.testing.assert_array_equal(written.original.to_ndarray(), frame.to_ndarray())


def test_a_decoder_that_stalls_is_one_line(interpolate, monkeypatch, capsys):
    write_clip(Path("in.mp4"), 20)
    waiting = threading.Event()
    decode = VideoReader._decode

    def stall(reader, *arguments):
        for number, frame in enumerate(decode(reader, *arguments)):
            if number == 16:
                waiting.wait(2.5)  # longer than the limit and the time between two looks at it
            yield frame

    monkeypatch.setattr(VideoReader, "_decode", stall)
    monkeypatch.setattr("flavr_jax.commands.interpolation.STALLED", 0.5)
    assert interpolate("in.mp4", "--factor", 8, "--segment", 8) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error" in line)
    assert line.startswith("error: The stage decode has worked on item 17 for ")
    assert re.search(r" [1-9]\d* frames are finished and kept; the same command goes on", line)


def test_a_dry_run_prints_the_plan_and_writes_nothing(interpolate, tmp_path, capsys):
    write_folder(tmp_path / "clip")
    assert interpolate("clip", "out.mp4", "--factor", 4, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "32×24: 1 interval at a time, whole frames" in printed
    assert re.search(r"3 frames in \S+ s → 9 frames .* computes 2 windows in about", printed)
    assert not (tmp_path / "out.mp4").exists()


def test_stripes_that_keep_a_limit_of_memory_make_the_same_video(
    interpolate, tmp_path, capsys, network
):
    write_folder(tmp_path / "clip", count=2, size=(16, 1024))
    assert interpolate("clip", "whole/", "--factor", 2) == 0
    # The limit includes the network's parameters.
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(checkpoint.load(network).params))
    limit = f"{parameters / 1e6 + 4:.3f}MB"
    assert interpolate("clip", "parts/", "--factor", 2, "--memory-limit", limit) == 0
    assert "stripes in" in capsys.readouterr().out
    for name in sorted(path.name for path in (tmp_path / "whole").iterdir()):
        whole, parts = (imageio.imread(tmp_path / folder / name) for folder in ("whole", "parts"))
        # Gates are estimated here; the network is random, and its output small.
        assert np.abs(whole.astype(int) - parts).max() <= 2
    assert interpolate("clip", "none/", "--memory-limit", "1MB") == 2
    assert "use a higher limit" in capsys.readouterr().err


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
