# SPDX-License-Identifier: Apache-2.0
"""The commands that magnify motion and score it, with an untrained network."""

import sys
from fractions import Fraction
from pathlib import Path

import av
import jax
import numpy as np
import pytest

from flavr_jax import checkpoint, cli
from flavr_jax.commands import evaluate_magnification, magnify
from flavr_jax.config import ModelConfig
from flavr_jax.inference import magnify as inference
from flavr_jax.models import magnifier
from flavr_jax.models.magnifier import MagnifierConfig
from flavr_jax.video.files.reader import VideoReader, open_source
from flavr_jax.video.frames import TimedFrame

pytestmark = pytest.mark.usefixtures("definition")

CONFIG = MagnifierConfig(largest_factor=20.0, model=ModelConfig(width=1))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("magnifier") / "checkpoint"
    checkpoint.save(path, CONFIG, magnifier.init(CONFIG, jax.random.key(0)))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Four frames of grey whose brightness changes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("frames") / "clip"
    folder.mkdir()
    for number, level in enumerate((100, 104, 100, 96)):
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(folder / f"{number}.png")
    return folder


def run(monkeypatch, command, *arguments):
    monkeypatch.setattr(sys, "argv", ["flavr", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.run(command.main, command.Options)
    return stop.value.code or 0


def test_a_video_has_the_frames_of_the_clip(monkeypatch, network, clip, tmp_path):
    output = tmp_path / "out.mp4"
    arguments = (clip, "--output", output, "--checkpoint", network, "--factor", 3)
    assert run(monkeypatch, magnify, *arguments) == 0
    written = list(VideoReader(output))
    assert [frame.pts for frame in written] == [frame.pts for frame in open_source(clip)]
    assert run(monkeypatch, magnify, *arguments) == 2  # it exists


def test_a_method_without_training_amplifies_the_change(monkeypatch, clip, tmp_path):
    folder = tmp_path / "out"
    arguments = (clip, "--output", f"{folder}/", "--method", "eulerian", "--factor", 3)
    assert run(monkeypatch, magnify, *arguments) == 0
    levels = [int(frame.pixels[8, 8, 0]) for frame in open_source(folder)]
    assert levels == [100, 112, 100, 88]


def test_a_factor_beyond_the_training_is_told(monkeypatch, network, clip, tmp_path, capsys):
    arguments = ("--output", tmp_path / "far.mp4", "--checkpoint", network, "--factor", 25)
    assert run(monkeypatch, magnify, clip, *arguments) == 0
    assert "factors up to 20; 25 may look wrong" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--checkpoint", "x"), "x"),
        (("--factor", "0.5", "--method", "eulerian"), "`factor` is 0.5"),
        (("--band", "1", "2", "--checkpoint", "x"), "the network has none"),
        (("--method", "phase", "--checkpoint", "x"), "leave one out"),
        (("--method", "phase", "--band", "3", "2"), "lowest frequency"),
        (("--method", "eulerian", "--band", "13", "20"), "the multiples of 6 up to 12 Hz"),
    ],
)
def test_mistakes_are_explained(monkeypatch, clip, capsys, arguments, message):
    assert run(monkeypatch, magnify, clip, *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.once
def test_the_table_has_a_row_for_each_factor_and_noise(monkeypatch, network, capsys):
    tiny = ("--clips", 1, "--size", 16, "--factors", 5, 10, "--noise", 0, 2)
    assert run(monkeypatch, evaluate_magnification, network, *tiny, "--baselines", "eulerian") == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header == "| factor | noise | unchanged | eulerian | network |"
    assert [row.split("|")[1].strip() for row in rows] == ["5", "5", "10", "10"]
    assert all(5 < float(row.split("|")[-2]) < 60 for row in rows)
    assert rule.count("---") == 5


def test_an_unknown_baseline_is_named(monkeypatch, network, capsys):
    assert run(monkeypatch, evaluate_magnification, network, "--baselines", "optical") == 2
    assert "optical" in capsys.readouterr().err


def test_windows_of_a_clip_are_scored_as_they_are_streamed(network):
    """The score's clip at once, and the command's frames one by one, are the same."""
    loaded = inference.load(network)
    clip = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    timed = [TimedFrame(frame, Fraction(index), Fraction(1)) for index, frame in enumerate(clip)]
    streamed = [frame.pixels for frame in inference.magnified(timed, loaded, 4.0)]
    made = evaluate_magnification.by_network(loaded, (clip / 255).astype(np.float32), 4.0)
    np.testing.assert_allclose(255 * made, np.stack(streamed), atol=0.51)


@pytest.mark.parametrize(
    ("name", "output"),
    [("clip.mp4", "clip_magnified.mp4"), ("clip.MKV", "clip_magnified.mkv"), ("-", "-"),
     ("clip.avi", "clip_magnified.mp4")],
)  # fmt: skip
def test_the_output_has_a_name_by_default(name, output):
    assert magnify.default_output(Path(name)) == output


@pytest.mark.parametrize("name", ["clip", "clip.1"])
def test_a_folder_becomes_a_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    assert magnify.default_output(tmp_path / name) == f"{name}_magnified/"


def test_sound_is_copied(monkeypatch, network, tmp_path):
    """A clip with a tone keeps it."""
    path = tmp_path / "tone.mp4"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=10)
        pictures.width = pictures.height = 16
        pictures.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=8000)
        for index in range(5):
            picture = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 90, np.uint8), "rgb24")
            picture.pts = index
            container.mux(pictures.encode(picture))
        container.mux(pictures.encode())
        tone = (3000 * np.sin(np.arange(4096) / 5)).astype(np.int16)[None]
        samples = av.AudioFrame.from_ndarray(tone, "s16", "mono")
        samples.rate = 8000
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    output = tmp_path / "loud.mp4"
    assert not run(monkeypatch, magnify, path, "--output", output, "--checkpoint", network)
    with av.open(str(output)) as container:
        assert len(container.streams.audio) == 1
        assert sum(packet.size for packet in container.demux(audio=0)) > 100


def test_a_part_of_a_clip_is_magnified_alone(monkeypatch, clip, tmp_path):
    arguments = ("--method", "eulerian", "--range", "0-0.09", "--output", f"{tmp_path / 'part'}/")
    assert run(monkeypatch, magnify, clip, *arguments) == 0
    assert len(list(open_source(tmp_path / "part"))) == 3  # of 24 frames a second
