# SPDX-License-Identifier: Apache-2.0
"""Files that travel with the package: checkpoints, the sample clip and the recipes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DEFAULT_CHECKPOINT", "MAGNIFY_CHECKPOINT", "SAMPLE", "bundled", "existing"]

_PACKAGE = Path(__file__).resolve().parent
_IN_WHEEL = _PACKAGE / "_bundled"  # pyproject.toml copies the files there; a source tree has none


def bundled(name: str) -> Path:
    """Return where a file or folder of the source tree is, also in an installed wheel."""
    return (_IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent) / name


def existing(recipe: Path) -> Path:
    """Return the bundled recipe of this name, such as configs/default.toml, if no file has it."""
    found = bundled("configs") / recipe.name
    is_bundled = recipe.parent == Path("configs") and not recipe.exists() and found.exists()
    return found if is_bundled else recipe


DEFAULT_CHECKPOINT = bundled("checkpoints/default")
MAGNIFY_CHECKPOINT = bundled("checkpoints/magnify")
SAMPLE = bundled("docs/media/sample.mp4")
