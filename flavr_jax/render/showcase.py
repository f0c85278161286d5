# SPDX-License-Identifier: Apache-2.0
"""The scene of the bundled clip; one unit of time is a frame of 1/12 s."""

from __future__ import annotations

import math

from flavr_jax.render.scene import Ball, Camera, Colour, Ground, Pattern, Scene, Sky, Sun

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
    """Return balls that roll and jump around a mirror in evening sun; the camera circles them."""
    return Scene(
        balls=(
            Ball((0.0, 0.0, 1.0), 1.0, (_WHITE, _WHITE), reflectance=0.9),
            _roller(1.8, 0.52, (_CORAL, _CREAM), "wedges", phase=-0.6),
            _roller(1.8, 0.52, (_TEAL, _CREAM), "bands", phase=-0.6 + math.tau / 3),
            _roller(1.8, 0.52, (_AMBER, _NAVY), "dots", phase=-0.6 + 2 * math.tau / 3),
            # Farther out, in the opposite direction.
            _roller(2.75, 0.38, (_PLUM, _AMBER), "wedges", phase=-3.0, turn=0.05),
            _roller(3.6, 0.55, (_CREAM, _CORAL), "bands", phase=0.6, turn=0.07),
            Ball(
                (2.3, -2.0, 0.34), 0.34, (_CORAL, _CREAM), "dots", _LACQUER, bounce=0.8, period=13.0
            ),
            Ball((-2.75, 1.1, 0.45), 0.45, (_NAVY, _TEAL), "dots", 0.15),
            Ball((-2.6, 4.4, 0.85), 0.85, (_TEAL, _NAVY), "wedges", _LACQUER, roll=0.05),
        ),
        camera=Camera(
            target=(0.0, 0.1, 0.55),
            azimuth=(-1.80, 0.020),
            elevation=(0.47, 0.0),
            distance=(10.0, -0.03),
            focal=2.05,
        ),
        ground=Ground(((0.20, 0.155, 0.12), (0.035, 0.06, 0.075)), 0.62, 0.04, 0.03, fade=16.0),
        sky=Sky(zenith=(0.18, 0.31, 0.57), horizon=(0.68, 0.55, 0.43)),
        sun=Sun((-0.8, -0.35, 0.8), (1.3, 1.05, 0.78), 0.07),
    )


def _roller(
    orbit: float,
    radius: float,
    colours: tuple[Colour, Colour],
    pattern: Pattern,
    *,
    phase: float,
    turn: float = -0.07,
) -> Ball:
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
