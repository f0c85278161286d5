# SPDX-License-Identifier: Apache-2.0
"""Counting steps, time and losses, with the results of steps written by hand."""

import itertools

import numpy as np
import pytest

from flavr_jax.training import progress
from flavr_jax.training.progress import Clock, Progress
from flavr_jax.training.recipe import Recipe
from flavr_jax.training.run_log import RunLog
from flavr_jax.training.step import Signals, StepResult


class Log(RunLog):
    """Keeps the lines that would be written."""

    def __init__(self):
        self.lines = []

    def scalars(self, step, **values):
        self.lines.append((step, values))

    def live(self, step, of, **values):
        self.shown = (step, of, values)


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which pass only when a test says so."""
    now = [50.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def result(loss=1.0, norm=0.5, *, elapsed=0.0, stop=0.0, skipped=0, in_a_row=0, **terms):
    numbers = (
        np.float32(loss),
        {name: np.float32(v) for name, v in terms.items()},
        np.float32(norm),
    )
    return StepResult(*numbers, np.int32(skipped), np.int32(in_a_row), Signals(elapsed, stop))


def started(log=None, *, step=0, saved=None, batch_size=4, **recipe):
    recipe = Recipe(**({"steps": 100, "log_steps": 5} | recipe))
    return Progress(recipe, log or Log(), batch_size, step=step, saved=saved or {})


def test_a_line_has_the_means_since_the_last_one():
    log = Log()
    run = started(log)
    for loss in range(10):
        run.add(result(float(loss), error=2.0 * loss), 0.1)
    assert [(step, values["loss"]) for step, values in log.lines] == [(5, 2.0), (10, 7.0)]
    assert [values["error"] for _, values in log.lines] == [4.0, 14.0]
    assert all(values["learning_rate"] == 0.1 for _, values in log.lines)


def test_the_speed_leaves_out_the_first_step_of_a_leg(clock):
    log = Log()
    run = started(log, batch_size=6)
    for seconds in (60.0, 2.0, 2.0, 2.0, 2.0):  # the first is compiled
        clock[0] += seconds
        run.add(result(), 0.1)
    assert log.lines[0][1]["samples per second"] == pytest.approx(4 * 6 / 8.0)
    assert run.seconds == pytest.approx(8.0)


def test_a_line_of_the_first_step_alone_has_no_speed():
    log = Log()
    started(log, log_steps=1).add(result(), 0.1)
    assert "samples per second" not in log.lines[0][1]


def test_one_step_without_a_finite_gradient_spoils_no_mean():
    log = Log()
    run = started(log)
    for loss in (1.0, float("nan"), 3.0, 2.0, 2.0):
        run.add(result(loss), 0.1)
    run.catch_up()
    assert log.lines[0][1]["loss"] == 2.0
    assert run.start_report() == 2.0


def test_twenty_skipped_steps_in_a_row_end_a_run():
    run = started(log_steps=50)
    for number in range(1, 20):
        run.add(result(float("nan"), skipped=number, in_a_row=number), 0.1)
    run.catch_up()
    assert run.skipped == 19
    run.add(result(float("nan"), skipped=20, in_a_row=20), 0.1)
    with pytest.raises(
        ValueError, match=r"20 steps in a row had no finite gradient, up to step 20"
    ):
        run.catch_up()


def test_the_host_reads_results_two_steps_later():
    run = started(minutes=1.0, steps=None)
    for elapsed in (10.0, 20.0, 30.0):
        run.add(result(elapsed=elapsed), 0.1)
    assert run.elapsed == 10.0
    run.catch_up()
    assert run.elapsed == 30.0
    assert run.fraction == pytest.approx(0.5)


def test_a_run_is_over_at_its_last_step_at_the_end_of_a_leg_or_when_asked_to_stop():
    run = started(steps=3)
    assert not run.is_over(None)
    assert run.is_over(until=0)
    run.add(result(), 0.1)
    assert not run.is_over(until=2)
    run.add(result(), 0.1)
    assert run.is_over(until=2)
    assert not run.is_over(None)
    run.add(result(), 0.1)
    assert run.is_over(None)
    stopped = started(steps=3)
    stopped.add(result(stop=1.0), 0.1)
    stopped.catch_up()
    assert stopped.is_over(None)


@pytest.mark.parametrize(("steps", "reports"), [(10, 3), (7, 7), (100, 10), (3, 1)])
def test_reports_are_evenly_spaced_and_the_last_is_at_the_end(steps, reports):
    run, at = started(steps=steps, reports=reports), []
    for _ in range(steps):
        run.add(result(), 0.1)
        if run.is_report_due():
            run.start_report()
            at.append(run.step)
    assert len(at) == reports
    assert at[-1] == steps
    gaps = [b - a for a, b in itertools.pairwise([0, *at])]
    assert max(gaps) - min(gaps) <= 1


def test_the_mean_of_a_report_is_over_the_steps_since_the_one_before():
    run = started(steps=4, reports=2)
    for losses in ((1.0, 3.0), (5.0, 9.0)):
        for loss in losses:
            run.add(result(loss), 0.1)
        run.catch_up()
        assert run.start_report() == np.mean(losses)
    assert run.start_report() == 0.0


@pytest.mark.parametrize("pause", [1, 4, 7])
def test_a_run_that_pauses_writes_the_lines_of_one_that_does_not(pause, clock):
    whole, parts = Log(), Log()
    losses = np.random.default_rng(0).uniform(size=15)
    run = started(whole)
    for loss in losses:
        run.add(result(loss), 0.1)
    run = started(parts)
    for number, loss in enumerate(losses):
        if number == pause:
            run = started(parts, step=number, saved=run.get_state())
        run.add(result(loss), 0.1)
    assert [step for step, _ in parts.lines] == [5, 10, 15]
    for (_, one), (_, other) in zip(whole.lines, parts.lines):
        assert one["loss"] == pytest.approx(other["loss"])


def test_time_goes_on_over_legs(clock):
    run = started()
    for _ in range(3):
        clock[0] += 4.0
        run.add(result(elapsed=run.seconds), 0.1)
    saved = run.get_state() | {"elapsed": 8.0}
    clock[0] += 1000.0  # between the legs
    later = started(step=3, saved=saved)
    clock[0] += 30.0
    later.add(result(), 0.1)  # compiled again
    clock[0] += 2.0
    later.add(result(), 0.1)
    assert later.seconds == pytest.approx(8.0 + 2.0)


def test_a_clock_counts_laps_and_leaves_out_what_it_is_told_to(clock):
    watch = Clock((2, 3.0))
    clock[0] += 5.0
    watch.count(steps=4)
    clock[0] += 100.0
    watch.leave_out()
    clock[0] += 1.0
    watch.count()
    assert watch.seconds == 6.0
    assert watch.lap() == (6, 9.0)
    assert watch.lap() == (0, 0.0)


@pytest.mark.parametrize("name", ["steps", "minutes", "save_steps", "log_steps"])
@pytest.mark.parametrize("value", [0, -5])
def test_a_run_without_a_length_is_refused(name, value):
    limit = {} if name in ("steps", "minutes") else {"steps": 10}
    value = float(value) if name == "minutes" else value
    with pytest.raises(ValueError, match=f"`{name}` is {value}; it is above 0"):
        Recipe(**limit, **{name: value})
