# SPDX-License-Identifier: Apache-2.0
"""Pixels that stand still, such as those of captions and displays, which must not be warped."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from flavr_jax.models.layers import enlarge
from flavr_jax.models.maps import reduce
from flavr_jax.typing import Windows

__all__ = ["standing"]

_NOTICEABLE = 4 / 255  # change of a colour that counts half
_CELL = 8  # side of the cells, in pixels, in which changes around a pixel are averaged
_AROUND = 3  # cells on either side of that of the pixel


def standing(windows: Windows) -> Float[Array, "batch 1 height width 1"]:
    """The degree, from 0 to 1, to which each pixel stands still and should be kept.

    It has to have the same colour in all frames of the window, and the picture within 28 pixels of
    it has to move: then it belongs to something that lies over the picture. Or nothing may move
    there. In between, it may be a background that a small object passes, such as a ball, which the
    network has to decide.
    """
    # Small changes count more: one of 4 levels of 255 is 0.5, one of 36 is 0.9.
    change = (windows.max(axis=1) - windows.min(axis=1)).max(axis=-1)[:, None, ..., None]
    change = change / (change + _NOTICEABLE)
    around, side = reduce(change, _CELL), 2 * _AROUND + 1
    for axis in (2, 3):
        length, ends = around.shape[axis], [(_AROUND * (each == axis),) * 2 for each in range(5)]
        padded = jnp.pad(around, ends, mode="edge")
        near = (lax.slice_in_dim(padded, n, n + length, axis=axis) for n in range(side))
        around = sum(near, jnp.zeros(())) / side
    around = enlarge(around, _CELL)
    moving = jnp.clip((around - 0.15) / (0.35 - 0.15), 0.0, 1.0)
    same = (1.0 - change) * (1.0 - change)
    return same * same * jnp.where(around < 0.002, 1.0, moving)
