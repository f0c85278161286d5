# SPDX-License-Identifier: Apache-2.0
"""A small path tracer: renders a moving scene at any time, so true in-between frames exist."""

from flavr_jax.render.scene import (
    Camera,
    Environment,
    Material,
    Object,
    Scene,
    Sun,
    load,
    shipped,
)
from flavr_jax.render.tracer import Image, Renderer, tone_map

__all__ = [
    "Camera",
    "Environment",
    "Image",
    "Material",
    "Object",
    "Renderer",
    "Scene",
    "Sun",
    "load",
    "shipped",
    "tone_map",
]
