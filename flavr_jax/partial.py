# SPDX-License-Identifier: Apache-2.0
"""Output files and folders that appear under their final name only when they are complete.

An output is written under a temporary name beside its target and renamed at the end, so an
interrupted run never leaves a broken file that looks whole. The temporary name is created
exclusively: if it is taken, another random name is tried. Cleaning up therefore removes only what
this process created, and two runs with the same target never write into the same file.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = [
    "MARK",
    "Partial",
    "check_files",
    "check_target",
    "is_partial",
    "locked",
    "name_beside",
    "partial_name",
    "written_whole",
]

logger = logging.getLogger(__name__)

MARK = ".partial-"
"""What follows the target's name in that of a partial output."""

_DRAWS = 100
_NAME_MAX = 255  # bytes; also the limit if the system does not report one
_LONGEST_SUFFIX = 32  # bytes; what follows the dot in a longer one is part of the name


class Partial:
    """A file or folder under a temporary name.

    Leaving the ``with`` block renames it to its target, or removes it after an error.

    Attributes:
        path: where to write.
        target: the final path, with symbolic links resolved.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        overwrite: bool = False,
        folder: bool = False,
        ours: Callable[[Path], bool] | None = None,
        existing: Path | None = None,
    ) -> None:
        """Create an empty file or folder beside ``target``, and the folders above it.

        Args:
            target: the final path.
            overwrite: whether ``target`` may exist; an existing empty folder is always accepted.
            folder: create a folder instead of a file.
            ours: returns True for entries of an existing folder that this project writes. They are
                removed when the folder is replaced; all other entries are moved into the new
                folder. A folder without any entry of ours is not replaced.
            existing: path of an earlier partial output to go on with, instead of an empty one.

        Raises:
            OSError: ``target`` exists and may not be replaced, or nothing can be written there.
        """
        self._overwrite, self._folder = overwrite, folder
        self._ours = ours or (lambda entry: False)
        check_target(Path(target), overwrite, folder, self._ours)
        self.target = Path(os.path.realpath(target))
        self._mine = False
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.path = existing or _create(self.target, folder)
        except OSError as error:
            raise OSError(f"{target} cannot be written: {error.strerror}.") from error
        self._mine = True

    def commit(self, content: Path | None = None) -> None:
        """Rename the result to its target.

        Args:
            content: the file or folder inside ``path`` to rename, if ``path`` is a working folder;
                by default ``path`` itself.

        Raises:
            OSError: the rename failed, for instance because another run created the target
                meanwhile. The result is kept, and the message gives its path.
        """
        source = content or self.path
        try:
            if not self._folder:
                _name_file(source, self.target, self._overwrite)
            elif self._overwrite and self.target.is_dir() and any(self.target.iterdir()):
                _replace_folder(source, self.target, self._ours)
            else:
                _name_folder(source, self.target)
        except OSError as error:
            self._mine = False
            reason = error.strerror or str(error)
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                reason = "it exists by now"
            raise OSError(
                f"{self.target} cannot take its name: {reason}. The result is kept as {source}."
            ) from error
        if content is None:
            self._mine = False
        self.discard()

    def keep(self) -> Path:
        """Keep the output under its temporary name, and return that path."""
        self._mine = False
        return self.path

    def discard(self) -> None:
        """Remove the output, unless it was renamed or kept."""
        if not self._mine:
            return
        self._mine = False
        if self._folder:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._mine:
            self.commit()
        self.discard()


@contextlib.contextmanager
def written_whole(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write a file to; ``path`` appears when the block ends.

    Raises:
        OSError: ``path`` cannot be written, or exists without ``overwrite``.
    """
    with Partial(path, overwrite=overwrite) as partial:
        yield partial.path


def check_files(*paths: Path | None, overwrite: bool = True) -> None:
    """Refuse outputs of :func:`written_whole` before the work for them begins; None is no output.

    Raises:
        OSError: a path is a folder, a device or a pipe, or it exists without ``overwrite``.
    """
    for path in paths:
        if path is not None:
            check_target(path, overwrite, False, lambda entry: False)


def partial_name(target: Path) -> str:
    """Return a random name that begins with the target's name and ends with its suffix.

    FFmpeg and other writers choose the format by the suffix.
    """
    suffix = _suffix(target)
    return name_beside(target, f"{MARK}{secrets.token_hex(4)}{suffix}")


def name_beside(target: Path, end: str) -> str:
    """Return the target's name with ``end`` in place of its suffix.

    The beginning is shortened if the name would exceed the file system's limit.
    """
    room = _longest_name(target.parent) - len(os.fsencode(end))
    stem = target.name.removesuffix(_suffix(target))
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return stem + end


def is_partial(path: Path, target: Path) -> bool:
    """Return whether a path has a name that a partial output of ``target`` can have."""
    _, mark, rest = path.name.rpartition(MARK)
    return bool(mark) and path == target.with_name(name_beside(target, mark + rest))


def locked(folder: Path) -> int | None:
    """Lock a folder until this process ends; None if another process has it locked.

    The result is to be closed; it is -1 where locks are not supported.
    """
    if fcntl is None:
        return -1
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # some network drives
        os.close(descriptor)
        return -1
    return descriptor


def _suffix(target: Path) -> str:
    return target.suffix if len(os.fsencode(target.suffix)) <= _LONGEST_SUFFIX else ""


def _longest_name(folder: Path) -> int:
    """Return the greatest length of a name in this folder, in bytes."""
    try:
        return min(os.pathconf(folder, "PC_NAME_MAX"), _NAME_MAX)
    except (OSError, ValueError, AttributeError):  # Windows has no pathconf
        return _NAME_MAX


def check_target(path: Path, overwrite: bool, folder: bool, ours: Callable[[Path], bool]) -> None:
    """Raise an OSError if ``path`` exists and may not be replaced; arguments as of ``Partial``."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # usually nothing is there; anything else fails when the partial file is created
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FileExistsError(
            f"{path} is a device or a pipe, which a file cannot replace. Use another name."
        )
    if stat.S_ISDIR(mode) != folder:
        raise FileExistsError(f"{path} is a {'file' if folder else 'folder'}. Use another name.")
    content = list(path.iterdir()) if folder else [path]
    if content and not overwrite:
        raise FileExistsError(f"{path} exists. Use --overwrite or another --output.")
    if folder and content and not any(map(ours, content)):
        raise FileExistsError(
            f"{path} holds {content[0].name} and nothing that this program wrote, so that it is "
            "never replaced. Use another name."
        )


def _create(target: Path, folder: bool) -> Path:
    """Create an empty file or folder under an unused name, and return its path."""
    for draw in range(_DRAWS):
        path = target.with_name(partial_name(target))
        try:
            if folder:
                path.mkdir()
            else:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            if draw == _DRAWS - 1:
                raise
            continue
        return path
    raise AssertionError("the loop returns or raises")


def _name_file(source: Path, target: Path, overwrite: bool) -> None:
    """Rename a file; without ``overwrite``, raise an error if the target exists."""
    if overwrite:
        source.replace(target)
        return
    # On POSIX, rename() silently replaces an existing file; link() fails instead.
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # FAT and some network drives have no hard links
        # Reserve the name with an empty file; O_EXCL fails if the name exists.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            source.replace(target)
        except OSError:
            target.unlink()
            raise
    else:
        source.unlink()


def _name_folder(source: Path, target: Path) -> None:
    """Rename a folder to a target that does not exist or is an empty folder."""
    if os.name == "nt" and target.is_dir():
        target.rmdir()  # POSIX replaces an empty folder; Windows replaces none
    source.rename(target)


def _replace_folder(source: Path, target: Path, ours: Callable[[Path], bool]) -> None:
    """Replace a folder by another; entries of the old one that are not ours move into the new."""
    aside = _create(target, folder=True)
    old = aside / "old"
    target.rename(old)
    try:
        source.rename(target)
    except OSError:
        # The new folder could not take the name: give it back to the old one.
        old.rename(target)
        aside.rmdir()
        raise
    entries = [(entry, ours(entry)) for entry in old.iterdir()]
    for entry, removable in entries:
        if not removable:
            if os.path.lexists(target / entry.name):
                continue  # it stays in `old`, which the warning below names
            entry.rename(target / entry.name)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    try:
        old.rmdir()
        aside.rmdir()
    except OSError:
        logger.warning("%s: files of the folder that it replaces are in %s.", target, old)
