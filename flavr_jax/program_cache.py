# SPDX-License-Identifier: Apache-2.0
"""JAX's compilation cache, which keeps compiled programs between runs.

Compiling the network takes seconds to minutes, and longer than that for its gradient on a CPU. With
the cache, only the first run pays: a training that is resumed loads the step that was compiled
when it began.
"""

from __future__ import annotations

import os
from pathlib import Path

import jax

__all__ = ["enable"]


def enable() -> None:
    """Keep compiled programs under ``~/.cache/flavr_jax``, unless the user chose a folder.

    The user's choice is ``JAX_COMPILATION_CACHE_DIR``; ``XDG_CACHE_HOME`` takes the place of
    ``~/.cache``. Without either, a user without a home directory has no cache.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    root = os.environ.get("XDG_CACHE_HOME")
    if not root:
        try:
            root = Path.home() / ".cache"
        except RuntimeError:  # neither HOME nor an entry in the password database
            return
    jax.config.update("jax_compilation_cache_dir", str(Path(root) / "flavr_jax" / "compiled"))
