# SPDX-License-Identifier: Apache-2.0
"""A small path tracer: renders a moving scene at any time, so true in-between frames exist."""

from flavr_jax.render.scene import Ball, Camera, Ground, Pattern, Scene, Sky, Sun
from flavr_jax.render.showcase import showcase
from flavr_jax.render.tracer import radiance, render

__all__ = [
    "Ball",
    "Camera",
    "Ground",
    "Pattern",
    "Scene",
    "Sky",
    "Sun",
    "radiance",
    "render",
    "showcase",
]
