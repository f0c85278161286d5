# SPDX-License-Identifier: Apache-2.0
"""Drawn clips with known in-between frames, for the yardsticks that real footage cannot give."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from flavr_jax.data.sequences import Picture, Pictures

__all__ = ["game", "walker"]

_FINE = 4  # figures are drawn at this scale and reduced, so that they move by fractions of a pixel


def game(count: int = 6) -> tuple[Pictures, Bool[np.ndarray, "height width"]]:
    """Draw a zooming background under a static display, as in a video game.

    Args:
        count: number of frames; the background grows by 4 % from one to the next.

    Returns:
        Frames of 160×256 pixels, and where the display covers the background.
    """
    height, width = 160, 256
    noise = np.random.default_rng(0).integers(64, 193, (40, 64, 3), dtype=np.uint8)
    ground = Image.fromarray(noise).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    display = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(display)
    draw.rectangle((10, 10, 90, 26), fill=(20, 20, 20, 255), outline=(255, 255, 255, 255))
    draw.text((14, 12), "SCORE 012345", fill=(255, 220, 0, 255))
    draw.ellipse((206, 108, 246, 148), outline=(0, 255, 90, 255), width=3)
    draw.line((128, 70, 128, 90), fill=(255, 40, 40, 255), width=1)  # a cross of single pixels
    draw.line((118, 80, 138, 80), fill=(255, 40, 40, 255), width=1)
    for left in range(20, 120, 12):
        draw.rectangle((left, 136, left + 7, 148), fill=(230, 230, 240, 255))
    layer = np.asarray(display)
    covered = layer[..., 3] == 255
    frames = []
    for number in range(count):
        scale = 1.04**-number
        left, top = width * (1 - scale / 2), height * (1 - scale / 2)
        view = (scale, 0, left, 0, scale, top)
        seen = ground.transform(
            (width, height), Image.Transform.AFFINE, view, Image.Resampling.BICUBIC
        )
        frames.append(np.where(covered[..., None], layer[..., :3], np.asarray(seen)))
    return np.stack(frames), covered


def walker(drawing: float) -> Picture:
    """Draw a walking figure of flat colours and black outlines.

    Args:
        drawing: number of the drawing, 12 a cycle; fractions are true in-betweens.

    Returns:
        A frame of 128×192 pixels.
    """
    height, width = 128 * _FINE, 192 * _FINE
    picture = Image.new("RGB", (width, height), (150, 200, 235))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 100 * _FINE, width, height), fill=(120, 175, 90))
    for left in (10.0, 70.0, 140.0):  # trees
        draw.rectangle(_box(left + 8, 60.0, left + 14, 102.0), fill=(110, 75, 50), outline="black")
        draw.ellipse(
            _box(left, 34.0, left + 22, 66.0), fill=(60, 130, 70), outline="black", width=_FINE
        )
    phase = 2 * math.pi * drawing / 12
    hip = np.array([40.0 + 3.0 * drawing, 76.0 - 1.5 * abs(math.cos(phase))])
    neck = hip + np.array([1.5, -26.0])
    shoulder = neck + np.array([0.0, 3.0])
    swing = 0.6 * math.sin(phase)
    for sign in (-1, 1):  # the far limbs first
        _limb(
            draw,
            hip,
            (15.0, sign * swing),
            (14.0, sign * swing - 0.5 * _bent(sign, phase)),
            (40, 60, 150),
        )
        if sign < 0:
            _limb(draw, shoulder, (11.0, swing), (10.0, swing + 0.4), (200, 60, 50))
    _line(draw, [hip, neck], 11.0, (230, 80, 60))
    _limb(draw, shoulder, (11.0, -swing), (10.0, 0.4 - swing), (250, 110, 80))
    x, y = neck - np.array([0.0, 8.0])
    draw.ellipse(
        _box(x - 8, y - 8, x + 8, y + 8), fill=(250, 215, 180), outline="black", width=_FINE
    )
    return np.asarray(picture.resize((width // _FINE, height // _FINE), Image.Resampling.BOX))


def _bent(sign: int, phase: float) -> float:
    """Angle by which a knee is bent; it bends while its leg swings forward."""
    return max(0.0, sign * math.cos(phase))


def _box(left: float, top: float, right: float, bottom: float) -> tuple[float, ...]:
    return tuple(_FINE * each for each in (left, top, right, bottom))


def _limb(
    draw: ImageDraw.ImageDraw,
    start: np.ndarray,
    upper: tuple[float, float],
    lower: tuple[float, float],
    colour: tuple[int, int, int],
) -> None:
    """Draw two segments, each with a length and an angle from straight down, towards the right."""
    points = [start]
    for length, angle in (upper, lower):
        points.append(points[-1] + length * np.array([math.sin(angle), math.cos(angle)]))
    _line(draw, points, 6.0, colour)


def _line(
    draw: ImageDraw.ImageDraw,
    points: list[np.ndarray],
    thickness: float,
    colour: tuple[int, int, int],
) -> None:
    """Draw a thick line with round ends and joints, and a black outline one pixel wide."""
    for fill, half in (("black", thickness / 2 + 1.0), (colour, thickness / 2)):
        path = [tuple(_FINE * point) for point in points]
        draw.line(path, fill=fill, width=round(2 * half * _FINE))
        for x, y in points:
            draw.ellipse(_box(x - half, y - half, x + half, y + half), fill=fill)
