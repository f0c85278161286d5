# SPDX-License-Identifier: Apache-2.0
"""Damaged files meet no crash, no hang and no traceback; and the fuzzer would notice one."""

import importlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"
KINDS = 23  # kinds of files; as many cases damage each kind once

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux"),
    pytest.mark.filterwarnings("ignore:.*fork"),
]


@pytest.fixture(scope="module")
def fuzz():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return importlib.import_module("fuzz")


def test_damaged_files_are_refused_or_read():
    command = [sys.executable, SCRIPT, "--seed", "19", "--seconds", "120", "--count", str(KINDS)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "seed 19"
    passed, failed = (int(word) for word in lines[-1].split() if word.isdigit())
    assert failed == 0
    assert passed == KINDS


def test_the_same_seed_gives_the_same_damage(fuzz):
    data = bytes(range(256)) * 8
    one, same, other = (fuzz.damaged(data, random.Random(seed)) for seed in ("1 2", "1 2", "1 3"))
    assert one == same != data
    assert other != one


def crash(_):
    os.abort()


def leave_traceback(_):
    raise TypeError("a bug")


def hang(_):
    time.sleep(60)


def fill_memory(_):
    kept = []
    while True:
        kept.append(b"1" * 50_000_000)
        time.sleep(0.01)


def talk(_):
    sys.stderr.write("a" * 10_000)


def show_escapes(_):
    sys.stderr.write("\x1b[2J")


def write_outside(case):
    (case / "beside").write_text("x")


def change_the_input(case):
    (case / "input").write_text("x")


def remove_the_input(case):
    (case / "input").unlink()


@pytest.mark.parametrize(
    ("misbehave", "fault"),
    [
        (crash, "exit code -6"),
        (leave_traceback, "a traceback: TypeError: a bug"),
        (hang, "killed after"),
        (fill_memory, "killed after"),
        (talk, "10000 characters"),
        (show_escapes, "terminal escapes"),
        (write_outside, "beside was changed, made or removed"),
        (change_the_input, "input was changed, made or removed"),
        (remove_the_input, "input was changed, made or removed"),
    ],
)
def test_every_kind_of_fault_is_noticed(fuzz, tmp_path, misbehave, fault):
    (tmp_path / "input").write_bytes(bytes(100))
    own = fuzz.resident(os.getpid())
    options = fuzz.Options(limit=5.0 if misbehave is fill_memory else 1.0, memory=own + 0.5)
    case = tmp_path / "case"

    def program(path, output):
        assert path.read_bytes() != bytes(100)
        misbehave(case)

    faults = fuzz.run_case(case, (tmp_path / "input", program), random.Random(3), options)

    assert any(fault in found for found in faults), faults
