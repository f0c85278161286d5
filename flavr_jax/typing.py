# SPDX-License-Identifier: Apache-2.0
"""Names of array axes, and the array types used throughout.

Axes, always in this order, channels last:

* ``batch``: independent samples;
* ``time``: frames of a clip, or the input frames of one window;
* ``height``, ``width``: pixels;
* ``channel``: features, or red, green, blue.

An axis whose name starts with an underscore may have different sizes in the arguments and results
of one function.

Inside the network, colours are float RGB in [0, 1]. Outside it, frames are RGB or RGBA with
straight (not premultiplied) alpha: uint8, or uint16 over its full range if the source has more than
8 bits.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jax import Array
from jaxtyping import Float, UInt8, UInt16

__all__ = ["Frame", "Frames", "Images", "Windows"]

Windows: TypeAlias = Float[Array, "batch _time height width 3"]
"""Float RGB frames at consecutive times, inputs in [0, 1]: inputs and outputs of the network."""

Images: TypeAlias = Float[Array, "batch _height _width _channel"]
"""Activations of the 2-D part of the network."""

Frame: TypeAlias = (
    UInt8[np.ndarray, "height width _channel"] | UInt16[np.ndarray, "height width _channel"]
)
"""One video frame on the host: 3 (RGB) or 4 (RGBA) channels over the full range of the type."""

Frames: TypeAlias = (
    UInt8[np.ndarray, "_time height width _channel"]
    | UInt16[np.ndarray, "_time height width _channel"]
)
"""Consecutive video frames on the host, each as in :data:`Frame`."""
