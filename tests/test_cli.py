# SPDX-License-Identifier: Apache-2.0
"""What a user of any script sees when something goes wrong, and while it goes well."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from flavr_jax import cli


@dataclasses.dataclass(frozen=True)
class Options:
    """Count sheep."""

    sheep: int = 3
    """How many jump."""
    asleep: bool = False
    """Whether it worked."""

    def __post_init__(self):
        if self.sheep > 100:
            raise ValueError(f"`sheep` is {self.sheep}; at most 100 fit.")


def run(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.run(main, Options)
    return stop.value.code or 0


def fail(error):
    def main(options):
        raise error

    return main


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_exit_code_is_what_main_returns(monkeypatch, returned, code):
    assert run(monkeypatch, lambda options: returned) == code


def test_flags_reach_main(monkeypatch):
    seen = []
    run(monkeypatch, seen.append, "--sheep", "7", "--asleep")
    assert seen == [Options(7, True)]


def test_help_comes_from_the_docstrings(monkeypatch, capsys):
    assert run(monkeypatch, fail(AssertionError()), "--help") == 0
    text = capsys.readouterr().out
    assert "Count sheep." in text
    assert "How many jump." in text


@pytest.mark.parametrize("arguments", [("--shep", "3"), ("--sheep", "many")])
def test_a_wrong_command_line_exits_with_2(monkeypatch, arguments, capsys):
    assert run(monkeypatch, fail(AssertionError()), *arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("the factor\nis odd"), "error: the factor is odd"),
        (FileNotFoundError(2, "No such file", "a.mp4"), "error: a.mp4: No such file."),
        (FileExistsError("a.mp4 exists."), "error: a.mp4 exists."),
        (ValueError(), "error: ValueError"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, error, line):
    assert run(monkeypatch, fail(error)) == 2
    assert capsys.readouterr().err == line + "\n"


def test_a_value_the_options_refuse_is_one_line_too(monkeypatch, capsys):
    assert run(monkeypatch, fail(AssertionError()), "--sheep", "101") == 2
    assert "`sheep` is 101; at most 100 fit." in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch, capsys):
    monkeypatch.setattr(os, "_exit", sys.exit)  # it would end the test run
    assert run(monkeypatch, fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted.\n"


def test_ctrl_c_is_noticed_even_where_python_drops_it(monkeypatch, capsys):
    class Cycle:
        """Interrupts inside a finaliser, whose exceptions Python prints and drops."""

        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def main(options):
        for number in cli.track(range(3), total=3):
            assert number < 1, "the loop went on"
            Cycle()

    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: None)
    before = signal.getsignal(signal.SIGINT)
    assert run(monkeypatch, main) == 130
    assert capsys.readouterr().err == "interrupted.\n"
    assert signal.getsignal(signal.SIGINT) == before


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    with pytest.raises(TypeError):
        run(monkeypatch, fail(TypeError("a bug")))


def test_flavr_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("FLAVR_DEBUG", "1")
    with pytest.raises(ValueError, match="shown"):
        run(monkeypatch, fail(ValueError("shown")))


def test_tracking_passes_everything_on_and_reports_to_a_log(capsys):
    assert list(cli.track("abc", total=3, interval=0.0)) == list("abc")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("1 of 3, ")
    assert "s left" in lines[0]
    assert "frames/s" in lines[0]


def test_tracking_works_without_a_total_and_with_a_wrong_one(capsys):
    assert list(cli.track("abc", total=None, interval=0.0)) == list("abc")
    assert list(cli.track("abc", total=1, interval=0.0)) == list("abc")


def test_the_time_left_does_not_count_what_the_first_item_waited_for(monkeypatch, capsys):
    clock = 0.0
    monkeypatch.setattr(cli.time, "monotonic", lambda: clock)

    def frames():
        nonlocal clock
        clock += 60.0  # compiling
        for batch in range(100):
            for number in range(8):
                yield 8 * batch + number
                clock += 0.01
            clock += 4.0

    for _ in cli.track(frames(), total=800, before_first="compiling"):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "compiling …"
    assert lines[1] == "25 of 800, 395 s left, 2.0 frames/s"
    left = [float(line.split()[3]) for line in lines[1:]]
    done = [int(line.split()[0]) for line in lines[1:]]
    for count, seconds in zip(done, left):
        assert seconds == pytest.approx((800 - count) * 4.08 / 8, rel=0.02, abs=1.0)


def test_a_speed_is_not_told_before_it_can_be_known(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    list(cli.track("abc", total=3, before_first="compiling"))
    assert "/s" not in capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    list(cli.track("abc", total=3))
    assert "3/3" in capsys.readouterr().err


def test_help_does_not_wait_for_jax():
    code = "import sys, flavr_jax.cli; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
