# SPDX-License-Identifier: Apache-2.0
"""Calibration from the command line, of a tiny untrained network."""

from __future__ import annotations

import sys

import jax
import numpy as np
import pytest
from PIL import Image

from flavr_jax import checkpoint, cli
from flavr_jax.commands import quantize as script
from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr, quantized
from flavr_jax.quantization import calibration

pytestmark = pytest.mark.usefixtures("definition")

CONFIG = ModelConfig(width=2, n_outputs=1, base="blend")
TWO = ("encoder/stem", "decoder/stages/3/conv")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "tiny"
    params = flavr.init(CONFIG, jax.random.key(0))
    checkpoint.save(path, CONFIG, params, provenance={"source": "random, for a test"})
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "noise"
    path.mkdir()
    random = np.random.default_rng(0)
    for number in range(8):
        frame = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(frame).save(path / f"{number}.png")
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """The script's exit code and what it said."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["quantize.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run(script.main, script.Options)
        return stop.value.code, capsys.readouterr()

    return run


@pytest.fixture
def losses(monkeypatch):
    """Nothing is compiled 25 times: the stem alone loses much."""

    def losses(config, params, examples):
        def measure(scales):
            lost = dict.fromkeys((each.clip for each in examples), 0.1 * (TWO[0] in scales))
            return calibration.PsnrLoss(lost, lost)

        return measure

    monkeypatch.setattr(calibration, "psnr_losses", losses)


@pytest.fixture
def measured(losses, monkeypatch):
    """No network runs: there are two maps, which hold 1 at most."""
    monkeypatch.setattr(calibration, "largest_magnitudes", lambda *_: dict.fromkeys(TWO, 1.0))


def test_a_clip_gives_a_checkpoint_with_scales_and_their_origin(
    run, network, clip, losses, tmp_path
):
    code, said = run(
        network, "--calibration", clip, "--output", tmp_path / "new", "--size", 16, 16,
        "--windows", 1,
    )  # fmt: skip
    assert code is None or code == 0
    before, after = checkpoint.load(network), checkpoint.load(tmp_path / "new")
    assert (after.config, after.provenance) == (before.config, before.provenance)
    assert jax.tree.all(jax.tree.map(np.array_equal, after.params, before.params))
    maps = quantized.feature_maps(CONFIG)
    assert set(after.quantization.scales) == set(maps) - {"encoder/stem"}
    origin = after.quantization.provenance
    assert (origin["clips"], origin["windows"]) == (["noise"], 1)
    for name, scale in after.quantization.scales.items():
        assert scale * 448 == pytest.approx(2 * origin["maps"][name]["largest"])
        assert origin["maps"][name]["largest"] > 0
    assert (origin["loss_worst_of_everything"], origin["loss_worst"]) == (0.1, 0.0)
    assert f"{len(maps) - 1} of {len(maps)} feature maps" in said.out


def test_the_report_lists_every_map_with_its_loss_and_its_type(
    run, network, clip, measured, tmp_path
):
    code, said = run(network, "--calibration", clip, "--output", tmp_path / "new")
    assert not code
    lines = [line.split() for line in said.out.splitlines()]
    rows = {line[1]: line for line in lines if line[1:] and line[1] in TWO}
    assert {"0.1000", "bf16"} <= set(rows["encoder/stem"])
    assert {"0.0000", "fp8"} <= set(rows["decoder/stages/3/conv"])
    quantization = checkpoint.load(tmp_path / "new").quantization
    assert quantization.scales == {"decoder/stages/3/conv": 2 / 448}
    assert quantization.provenance["maps"]["encoder/stem"]["stored"] == "bf16"


def test_a_checkpoint_gets_its_own_scales_added(run, network, clip, measured, tmp_path):
    own = tmp_path / "own"
    checkpoint.save(own, CONFIG, checkpoint.load(network).params)
    code, _ = run(own, "--calibration", clip, "--output", own)
    assert not code
    assert checkpoint.load(own).quantization is not None


def test_another_checkpoint_is_not_replaced_unasked(run, network, clip, measured, tmp_path):
    (tmp_path / "there").mkdir()
    code, said = run(network, "--calibration", clip, "--output", tmp_path / "there")
    assert code == 2
    assert "--overwrite" in said.err
    assert not list((tmp_path / "there").iterdir())


def test_a_choice_is_taken_from_a_calibrated_checkpoint(run, network, clip, measured, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    code, said = run(network, "--calibration", clip, "--output", second, "--like", network)
    assert code == 2
    assert "omit --like" in said.err
    assert not run(network, "--calibration", clip, "--output", first)[0]
    assert not run(network, "--calibration", clip, "--output", second, "--like", first)[0]
    one, two = (checkpoint.load(path).quantization for path in (first, second))
    assert two.scales == one.scales
    assert two.provenance["like"] == str(first)
    assert "loss_worst_of_everything" not in two.provenance


def test_nothing_is_written_where_nothing_can_be_in_8_bits(
    run, network, clip, tmp_path, monkeypatch
):
    monkeypatch.setattr(calibration, "largest_magnitudes", lambda *_: dict.fromkeys(TWO, 1.0))
    every = [{"a": float(count)} for count in range(3)]
    monkeypatch.setattr(
        calibration,
        "psnr_losses",
        lambda *_: lambda scales: calibration.PsnrLoss(*[every[len(scales)]] * 2),
    )
    code, said = run(network, "--calibration", clip, "--output", tmp_path / "new")
    assert code == 2
    assert "use bf16" in said.err
    assert not (tmp_path / "new").exists()


def test_windows_are_counted_from_1(run, network, tmp_path):
    code, said = run(network, "--output", tmp_path / "new", "--windows", 0)
    assert code == 2
    assert "`windows`" in said.err
