# SPDX-License-Identifier: Apache-2.0
"""FLAVR in JAX: video frame interpolation for slow motion and higher frame rates.

>>> import flavr_jax
>>> interpolator = flavr_jax.load()
>>> frames = interpolator(frames, factor=8)  # uint8 [n, h, w, 3] → [(n − 1)·8 + 1, h, w, 3]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flavr_jax.config import ModelConfig
    from flavr_jax.inference.interpolator import Interpolator, load

__all__ = ["Interpolator", "ModelConfig", "__version__", "load"]

__version__ = "0.1.0"

_HOMES = {
    "Interpolator": "flavr_jax.inference.interpolator",
    "ModelConfig": "flavr_jax.config",
    "load": "flavr_jax.inference.interpolator",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``--help`` need not wait for JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return all names of the module, with those that are not imported yet."""
    return sorted({*globals(), *__all__})
