# SPDX-License-Identifier: Apache-2.0
"""Print a shell's completion script: ``source <(flavr completion bash)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from flavr_jax import cli, commands


@dataclass(frozen=True)
class Options:
    """Print a script by which a shell completes subcommands and options of flavr.

    Store it where your shell looks, or add `source <(flavr completion bash)` to ~/.bashrc.
    """

    shell: Positional[Literal["bash", "zsh", "fish", "tcsh"]]
    """Shell that will read the script."""


def main(options: Options) -> None:
    """Print the script."""
    kinds = {name: commands.load(name).Options for name in commands.COMMANDS}
    cli.print_completion("flavr", kinds, options.shell)
