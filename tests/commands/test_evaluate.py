# SPDX-License-Identifier: Apache-2.0
import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flavr_jax
from flavr_jax.commands import evaluate as script
from flavr_jax.config import ModelConfig
from flavr_jax.inference.interpolator import Interpolator

pytestmark = pytest.mark.usefixtures("definition")


@pytest.fixture
def clips(tmp_path):
    """A fade by 4 levels a frame, which averaging predicts exactly."""
    folder = tmp_path / "clips/fade"
    folder.mkdir(parents=True)
    for number in range(11):
        Image.new("RGB", (32, 24), (4 * number,) * 3).save(folder / f"{number:02d}.png")
    return folder.parent


@pytest.fixture
def network(monkeypatch):
    """Stands for a checkpoint: it repeats the second input, which is 4 levels off."""

    class Repeating(Interpolator):
        def __init__(self, checkpoint, *, precision):
            self.config = ModelConfig()
            self.precision = precision

        def predict(self, windows):
            return windows[:, 1:2]

    monkeypatch.setattr(flavr_jax, "load", Repeating)


def test_the_table_has_the_card_the_network_and_the_baselines(clips, network, tmp_path, capsys):
    script.main(
        script.Options(
            Path("mine"),
            clips,
            dataset=("folder-2x",),
            baselines=("nearest-frame", "frame-averaging"),
            outputs=script.Outputs(
                csv=tmp_path / "scores.csv",
                json=tmp_path / "scores.json",
                worst=tmp_path / "worst",
                predictions=tmp_path / "frames",
            ),
        )
    )
    printed = capsys.readouterr().out
    for words in ("whole frames", "over sequences", "3 frames of 1 sequences", "mine (fp32)"):
        assert words in printed
    report = json.loads((tmp_path / "scores.json").read_text())["folder-2x"]["methods"]
    means = {method: of["mean"]["psnr_uint8"] for method, of in report.items()}
    expected = 20 * np.log10(255 / 4)
    assert means["mine (fp32)"] == pytest.approx(expected, abs=1e-3)
    assert means["nearest-frame"] == pytest.approx(expected, abs=1e-3)
    assert means["frame-averaging"] == float("inf")
    assert report["mine (fp32)"]["mean"]["error_absolute"] == pytest.approx(4.0, abs=1e-4)
    assert len(list(csv.reader((tmp_path / "scores.csv").open()))) == 1 + 3 * 3
    assert Image.open(tmp_path / "worst/folder-2x.png").width == 5 * 320
    frames = sorted((tmp_path / "frames/folder-2x/fade").iterdir())
    assert [np.asarray(Image.open(path))[0, 0, 0] for path in frames] == [8, 16, 24]


@pytest.mark.parametrize("boundary", [False, True])
def test_a_network_that_predicts_nan_is_an_error_and_no_score(
    clips, network, tmp_path, monkeypatch, boundary
):
    broken = flavr_jax.load("mine", precision="fp16")
    broken.predict = lambda windows: windows[:, 1:2] / 0
    monkeypatch.setattr(flavr_jax, "load", lambda checkpoint, *, precision: broken)
    outputs = script.Outputs(csv=tmp_path / "scores.csv", predictions=tmp_path / "frames")
    options = script.Options(
        Path("mine"), clips, dataset=("folder-2x",), boundary=boundary, outputs=outputs
    )
    place = "at an end of fade" if boundary else "for window 0 of fade"
    with pytest.raises(ValueError, match=f"the prediction {place} is NaN or infinite.*bf16"):
        script.main(options)
    assert {path.name for path in tmp_path.iterdir()} == {"clips"}


def test_a_set_that_cannot_be_read_ends_a_run_before_any_score(clips, network, capsys):
    options = script.Options(Path("mine"), clips, dataset=("folder-2x", "folder-8x"), baselines=())
    with pytest.raises(FileNotFoundError, match="no shot of 25 frames"):
        script.main(options)
    assert capsys.readouterr().out == ""


def test_boundaries_are_compared_on_end_intervals(clips, network, capsys):
    script.main(script.Options(Path("mine"), clips, dataset=("folder-2x",), boundary=True))
    printed = capsys.readouterr().out
    for boundary in ("mirror", "duplicate", "extrapolate"):
        assert boundary in printed
    assert "2 frames of 1 sequences" in printed


def test_unknown_names_are_answered_with_the_known_ones(clips, network):
    with pytest.raises(ValueError, match=r"unknown baseline avg.*frame-averaging"):
        script.main(script.Options(Path("mine"), clips, baselines=("avg",)))
    with pytest.raises(ValueError, match=r"'davis2x'.*davis-2x"):
        script.main(script.Options(Path("mine"), clips, dataset=("davis2x",)))
