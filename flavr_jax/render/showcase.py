# SPDX-License-Identifier: Apache-2.0
"""The scene of the bundled clip; its unit of time is a frame of 1/12 s."""

from __future__ import annotations

import math

from flavr_jax.render.scene import Ball, Camera, Ground, Scene, Sky, Sun

__all__ = ["showcase"]

_CREAM = (0.86, 0.80, 0.68)
_CORAL = (0.80, 0.13, 0.08)
_TEAL = (0.02, 0.33, 0.36)
_AMBER = (0.88, 0.47, 0.05)
_NAVY = (0.02, 0.05, 0.20)
_PLUM = (0.30, 0.05, 0.22)
_WHITE = (0.90, 0.90, 0.88)
_LACQUER = 0.05


def showcase() -> Scene:
    """Balls that roll and jump round a mirror, in late sun, seen by a camera that circles them."""
    return Scene(
        balls=(
            Ball((0.0, 0.0, 1.05), 1.05, (_WHITE, _WHITE), reflectance=0.92),
            _roller(2.15, 0.52, (_CORAL, _CREAM), "wedges", phase=0.2),
            _roller(2.15, 0.52, (_TEAL, _WHITE), "bands", phase=0.2 + math.tau / 3),
            _roller(2.15, 0.52, (_AMBER, _NAVY), "dots", phase=0.2 + 2 * math.tau / 3),
        ),
        camera=Camera(
            target=(0.0, 0.0, 0.75),
            azimuth=(-1.2, 0.018),
            elevation=(0.44, 0.002),
            distance=(10.0, -0.02),
            focal=1.75,
        ),
        ground=Ground(((0.50, 0.42, 0.33), (0.10, 0.14, 0.18)), 0.62, 0.03, 0.05, fade=14.0),
        sky=Sky(zenith=(0.32, 0.50, 0.85), horizon=(0.95, 0.85, 0.75)),
        sun=Sun((-0.75, -0.45, 0.85), (2.6, 2.2, 1.7), 0.06),
    )


def _roller(orbit, radius, colours, pattern, *, phase, turn=-0.06):
    return Ball(
        (0.0, 0.0, radius),
        radius,
        colours,
        pattern,
        _LACQUER,
        orbit=orbit,
        turn=turn,
        phase=phase,
    ).rolling()
