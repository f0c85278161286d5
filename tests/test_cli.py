# SPDX-License-Identifier: Apache-2.0
"""What a user of any script sees when something goes wrong, and while it goes well."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import signal
import subprocess
import sys

import av
import jax
import jax.numpy as jnp
import pytest

import pallas_kernels
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


@pytest.mark.parametrize("kind", ["OverflowError", "UndefinedError", "InvalidDataError"])
def test_every_error_of_ffmpeg_is_one_line(monkeypatch, capsys, kind):
    error = getattr(av.error, kind)(34, "Numerical result out of range", "o.gif")
    assert run(monkeypatch, fail(error)) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Numerical result out of range" in message
    assert message.count("\n") == 1


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


def test_ctrl_c_is_noticed_even_where_an_import_turns_it_into_an_error(monkeypatch, capsys):
    def main(options):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("Encountered an error while initializing the extension.") from None

    monkeypatch.setattr(os, "_exit", sys.exit)
    assert run(monkeypatch, main) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "interrupted.\n"


def test_a_logged_warning_is_one_line_without_control_characters(monkeypatch, capsys):
    def main(options):
        logging.basicConfig()  # as absl does
        for _ in range(2):
            logging.getLogger("flavr_jax.video").warning("%s is odd", "a\x1b[31m\n.mp4")
        try:
            raise RuntimeError("a bug")
        except RuntimeError:
            logging.getLogger("flavr_jax.web").exception("A clip ended.")

    monkeypatch.setattr(logging.root, "handlers", [])
    run(monkeypatch, main)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["warning: a\\x1b[31m .mp4 is odd", "error: A clip ended."]
    assert lines[-1] == "RuntimeError: a bug"


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    with pytest.raises(TypeError):
        run(monkeypatch, fail(TypeError("a bug")))
    with pytest.raises(NotImplementedError):
        run(monkeypatch, fail(NotImplementedError()))


def test_a_kernel_that_cannot_run_here_is_one_line_without_notes_of_jax(monkeypatch, capsys):
    def main(options):
        conv = jax.jit(functools.partial(pallas_kernels.conv3d, implementation="mosaic_gpu"))
        conv(jnp.zeros((1, 1, 4, 4, 8)), jnp.zeros((1, 1, 1, 8, 8)))

    assert run(monkeypatch, main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: conv3d cannot run as asked (mosaic_gpu: it needs an NVIDIA")
    assert line.endswith("for the fastest that can.")


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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\x1b]0;pwned\x07\x1b[2J is odd"), r"error: \x1b]0;pwned\x07\x1b[2J is odd"),
        (ValueError("\u202etxt.exe"), r"error: \u202etxt.exe"),
        (
            FileNotFoundError(2, "No such file", "\x1b[2J\udcff.mp4"),
            r"error: \x1b[2J\udcff.mp4: No such file.",
        ),
        (
            MemoryError("Unable to allocate 8 GiB"),
            "error: not enough memory (Unable to allocate 8 GiB). Use a smaller input.",
        ),
    ],
)
def test_a_message_has_no_control_characters(monkeypatch, capsys, error, line):
    assert run(monkeypatch, fail(error)) == 2
    assert capsys.readouterr().err == line + "\n"


def test_a_message_is_short_and_keeps_its_beginning_and_its_end(monkeypatch, capsys):
    assert run(monkeypatch, fail(ValueError("the keys " + "a" * 10**7 + " are wrong"))) == 2
    message = capsys.readouterr().err
    assert len(message) < 2100
    assert message.startswith("error: the keys aaa")
    assert message.endswith("a are wrong (10,000,019 characters)\n")


PROGRAM = """
import dataclasses, sys, time
from flavr_jax import cli

@dataclasses.dataclass(frozen=True)
class Options:
    "Show text."
    text: str = "256×448 … – 🎬"
    "What to print."

def main(options):
    for _ in cli.track(range(50), total=50, interval=0.0):
        print(options.text)
    open(sys.argv[0] + ".done", "w").close()

cli.run(main, Options)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("ascii", rb"256x448 ... - \U0001f3ac"),
        ("cp1252", rb"256\xd7448 \x85 \x96 \U0001f3ac"),
        ("utf-8", "256×448 … – 🎬".encode()),
    ],
)
def test_every_terminal_gets_what_its_encoding_can_show(program, encoding, text):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, program]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()[0]
    assert shown == text.replace(rb"\xd7", b"\xd7").replace(rb"\x85", b"\x85").replace(
        rb"\x96", b"\x96"
    )
    helped = subprocess.run([*command, "--help"], env=environment, capture_output=True, check=False)
    assert helped.returncode == 0, helped.stderr


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_pipe_that_nobody_reads_does_not_end_the_work(program, closed):
    command = [sys.executable, program, "--text", "a" * 10_000]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    pipes |= {closed: subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        getattr(process, closed).close()
        err = process.stderr.read() if closed != "stderr" else b""
        assert process.wait(60) == 0
    assert b"Error" not in err
    assert (program.parent / "program.py.done").exists()


def test_a_full_disk_is_an_error_for_results_and_none_for_progress(program):
    if not os.path.exists("/dev/full"):
        pytest.skip("only Linux has /dev/full")
    command = [sys.executable, program]
    with open("/dev/full", "wb") as full:
        results = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
        progress = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, check=False)
    assert results.returncode == 2
    assert b"No space left" in results.stderr
    assert b"Traceback" not in results.stderr
    assert progress.returncode == 0


@pytest.mark.parametrize(
    ("gpu", "platforms", "plugin", "warned"),
    [
        (True, "", False, True),
        (True, "cuda", False, True),
        (True, "cpu", False, False),
        (True, "", True, False),
        (False, "", False, False),
    ],
)
def test_a_gpu_that_jax_cannot_use_is_mentioned(
    monkeypatch, tmp_path, capsys, gpu, platforms, plugin, warned
):
    device = tmp_path / "nvidia0"
    if gpu:
        device.touch()
    monkeypatch.setattr(cli, "GPU_DEVICE", device)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    if plugin:
        (tmp_path / "jax_plugins" / "xla_cuda13").mkdir(parents=True)
        (tmp_path / "jax_plugins" / "xla_cuda13" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "jax_plugins", raising=False)
    assert run(monkeypatch, lambda options: 0) == 0
    message = capsys.readouterr().err
    assert ("pip install" in message) == warned


@pytest.mark.parametrize("argument", ["--\x1b[2J\x07", "--sheep=\u202e\x9b2J"])
def test_a_wrong_command_line_cannot_move_the_cursor(monkeypatch, capsys, argument):
    assert run(monkeypatch, fail(AssertionError()), argument) == 2
    message = capsys.readouterr().err
    assert message
    assert not set(message) & set("\x1b\x07\x9b\u202e")
