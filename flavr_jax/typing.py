# SPDX-License-Identifier: Apache-2.0
"""The axis glossary and the array aliases used throughout.

Axes, always in this order and always channels-last:

* ``batch``: independent samples;
* ``time``: frames of a clip, or the input frames of one window;
* ``height``, ``width``: pixels;
* ``channel``: features, or red, green, blue.

A name with a leading underscore may differ between the arguments and results of one function.

Inside the network colours are float RGB in [0, 1]; outside it, frames are RGB or RGBA (straight
alpha, not premultiplied) in uint8, or in uint16 over its full range where a source has more than
8 bits.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jax import Array
from jaxtyping import Float, UInt8, UInt16

__all__ = ["Frame", "Frames", "Images", "Windows"]

Windows: TypeAlias = Float[Array, "batch _time height width 3"]
"""Float RGB frames in [0, 1] at consecutive times, as the network reads and predicts them."""

Images: TypeAlias = Float[Array, "batch _height _width _channel"]
"""Activations of the 2-D part of the network."""

Frame: TypeAlias = (
    UInt8[np.ndarray, "height width _channel"] | UInt16[np.ndarray, "height width _channel"]
)
"""One video frame on the host: 3 (RGB) or 4 (RGBA) channels over the type's full range."""

Frames: TypeAlias = (
    UInt8[np.ndarray, "_time height width _channel"]
    | UInt16[np.ndarray, "_time height width _channel"]
)
"""Consecutive video frames on the host, each as in :data:`Frame`."""
