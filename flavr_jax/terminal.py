# SPDX-License-Identifier: Apache-2.0
"""Text on terminals of any encoding, in logs, and in pipes that nobody reads any more.

Names of files and tensors come from strangers. Shown as they are, they could move the cursor,
rename the window, or fill the screen; ``printable`` makes one short line of them.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

__all__ = ["MESSAGE_LIMIT", "harmless_outputs", "lasting_outputs", "printable"]

MESSAGE_LIMIT = 2000
"""Most characters of an error message, about 25 lines of a terminal."""

_ERRORS = "flavr_jax.plain"
_CONTROL = re.compile(r"\x1b\[[0-9;]*m|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_PLAIN = str.maketrans({
    "×": "x", "–": "-", "−": "-", "…": "...", "·": ".", "→": "->", "≤": "<=", "≥": ">=", "±": "+-",
    "‘": "'", "’": "'", "“": '"', "”": '"', "≈": "~", "°": " deg", "µ": "u", "²": "^2",
    "─": "-", "━": "-", "│": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "•": "*",
})  # fmt: skip


def printable(text: object, limit: int = MESSAGE_LIMIT) -> str:
    r"""Return ``text`` as one line without control characters, of about ``limit`` characters.

    Control characters, among them terminal escapes and marks that reverse the writing direction,
    are shown as Python spells them, such as ``\x1b``. A long text loses its middle.
    """
    whole = str(text)
    if len(whole) > limit:
        head = limit * 2 // 3
        whole = f"{whole[:head]} … {whole[head - limit :]} ({len(whole):,} characters)"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in " ".join(whole.split())
    )


@contextlib.contextmanager
def lasting_outputs() -> Iterator[None]:
    """Let ``sys.stdout`` and ``sys.stderr`` take any text, also after their reader has gone.

    Inside, characters that the terminal's encoding lacks are replaced by plain ones (``x`` for
    ``×``) or escapes. What is written to a closed pipe or a vanished terminal is dropped, because
    a run of hours must not fail at a line of progress. For ``sys.stderr`` this holds for every
    error; a full disk still fails for ``sys.stdout``, which carries results.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)
    if sys.stdout is not None:
        sys.stdout = cast(TextIO, _Lasting(sys.stdout, (errno.EPIPE, errno.EIO)))
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, _Lasting(sys.stderr))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def harmless_outputs() -> Iterator[None]:
    """Escape control characters in what is written to ``sys.stdout`` and ``sys.stderr``.

    Colours stay. Messages of libraries repeat arguments as they are, which may move the cursor.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Harmless(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Harmless:
    """A text stream without control characters, except new lines and colours."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_CONTROL.sub(_escaped, text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _escaped(match: re.Match[str]) -> str:
    """Spell a control character as Python does; leave a colour as it is."""
    return match[0] if len(match[0]) > 1 else match[0].encode("unicode_escape").decode()


class _Lasting:
    """A text stream that drops what cannot be written for one of the ``expected`` reasons."""

    def __init__(self, stream: Any, expected: tuple[int, ...] | None = None) -> None:
        self._stream, self._expected = stream, expected

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if self._expected is not None and error.errno not in self._expected:
            raise error
        # The descriptor itself is redirected: at exit Python flushes what is still buffered.
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Plain characters or escapes for what an encoding lacks; an error handler of ``codecs``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].translate(_PLAIN)
    return lacking.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error(_ERRORS, _replace)
