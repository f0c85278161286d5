# SPDX-License-Identifier: Apache-2.0
"""The command ``flavr``: it finds its subcommands, and ``scripts/`` runs the same code."""

import ast
import dataclasses
import importlib
import logging
import os
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import flavr_jax
from flavr_jax import cli, commands

ROOT = Path(__file__).parents[2]
# Tools for the source tree alone, which no user of a wheel can run.
OF_THE_TREE = {"fuzz", "fuzz_inputs", "compare_mitsuba", "simulate_farm"}


def flavr(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["flavr", *arguments])
    with pytest.raises(SystemExit) as stop:
        commands.main()
    return stop.value.code or 0


def test_the_installed_command_is_this_main():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["flavr"].partition(":")
    assert getattr(importlib.import_module(module), function) is commands.main


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_every_subcommand(monkeypatch, capsys, arguments):
    assert flavr(monkeypatch, *arguments) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in commands.COMMANDS)


def test_help_does_not_wait_for_jax_or_tyro():
    code = (
        "import sys; sys.argv = ['flavr', '--help']\n"
        "from flavr_jax import commands\n"
        "try: commands.main()\n"
        "except SystemExit: sys.exit(bool({'jax', 'numpy', 'tyro'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_of_interpolate_does_not_wait_for_jax_or_numpy():
    code = (
        "import sys; sys.argv = ['flavr', 'interpolate', '--help']\n"
        "from flavr_jax import commands\n"
        "try: commands.main()\n"
        "except SystemExit: sys.exit(bool({'jax', 'numpy', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "--exact-times" in done.stdout
    assert done.returncode == 0


def test_help_into_a_closed_pipe_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-u", "-m", "flavr_jax", "--help"]
    run = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (run.returncode, run.stderr) == (0, b"")


def test_the_version_is_printed(monkeypatch, capsys):
    assert flavr(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"flavr_jax {flavr_jax.__version__}\n"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("interpolat", "did you mean `flavr interpolate`?"), ("xyz", "`flavr --help` lists them.")],
)
def test_an_unknown_subcommand_is_one_line_with_a_remedy(monkeypatch, capsys, name, remedy):
    assert flavr(monkeypatch, name) == 2
    line = f"error: `flavr` has no subcommand {name!r}; {remedy}\n"
    assert capsys.readouterr().err == line


def test_arguments_reach_the_subcommand(monkeypatch, capsys, tmp_path):
    missing = tmp_path / "none.pth"
    assert flavr(monkeypatch, "convert", str(missing), "--inspect") == 2
    assert capsys.readouterr().err.startswith(f"error: {missing}")


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_a_subcommand_has_options_with_help_and_a_main(name):
    module = importlib.import_module(f"flavr_jax.commands.{name.replace('-', '_')}")
    assert dataclasses.is_dataclass(module.Options)
    assert module.Options.__doc__
    assert not module.Options.__doc__.startswith("Options(")
    assert callable(module.main)


def test_warnings_are_shown_alike_even_if_a_subcommand_imports_jax_at_once(monkeypatch, capsys):
    def load(name):
        logging.basicConfig()  # as absl does when orbax is imported
        return types.SimpleNamespace(main=None, Options=None)

    def warn(main, options):
        logging.getLogger("flavr_jax.video").warning("odd")
        sys.exit()

    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(commands, "load", load)
    monkeypatch.setattr(cli, "run", warn)
    with pytest.raises(SystemExit):
        commands.run("magnify")
    assert capsys.readouterr().err == "warning: odd\n"


@pytest.mark.parametrize("has_gpu", [False, True])
def test_memory_is_kept_on_machines_without_a_gpu(monkeypatch, tmp_path, has_gpu):
    device, kept = tmp_path / "nvidia0", []
    if has_gpu:
        device.touch()
    monkeypatch.setattr(cli, "GPU_DEVICE", device)
    monkeypatch.setattr(commands.allocator, "keep_memory", lambda: kept.append(True))
    monkeypatch.setattr(cli, "run", lambda main, options: sys.exit())
    with pytest.raises(SystemExit):
        commands.run("magnify")
    assert kept == [True] * (not has_gpu)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_the_options_of_a_subcommand_can_be_parsed(monkeypatch, capsys, name):
    assert flavr(monkeypatch, name, "--help") == 0
    assert f"usage: flavr {name} " in capsys.readouterr().out


def test_every_module_with_options_is_a_subcommand():
    # A module without options does the work of a command, and is imported after they are parsed.
    modules = {
        path.stem
        for path in (ROOT / "flavr_jax/commands").glob("*.py")
        if "\nclass Options:" in path.read_text()
    }
    assert modules == {name.replace("-", "_") for name in commands.COMMANDS}


def test_every_subcommand_has_a_script_that_runs_it_and_does_nothing_else():
    ran = []
    for path in (ROOT / "scripts").glob("*.py"):
        if path.stem in OF_THE_TREE:
            continue
        _, imported, guarded = ast.parse(path.read_text()).body
        assert ast.unparse(imported) == "from flavr_jax.commands import run", path
        name = ast.literal_eval(guarded.body[0].value.args[0])
        assert ast.unparse(guarded) == f"if __name__ == '__main__':\n    run({name!r})", path
        assert path.stem in (name.replace("-", "_"), f"{name}_torch"), path
        ran.append(name)
    assert sorted(ran) == sorted(commands.COMMANDS)


def test_a_script_runs_the_subcommand():
    script = ROOT / "scripts" / "convert_torch.py"
    run = subprocess.run(
        [sys.executable, script, "missing.pth"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: missing.pth")


@pytest.mark.parametrize(
    ("words", "completed"),
    [(["eval"], "evaluate"), (["interpolate", "--slow"], "--slow-motion")],
)
def test_bash_completes_subcommands_and_options(bash_script, words, completed):
    script = f"{bash_script}\nCOMP_WORDS=(flavr {' '.join(words)}); COMP_CWORD={len(words)}\n"
    run = subprocess.run(
        ["bash", "-c", script + '_tyro_flavr; echo "${COMPREPLY[@]}"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert completed in run.stdout.split()


def test_tcsh_gets_a_script(monkeypatch, capsys):
    assert flavr(monkeypatch, "completion", "tcsh") == 0
    assert "average-checkpoints" in capsys.readouterr().out


@pytest.fixture(scope="module")
def bash_script():
    command = [sys.executable, "-m", "flavr_jax", "completion", "bash"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
