# SPDX-License-Identifier: Apache-2.0
"""The commands that judge a checkpoint beside others: compare-peers, yardsticks, blind-sheet."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flavr_jax
from flavr_jax import evaluation
from flavr_jax.commands import blind_sheet, compare_peers, evaluate, yardsticks
from flavr_jax.config import ModelConfig
from flavr_jax.evaluation import scoring
from flavr_jax.evaluation.yardsticks import DRAWN, Yardstick
from flavr_jax.inference.interpolator import Interpolator


@pytest.fixture
def clips(tmp_path):
    """A fade by 4 levels a frame, which averaging predicts exactly."""
    folder = tmp_path / "clips/fade"
    folder.mkdir(parents=True)
    for number in range(11):
        Image.new("RGB", (32, 24), (4 * number,) * 3).save(folder / f"{number:02d}.png")
    return folder.parent


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """Stands for a checkpoint: it repeats the second input, which is 4 levels off."""

    class Repeating(Interpolator):
        def __init__(self, checkpoint, *, precision):
            self.config, self.precision, self.made = ModelConfig(), precision, []

        def predict(self, windows):
            return windows[:, 1:2]

        def between(self, frames, factor, batch=1):
            self.made.append(factor)
            return frames[None, 1:2].repeat(factor - 1, axis=1)

    found = Repeating("mine", precision="fp32")
    monkeypatch.setattr(flavr_jax, "load", lambda checkpoint, *, precision: found)
    monkeypatch.setattr(evaluation, "perceptual_metric", lambda: scoring.METRICS["error_rms"])
    return found


def test_peers_are_scored_and_timed_in_one_run(clips, network, tmp_path, capsys):
    compare_peers.main(
        compare_peers.Options(
            Path("mine"), clips, dataset="folder-2x", peers=("frame-averaging",), repeats=2,
            json=tmp_path / "out.json",
        )
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "sharpness" in printed
    assert "mine (fp32)" in printed
    report = json.loads((tmp_path / "out.json").read_text())
    methods = report["scores"]["methods"]
    assert methods["frame-averaging"]["mean"]["psnr_uint8"] == float("inf")
    assert methods["mine (fp32)"]["mean"]["error_absolute"] == pytest.approx(4.0, abs=1e-4)
    assert set(report["seconds per window"]) == {"2", "8"}
    assert all(of["mine (fp32)"] > 0 for of in report["seconds per window"].values())
    assert network.made == [2, 2, 2, 8, 8, 8]


def test_an_unknown_peer_is_refused(clips):
    with pytest.raises(ValueError, match="unknown baseline film; known are 'nearest-frame'"):
        compare_peers.main(compare_peers.Options(Path("mine"), clips, peers=("film",)))


def test_yardsticks_are_measured_by_name_with_their_goals(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        yardsticks, "DRAWN", {**DRAWN, "still": Yardstick(lambda network: 7.0, "off", 2.0, True)}
    )
    yardsticks.main(yardsticks.Options(Path("mine"), ("still",), json=tmp_path / "out.json"))
    printed = capsys.readouterr().out
    assert "missed" in printed
    assert "≤ 2" in printed
    assert json.loads((tmp_path / "out.json").read_text()) == {"still": 7.0}


@pytest.mark.parametrize(
    ("only", "words"),
    [(("ends",), "ends needs a data set; name its folder with --source"), (("hat",), "unknown")],
)
def test_yardsticks_that_cannot_be_measured_are_explained(only, words):
    with pytest.raises(ValueError, match=words):
        yardsticks.main(yardsticks.Options(Path("mine"), only))


def test_a_blind_sheet_has_its_key_in_another_file_and_votes_are_counted(clips, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    options = blind_sheet.Options(
        tmp_path / "mine", clips, dataset="folder-2x", against="frame-averaging", crops=5, side=16,
        sheet=tmp_path / "blind.png", key=tmp_path / "key.json",
    )  # fmt: skip
    blind_sheet.main(options)
    picture = np.asarray(Image.open(tmp_path / "blind.png"))
    key = json.loads((tmp_path / "key.json").read_text())
    sides = [each["first_is_left"] for each in key["crops"]]
    # Of a fade, the network's crop is 4 levels darker than the average.
    darker = [
        bool(picture[row + 20, left + 8, 0] < picture[row + 20, left + 30, 0])
        for row, left in ((40 * (n // 3), 50 * (n % 3)) for n in range(5))
    ]
    assert darker == sides
    votes = "".join("l" if side else "r" for side in sides)
    blind_sheet.main(blind_sheet.Options(votes=votes, key=tmp_path / "key.json"))
    assert "frame-averaging: 0, no preference: 0" in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_judged(
    clips, tmp_path, monkeypatch
):
    monkeypatch.setattr(flavr_jax, "load", None)  # is not called
    mine = Path("mine")
    for run in (
        lambda: compare_peers.main(compare_peers.Options(mine, clips, json=tmp_path)),
        lambda: yardsticks.main(yardsticks.Options(mine, json=tmp_path)),
        lambda: blind_sheet.main(blind_sheet.Options(mine, clips, key=tmp_path)),
        lambda: evaluate.main(
            evaluate.Options(mine, clips, outputs=evaluate.Outputs(csv=tmp_path))
        ),
    ):
        with pytest.raises(FileExistsError, match="is a folder"):
            run()


def test_what_is_no_method_is_refused(clips):
    with pytest.raises(ValueError, match="'film' is neither a checkpoint directory nor a baseline"):
        blind_sheet.method_of("film", "fp32")
