# SPDX-License-Identifier: Apache-2.0
import json
import sys

import numpy as np
import pytest
from PIL import Image

from flavr_jax import cli
from flavr_jax.commands import benchmark_training as script
from flavr_jax.models.presets import PRESETS
from flavr_jax.profiling.step_profile import Part, StepProfile
from flavr_jax.profiling.training_throughput import Measurement
from flavr_jax.training.recipe import Places


def test_each_case_is_written_as_soon_as_it_is_known_with_its_gain(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "clips/walk"
    folder.mkdir(parents=True)
    for number in range(7):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
    written, read = [], []

    def run(cases, clips, *, seconds, workers):
        read.extend(clips)
        for case, time in zip(cases, (0.1, 0.11, 0.2), strict=False):
            yield Measurement("stub", case, time, 1.02 * time, 3.0)
            written.append(len((tmp_path / "out.jsonl").read_text().splitlines()))
        raise RuntimeError("out of time")

    monkeypatch.setitem(script.IMPLEMENTATIONS, "flavr_jax", run)
    options = script.Options(
        widths=(8, 16), devices=(1, 2), batch=4, read=True, json=tmp_path / "out.jsonl",
        places=Places(source=tmp_path / "clips"),
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="out of time"):
        script.main(options)
    assert written == [1, 2, 3]
    [clip] = read
    assert (clip.name, len(clip)) == ("walk", 7)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert capsys.readouterr().out.splitlines()[1:] == lines
    found = [json.loads(line) for line in lines]
    # 8 windows in 0.11 s on two devices, against 4 in 0.1 s on one.
    assert found[1]["speed_up"] == pytest.approx(8 / 0.11 * 0.1 / 4)
    assert [each["case"]["model"]["width"] for each in found] == [8, 8, 16]
    assert found[2]["reading_cost"] == pytest.approx(0.02)
    assert "jax" in found[2]["where"]


def test_without_one_device_there_is_no_gain_to_tell(monkeypatch, capsys):
    def run(cases, clips, **options):
        assert clips == ()
        yield from (Measurement("stub", case, 0.1, None, 3.0) for case in cases)

    monkeypatch.setitem(script.IMPLEMENTATIONS, "torch", run)
    monkeypatch.setattr(
        script.presentation, "environment", lambda with_torch: f"torch: {with_torch}"
    )
    script.main(script.Options(("torch",), widths=(8,), devices=(2,), read=False))
    where, line, *_ = capsys.readouterr().out.splitlines()
    assert where.startswith("torch: True; ")
    assert json.loads(line)["speed_up"] is None


@pytest.mark.parametrize(("options", "warnings"), [((), 1), (("--no-read",), 0)])
def test_without_grain_only_the_fixed_batch_is_timed(monkeypatch, capsys, options, warnings):
    monkeypatch.setitem(sys.modules, "grain", None)
    given = []

    def run(cases, clips, **options):
        given.append(clips)
        return iter(())

    monkeypatch.setitem(script.IMPLEMENTATIONS, "flavr_jax", run)
    monkeypatch.setattr(sys, "argv", ["benchmark_training.py", "--devices", "1", *options])
    with pytest.raises(SystemExit) as stop:
        cli.run(script.main, script.Options)
    assert not stop.value.code
    assert given == [()]
    assert capsys.readouterr().err.count("grain is not installed") == warnings


def test_named_networks_take_the_place_of_widths_and_may_have_one_target(monkeypatch):
    cases = []

    def run(given, clips, **options):
        cases.extend(given)
        return iter(())

    monkeypatch.setitem(script.IMPLEMENTATIONS, "flavr_jax", run)
    options = script.Options(
        models=("default",), one_target=True, devices=(1,), batch=48, read=False
    )
    script.main(options)
    [case] = cases
    assert case.model == PRESETS["default"]
    assert (case.batch, case.one_target) == (48, True)


def test_a_recipe_is_timed_with_its_changes_and_the_parts_of_its_step_are_shown(
    monkeypatch, tmp_path, capsys
):
    (tmp_path / "mine.toml").write_text("steps = 3\n[model]\nwidth = 8\n[data]\ncrop = 32\n")
    seen = []

    def profile(recipe, task, inputs, folder, *, seconds):
        seen.append((recipe.data.crop, task.model.width, inputs.batch_size, folder))
        parts = Part("batch", False, 3.0, 12.0), Part("encoder/stem", True, 1.0, 2.0)
        return StepProfile(0.02, 4, parts)

    monkeypatch.setattr(script.step_profile, "profile_step", profile)
    script.main(
        script.Options(
            recipe=tmp_path / "mine.toml", set=("data.batch_size=4",), profile=tmp_path / "traces"
        )
    )
    assert seen == [(32, 8, 4, tmp_path / "traces")]
    out = capsys.readouterr().out
    assert "20.00 ms a step, 200 windows/s" in out
    for word in ("batch", "75.0%", "encoder/stem", "backward"):
        assert word in out
