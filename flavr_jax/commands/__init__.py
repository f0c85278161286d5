# SPDX-License-Identifier: Apache-2.0
"""The command ``flavr``. Every subcommand is a module with ``Options`` and ``main(options)``.

``scripts/`` has a file for each of them, which runs the same code in a source tree. Only the
module of the subcommand is imported, so that ``flavr --help`` need not wait for JAX.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from types import ModuleType
from typing import NoReturn

import flavr_jax
from flavr_jax import allocator
from flavr_jax.terminal import lasting_outputs

__all__ = ["COMMANDS", "load", "main", "run"]

COMMANDS = {
    "interpolate": "make a video smoother or slower",
    "farm": "interpolate videos on the machines of a Ray cluster",
    "serve": "serve a web page that interpolates uploaded videos",
    "convert": "convert PyTorch weights into a checkpoint",
    "evaluate": "score a checkpoint and the baselines on data sets",
    "compare-peers": "score and time a checkpoint beside RIFE",
    "yardsticks": "measure known weak points of a checkpoint",
    "blind-sheet": "compare two methods side by side, without labels",
    "train": "train a network from a recipe",
    "quantize": "calibrate a checkpoint for 8 bits",
    "export": "write a network as one file that runs without flavr_jax",
    "average-checkpoints": "average the parameters of checkpoints",
    "classify": "name the actions in clips",
    "label-efficiency": "measure what pretraining is worth for recognition",
    "magnify": "magnify small motion in a clip",
    "evaluate-magnification": "score motion magnification on synthetic clips",
    "prepare-data": "pack a data set for training",
    "tune": "search for settings of a recipe",
    "render": "render a scene by path tracing",
    "send": "send one frame in K of a clip over a network",
    "receive": "receive a clip and restore its dropped frames live",
    "rate-distortion": "measure what sending fewer frames saves",
    "benchmark": "time the network, also beside PyTorch",
    "benchmark-video": "time whole runs, stage by stage",
    "benchmark-data": "measure training windows per second from each source",
    "benchmark-training": "time training steps",
    "evaluate-cuts": "measure precision and recall of cut detection",
    "check-kernels": "compile the GPU kernels and report what would make them slow",
    "tune-kernels": "measure tile sizes of the GPU kernels",
    "doctor": "say what this installation can do and what is wrong with it",
    "completion": "print a script that completes commands in your shell",
}
"""Subcommands and what they do. The module has the same name, with underscores."""


def main() -> NoReturn:
    """Run the subcommand that the command line names, and exit."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        sys.argv = [f"flavr {name}", *arguments]
        run(name)
    with lasting_outputs():
        sys.exit(_answer(name))


def _answer(name: str) -> int:
    """Answer a word that is no subcommand; return the exit code."""
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(f"flavr_jax {flavr_jax.__version__}")
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        remedy = f"did you mean `flavr {close[0]}`?" if close else "`flavr --help` lists them."
        print(f"error: `flavr` has no subcommand {name!r}; {remedy}", file=sys.stderr)
        return 2
    return 0


def run(name: str) -> NoReturn:
    """Run a subcommand with the arguments in ``sys.argv[1:]``, and exit."""
    from flavr_jax import cli  # imports tyro, which `flavr --help` does not need

    if not cli.GPU_DEVICE.exists():  # there, the large arrays are the GPU's
        allocator.keep_memory()
    cli.show_logs()
    module = load(name)
    cli.run(module.main, module.Options)


def load(name: str) -> ModuleType:
    """Import the module of a subcommand."""
    return importlib.import_module(f"flavr_jax.commands.{name.replace('-', '_')}")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: flavr COMMAND [OPTIONS]",
            "",
            "FLAVR video frame interpolation in JAX.",
            "",
            *lines,
            "",
            "`flavr COMMAND --help` shows a command's options; `flavr --version` the version.",
        ]
    )
