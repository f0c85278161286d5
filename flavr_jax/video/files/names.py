# SPDX-License-Identifier: Apache-2.0
"""File names in the form that FFmpeg needs.

FFmpeg takes a name with a colon for a URL: ``12:30.mp4`` would need a protocol named 12, and
``concat:x`` would read other files. After the prefix ``file:``, every name is a file name.
"""

from __future__ import annotations

import stat
from pathlib import Path

__all__ = ["NULL", "ONE_FILE", "PIPE", "file_url", "is_pipe"]

PIPE = Path("-")
"""Standard input."""
NULL = "null:"
"""Name of an output that nothing is written to."""
ONE_FILE = {"pattern_type": "none"}
"""FFmpeg's option for images that makes ``a%03d.png`` one file, not a numbered sequence."""


def file_url(path: str | Path) -> str:
    """Return the URL of a file for FFmpeg."""
    return f"file:{path}"


def is_pipe(path: Path) -> bool:
    """Return whether an input can be read only once.

    True for ``-``, a named pipe, a device, and ``/dev/stdin`` if that is a pipe.
    """
    if path == PIPE:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
