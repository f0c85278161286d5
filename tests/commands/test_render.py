# SPDX-License-Identifier: Apache-2.0
"""The script that renders a scene, at the size of a stamp; the network is tiny and untrained."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from flavr_jax import cli
from flavr_jax.commands import render as script
from flavr_jax.commands import render_report
from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.stills.images import ImageFolder

SCENE = """
bounces = 1
[environment]
horizon = [0.2, 0.4, 0.6]
[materials.dots]
pattern = "dots"
[[objects]]
material = "dots"
keys = [
    { time = 0.0, position = [-1.0, 0.0, 0.0] },
    { time = 1.0, position = [1.0, 0.0, 0.0], rotation = [0.0, 90.0, 0.0] },
]
"""


@pytest.fixture
def render(monkeypatch, tmp_path):
    def run(*arguments):
        tiny = ["--size", "16", "24", "--samples", "2"]
        scene = tmp_path / "scene.toml"
        scene.write_text(SCENE)
        monkeypatch.setattr(sys, "argv", ["render.py", str(scene), *tiny, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run(script.main, script.Options)
        return stop.value.code

    return run


def test_a_video_has_the_frames_and_the_rate_that_were_asked_for(render, tmp_path):
    path = tmp_path / "clip.mp4"
    assert not render("--output", path, "--frames", 3, "--fps", 10)
    source = VideoReader(path)
    assert [frame.pts for frame in source] == [Fraction(index, 10) for index in range(3)]
    assert (source.info.width, source.info.height) == (24, 16)


def test_frames_in_between_are_added_and_the_others_stay(render, tmp_path):
    assert not render("--output", tmp_path / "few", "--frames", 2)
    assert not render("--output", tmp_path / "many", "--frames", 2, "--factor", 4)
    few = [frame.pixels for frame in ImageFolder(tmp_path / "few")]
    many = [frame.pixels for frame in ImageFolder(tmp_path / "many")]
    assert len(many) == 5
    np.testing.assert_array_equal(many[::4], few)
    assert all((one != other).any() for one, other in itertools.pairwise(many))


def test_no_frames_is_a_mistake_in_one_line(render, tmp_path, capsys):
    assert render("--output", tmp_path / "none", "--frames", 0) == 2
    assert "`frames` is 0" in capsys.readouterr().err


@pytest.fixture(scope="module")
def network(tiny_2x):
    return tiny_2x


@pytest.fixture
def drawn(monkeypatch):
    """The numbers of the frames that were rendered; the power fails at frame ``fails_at``."""

    class Drawn(list):
        fails_at = None

    numbers, draw = Drawn(), script.Painter.draw

    def recorded(painter, index):
        if index == numbers.fails_at:
            raise OSError("the power failed")
        numbers.append(index)
        return draw(painter, index)

    monkeypatch.setattr(script.Painter, "draw", recorded)
    return numbers


def pictures(path):
    return [frame.pixels for frame in ImageFolder(path)]


def test_an_interrupted_run_goes_on_and_gives_the_same_frames(render, drawn, tmp_path, capsys):
    assert not render("--output", tmp_path / "whole", "--frames", 4)
    drawn.clear()
    drawn.fails_at = 2
    assert render("--output", tmp_path / "clip", "--frames", 4) == 2
    assert "2 frames are finished and kept" in capsys.readouterr().err
    assert not (tmp_path / "clip").exists()
    drawn.fails_at = None
    assert not render("--output", tmp_path / "clip", "--frames", 4)
    assert drawn == [0, 1, 2, 3]
    np.testing.assert_array_equal(pictures(tmp_path / "clip"), pictures(tmp_path / "whole"))


@pytest.mark.parametrize("change", ["settings", "scene"])
def test_finished_frames_of_other_settings_or_another_scene_are_not_used(
    render, drawn, tmp_path, monkeypatch, change
):
    drawn.fails_at = 1
    assert render("--output", tmp_path / "clip", "--frames", 2) == 2
    drawn.clear()
    drawn.fails_at = None
    if change == "scene":
        monkeypatch.setattr(sys.modules[__name__], "SCENE", SCENE.replace("0.6]", "0.7]"))
    more = ["--seed", 1] if change == "settings" else []
    assert not render("--output", tmp_path / "clip", "--frames", 2, *more)
    assert drawn == [0, 1]


def test_interpolated_frames_lie_between_rendered_ones(render, drawn, network, tmp_path, capsys):
    size = ["--size", 32, 48, "--frames", 5]
    assert not render("--output", tmp_path / "all", *size)
    drawn.clear()
    some = ["--output", tmp_path / "some", *size, "--every", 2, "--interpolate", network]
    drawn.fails_at = 4
    assert render(*some) == 2
    drawn.fails_at = None
    assert not render(*some)
    assert set(drawn) == {0, 2, 4}
    whole, mixed = pictures(tmp_path / "all"), pictures(tmp_path / "some")
    assert len(mixed) == 5
    np.testing.assert_array_equal(mixed[::2], whole[::2])
    assert (mixed[1] != whole[1]).any()
    assert "saves" in capsys.readouterr().out


def test_a_report_compares_both_with_the_truth(render, network, tmp_path, capsys):
    some = ["--output", tmp_path / "clip.mp4", "--size", 32, 48, "--frames", 3, "--every", 2]
    assert not render(*some, "--interpolate", network, "--truth", 8)
    found = json.loads((tmp_path / "clip_report.json").read_text())
    assert [row["frame"] for row in found["scores"]] == [1]
    # An untrained network is worse than the noise of two samples.
    assert found["means"]["interpolated"]["psnr"] < found["means"]["rendered"]["psnr"] < 99
    assert found["samples_of_equal_quality"] < 2
    # The network is waited for before the next frame is rendered; else its time would not show.
    assert found["seconds_to_interpolate_a_frame"] > 1e-3
    assert (tmp_path / "clip_report.png").stat().st_size > 1000
    assert render(*some, "--interpolate", network, "--truth", 8) == 2
    assert "clip_report.json exists" in capsys.readouterr().err


def test_numbers_of_a_report_follow_from_times_and_errors():
    # 9 frames; 3 are rendered in 8 s each, and the 6 others take 12 s.
    study = render_report.Study(every=4, samples=32, truth=256)
    study.rendered = [100.0, 8.0, 8.0]
    study.seconds = [5.0, 0.0, 0.0, 0.0, 6.0, 0.0, 0.0, 0.0, 1.0]
    scores = {"interpolated": {"psnr": 30.0}, "rendered": {"psnr": 27.0}}
    study.rows = [{"frame": 1, **scores}]
    found = study.result(9, "a test")
    assert found["seconds_to_render_a_frame"] == 8.0
    assert found["seconds_to_interpolate_a_frame"] == 2.0
    assert found["time_saved"] == pytest.approx(1 - (3 * 8 + 6 * 2) / (9 * 8))
    assert found["samples_of_equal_time"] == 8.0
    # 3 dB less error take twice the samples.
    assert found["samples_of_equal_quality"] == pytest.approx(64, rel=0.01)
    assert "interpolation pays" in render_report.text(found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--every", 2], "without --interpolate"),
        (["--interpolate"], "`every` is 1"),
        (["--every", 4, "--interpolate", "--frames", 6], "more than a multiple of `every`, 4"),
        (["--truth", 8], "`truth` is 8"),
        (["--devices", 99], "`devices` is 99"),
    ],
)
def test_options_that_do_not_fit_are_mistakes_in_one_line(
    render, tmp_path, capsys, arguments, words
):
    assert render("--output", tmp_path / "none", *arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_several_devices_give_the_same_image(tmp_path):
    (tmp_path / "scene.toml").write_text(SCENE)
    code = """
import jax, numpy as np
from flavr_jax import render
scene = render.load("scene.toml")
size = dict(height=15, width=23, samples=2)
images = [
    np.asarray(render.Renderer(scene, tuple(jax.devices()[:count])).render(0.3, **size).light)
    for count in (1, 3)
]
np.testing.assert_allclose(*images, rtol=1e-5, atol=1e-6)
assert images[0].std() > 0.01
"""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=3"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
