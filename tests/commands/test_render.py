# SPDX-License-Identifier: Apache-2.0
"""The script that renders the bundled scene, at the size of a stamp."""

from __future__ import annotations

import itertools
import sys
from fractions import Fraction

import numpy as np
import pytest

from flavr_jax import cli
from flavr_jax.commands import render as script
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
        monkeypatch.setattr(sys, "argv", ["render.py", str(scene), *map(str, arguments), *tiny])
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
