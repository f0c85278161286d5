# SPDX-License-Identifier: Apache-2.0
"""Mistakes and damage: one line, and no output or a marked one."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import imageio.v3 as imageio
import jax
import numpy as np
import pytest

from flavr_jax import checkpoint
from flavr_jax.video.files.reader import VideoReader
from tests.commands.clips import times_of, write_clip, write_folder

pytestmark = pytest.mark.usefixtures("definition")


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.mp4", "b.mp4"), "Use --overwrite to replace it by the output, or --output-folder ."),
        (("a.mp4", "b.mp4", "c/a.mp4"), "a.mp4 and c/a.mp4 would both be written to a_8x.mp4"),
        (("a.mp4", "b.mp4", "d.mp4", "--output", "e.mp4"), "there are 3 inputs"),
        (("a.mp4", "--output", "b.mp4", "--output-folder", "."), "are both set"),
        (("a.mp4", "--quiet", "--json"), "are both set"),
        (("a.mp4", "--range", "2-1"), "write START-END"),
        (("",), "is empty"),
        (("a.mp4", ""), "is empty"),
        (("a.mp4", "--output", ""), "is empty"),
    ],
)
def test_names_that_contradict_each_other_are_explained(interpolate, capsys, arguments, message):
    for name in ("a.mp4", "b.mp4"):
        write_clip(Path(name), 2)
    assert interpolate(*arguments) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert {path.name for path in Path().iterdir()} == {"a.mp4", "b.mp4"}


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
