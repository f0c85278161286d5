# SPDX-License-Identifier: Apache-2.0
"""FLAVR in JAX: frames between frames, for slow motion and higher frame rates.

>>> import flavr_jax
>>> interpolator = flavr_jax.load()
>>> frames = interpolator(frames, factor=8)  # uint8 [n, h, w, 3] → [(n − 1)·8 + 1, h, w, 3]
"""

from flavr_jax.config import ModelConfig
from flavr_jax.inference.interpolator import Interpolator, load

__all__ = ["Interpolator", "ModelConfig", "load"]
