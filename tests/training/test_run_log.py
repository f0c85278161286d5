# SPDX-License-Identifier: Apache-2.0
"""The log of a run: what it holds, what it forgets, and what a crash leaves of it."""

import importlib.util
import io
import json
import logging
import sys

import numpy as np
import pytest
from PIL import Image

from flavr_jax.training import run_log
from flavr_jax.training.run_log import RunLog, read_metrics


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch):
    """TensorBoard has a test of its own; its files would cost every other test time."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        run_log.importlib.util,
        "find_spec",
        lambda name: None if name == "tensorboardX" else find(name),
    )


def written(folder, count=3):
    with RunLog(folder) as log:
        for step in range(1, count + 1):
            log.scalars(10 * step, loss=1.0 / step)
    return folder / "metrics.jsonl"


def test_a_line_of_the_log_is_a_step_and_its_values(tmp_path):
    lines = written(tmp_path).read_text().splitlines()
    assert [json.loads(line) for line in lines] == read_metrics(tmp_path)
    assert read_metrics(tmp_path)[1] == {"step": 20, "loss": 0.5}


def test_a_run_that_goes_on_forgets_the_steps_that_it_repeats(tmp_path):
    written(tmp_path)
    with RunLog(tmp_path, step=20) as log:
        log.scalars(30, loss=9.0)
    assert read_metrics(tmp_path) == [
        {"step": 10, "loss": 1.0}, {"step": 20, "loss": 0.5}, {"step": 30, "loss": 9.0},
    ]  # fmt: skip


def test_a_new_run_starts_an_empty_log(tmp_path):
    written(tmp_path)
    with RunLog(tmp_path):
        pass
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("rest", ['{"step": 40, "lo', "", "\x00\x00"])
def test_a_line_that_a_crash_cut_off_is_skipped(tmp_path, rest):
    path = written(tmp_path)
    path.write_text(path.read_text() + rest)
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30]
    with RunLog(tmp_path, step=30) as log:  # and the next line stands on its own
        log.scalars(40, loss=0.1)
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30, 40]


def test_a_folder_without_a_log_has_no_lines(tmp_path):
    assert read_metrics(tmp_path) == []


def test_what_is_not_a_number_is_kept_as_such(tmp_path):
    with RunLog(tmp_path) as log:
        log.scalars(1, loss=float("nan"), psnr=float("inf"))
    (line,) = read_metrics(tmp_path)
    assert line["loss"] != line["loss"]
    assert line["psnr"] == float("inf")


def test_values_are_logged_with_five_digits(tmp_path, caplog):
    with caplog.at_level(logging.INFO), RunLog(tmp_path) as log:
        log.scalars(7, loss=0.123456789, speed=1234.5678)
    assert "step 7: loss 0.12346, speed 1234.6" in caplog.messages


def test_without_tensorboard_the_extra_is_named(tmp_path, caplog):
    with caplog.at_level(logging.INFO), RunLog(tmp_path) as log:
        log.picture(1, np.zeros((2, 2, 3), np.float32))  # nowhere to show it
    assert "tensorboardX" in caplog.text
    assert "train]" in caplog.text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_live_line_that_the_log_replaces(tmp_path, monkeypatch):
    terminal, now = Terminal(), [100.0]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    with RunLog(tmp_path) as log:
        for second in (0.0, 0.5, 1.5):  # at most one a second
            now[0] = 100.0 + second
            log.live(int(10 * second), "500", loss=0.25)
        assert (
            terminal.getvalue()
            == "\r\x1b[2Kstep 0 of 500: loss 0.25\r\x1b[2Kstep 15 of 500: loss 0.25"
        )
        log.scalars(20, loss=0.25)
        assert terminal.getvalue().endswith("\r\x1b[2K")


def test_a_file_has_no_live_line(tmp_path, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with RunLog(tmp_path) as log:
        log.live(1, "500", loss=0.25)
    assert file.getvalue() == ""


def test_a_plot_has_a_row_for_three_values(tmp_path):
    pytest.importorskip("matplotlib")
    heights = []
    for count in (1, 3, 4):
        folder = tmp_path / str(count)
        folder.mkdir()
        with RunLog(folder) as log:
            for step in (1, 2):
                log.scalars(step, **{f"value {n}": float(step) for n in range(count)})
        path = run_log.plot(folder)
        assert path == folder / "training.png"
        heights.append(Image.open(path).height)
    assert heights[0] == heights[1] == heights[2] / 2


def test_an_empty_log_has_no_plot(tmp_path):
    pytest.importorskip("matplotlib")
    assert run_log.plot(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
