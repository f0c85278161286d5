# SPDX-License-Identifier: Apache-2.0
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from flavr_jax.training import loop, parallel, run_log
from flavr_jax.training.loop import Leg
from tests.training.toys import Line, ReadPoints, recipe, saved_state

ROOT = Path(__file__).parents[2]


def start(*arguments, devices=1):
    """A worker with so many simulated devices."""
    # The flags of this process, since both have to compute the same bits.
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def values(folder):
    """What a run logged, without its times."""
    return [
        {
            name: value
            for name, value in line.items()
            if name not in ("minutes", "samples per second")
        }
        for line in run_log.read_metrics(folder)
    ]


def assert_same_numbers(one, other):
    for a, b in zip(values(one), values(other), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def four_devices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    finish(start("devices", folder, devices=4))
    return folder


@pytest.mark.parametrize("mapping", ["pmap", "twin"])
@pytest.mark.parametrize("inputs", ["Points", "ReadPoints"])
def test_four_devices_find_the_same_loss_gradient_and_parameters_as_one(
    four_devices, mapping, inputs
):
    # The log has the gradient's norm: Adam would hide one that is four times too long.
    assert "gradient_norm" in values(four_devices / f"one-{inputs}")[0]
    assert_same_numbers(four_devices / f"{mapping}-{inputs}", four_devices / f"one-{inputs}")


def test_two_hosts_stop_together_resume_and_end_where_one_does(four_devices, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The second host alone is asked to stop; were the first to go on, both would hang.
    finish(*(start("hosts", tmp_path, number, port, devices=2) for number in range(2)))
    assert_same_numbers(tmp_path / "twin", four_devices / "one-ReadPoints")
    assert_same_numbers(tmp_path / "pmap", four_devices / "one-ReadPoints")


def test_a_run_killed_while_it_saves_loses_one_interval_and_ends_in_the_same_state(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(loop.run_log, "plot", lambda folder: None)
    process = start("killed", tmp_path / "run")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    assert any("tmp" in path.name for path in (tmp_path / "run" / "state").iterdir())
    of, task = recipe(save_steps=2), Line(ballast=3_000_000)
    assert int(saved_state(tmp_path / "run", task, of)[0].step) == 6
    assert loop.train(of, task, ReadPoints(), tmp_path / "run", Leg(resume=True))
    assert [line["step"] for line in values(tmp_path / "run")] == [3, 6, 6, 9, 12, 12]
    assert loop.train(of, task, ReadPoints(), tmp_path / "whole")
    states = [saved_state(tmp_path / name, task, of)[0] for name in ("run", "whole")]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)
    assert values(tmp_path / "run") == values(tmp_path / "whole")


def test_processes_need_an_address_and_numbers():
    with pytest.raises(ValueError, match="give all three"):
        parallel.initialize(parallel.Hosts("localhost:1234", 2, None))
