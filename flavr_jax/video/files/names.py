# SPDX-License-Identifier: Apache-2.0
"""File names as FFmpeg takes them.

FFmpeg takes a name with a colon for an address: ``12:30.mp4`` would need a protocol named 12, and
``concat:x`` would read other files. Behind ``file:`` every name is the name of a file.
"""

from __future__ import annotations

import stat
from pathlib import Path

__all__ = ["ONE_FILE", "PIPE", "file_url", "is_pipe"]

PIPE = Path("-")
"""Standard input."""
ONE_FILE = {"pattern_type": "none"}
"""FFmpeg's option for images: ``a%03d.png`` is one file and not a numbered sequence."""


def file_url(path: str | Path) -> str:
    """The address of a file for FFmpeg."""
    return f"file:{path}"


def is_pipe(path: Path) -> bool:
    """True for what can be read only once: ``-``, a named pipe, a device, /dev/stdin of a pipe."""
    if path == PIPE:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
