# SPDX-License-Identifier: Apache-2.0
"""Convolution of four frames over time on a CPU, with 6 products of frames and taps, not 10.

This is Winograd's F(4, 3) along time (Lavin and Gray 2015, https://arxiv.org/abs/1509.09308).
Frames and taps are treated as polynomials in time and evaluated at six points. Their values are
multiplied, one 2-D convolution per point, and four output frames are interpolated from the
products. Evaluation and interpolation are sums of whole frames. On a CPU these cost little beside
the convolutions; on a GPU, passes over memory cost more than the products that they would save.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pallas_kernels.core import device

__all__ = ["TapsAtPoints", "at_points", "conv_frames", "suits"]

FRAMES, TAPS = 4, 3

# The sixth point is infinity. Magnitudes near 1 keep the powers near 1: over 128 channels the
# relative rounding error of the sums is 9e-7, two thirds of that with the points 0, ±1, ±2. A
# direct convolution has 4e-7.
FINITE_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TapsAtPoints:
    """A kernel's values at the six points; ``shape`` is that of the original kernel.

    Attributes:
        values: an array ``[kh, kw, in_channel, channel]`` for each point.
    """

    values: Any  # not Array: trees of shapes hold other objects in place of arrays

    @property
    def shape(self) -> tuple[int, ...]:
        """``(kt, kh, kw, in_channel, channel)``."""
        return (TAPS, *self.values[0].shape)

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self.values[0].dtype

    @property
    def ndim(self) -> int:
        """Number of axes: 5."""
        return len(self.shape)

    def __getitem__(self, index: tuple[slice, ...]) -> TapsAtPoints:
        """Select a part of the kernel with all its temporal taps; the first slice must be ``:``."""
        assert index[0] == slice(None)
        return TapsAtPoints(tuple(value[index[1:]] for value in self.values))


def suits(frames: int, kernel: Array) -> bool:
    """Return whether :func:`conv_frames` can convolve this many frames and is faster here.

    It needs float32: in half precision the sums and differences would lose several bits.
    """
    # On other devices the saved products cost less than the additional passes over memory.
    fits = frames == FRAMES and kernel.shape[0] == TAPS and kernel.dtype == jnp.float32
    return fits and device.is_cpu()


def at_points(kernel: Array | np.ndarray) -> TapsAtPoints:
    """Evaluate a kernel at the six points."""
    return TapsAtPoints(tuple(jnp.asarray(_combine(taps, kernel)) for taps in TAPS_AT))


def conv_frames(
    inputs: tuple[Array, ...],
    kernel: Array | TapsAtPoints,
    stride: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> Array:
    """3-D convolution of four frames, with one frame of padding in time and the given one in space.

    Raises:
        ValueError: the inputs do not have four frames.
    """
    if inputs[0].shape[1] != FRAMES:
        raise ValueError(
            f"the kernel was packed for {FRAMES} frames, but the inputs have "
            f"{inputs[0].shape[1]}; pack it for that number, or pass it unpacked."
        )
    if not isinstance(kernel, TapsAtPoints):
        kernel = at_points(kernel)
    # One 2-D convolution per point; the points are independent of each other.
    products = [
        lax.conv_general_dilated(
            jnp.concatenate([_combine(frames, jnp.moveaxis(x, 1, 0)) for x in inputs], axis=-1),
            taps,
            stride,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for frames, taps in zip(FRAMES_AT, kernel.values)
    ]
    return jnp.stack([_combine(weights, products) for weights in OUTPUTS_FROM], axis=1)


def _combine(weights: Sequence[float], arrays: Any) -> Any:
    """The weighted sum of the arrays."""
    # Skip multiplications by 0 and 1, which are common at these points.
    terms = [
        array if weight == 1 else weight * array for weight, array in zip(weights, arrays) if weight
    ]
    return sum(terms[1:], start=terms[0])


def _matrices() -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """Weights of the frames and of the taps at each point, and of the products in each output.

    If the rows of V are the powers of time at each point, the product of two polynomials is
    V⁻¹ (V a · V b). A convolution is the transpose of this with respect to a or b.
    """
    size = FRAMES + TAPS - 1

    def powers(count: int) -> np.ndarray:
        values = np.vander(FINITE_POINTS, count, increasing=True)
        return np.vstack([values, np.eye(count)[-1]])  # at infinity: the leading coefficient

    taps, outputs = powers(TAPS), powers(FRAMES).T
    # The first and last of the six frames that four outputs read are padding.
    frames = np.linalg.inv(powers(size)).T[:, 1:-1]
    frames[np.abs(frames) < 1e-12] = 0
    return frames.tolist(), taps.tolist(), outputs.tolist()


FRAMES_AT, TAPS_AT, OUTPUTS_FROM = _matrices()
