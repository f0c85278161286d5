# SPDX-License-Identifier: Apache-2.0
"""Commands that install optional dependencies, for error messages."""

from __future__ import annotations

import shlex
from pathlib import Path

__all__ = ["install_command"]

_ROOT = Path(__file__).resolve().parent.parent


def install_command(extra: str) -> str:
    """Return the command that installs an extra of ``pyproject.toml``.

    A source tree is installed by its folder: pip would look for ``flavr-jax`` in an index, and
    replace an editable installation by what it finds there.
    """
    if (_ROOT / "pyproject.toml").is_file():
        return f"pip install -e {shlex.quote(f'{_ROOT}[{extra}]')}"
    return f"pip install 'flavr-jax[{extra}]'"
