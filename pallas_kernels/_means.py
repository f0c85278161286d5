# SPDX-License-Identifier: Apache-2.0
"""The mean of a convolution's output, from sums over its input: what a gate needs, ahead of time.

A gate scales each channel by a function of all channels' global means. The mean is linear in the
input: each tap of the kernel sums the whole picture except the rows, columns and frames that it
cannot reach. So it follows from each frame's channel totals, which the kernel that wrote the frame
has added up on the way, and from sums over the frame's border. The gate's scale is then known
before the convolution runs, and goes into its epilogue.

All of it is small, and its time is the number of kernels that XLA makes of it: no concatenation,
which would be one of its own, and barriers where fusing would compute things over and over.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

__all__ = ["mean_of_convolution"]

_ROWS_A_SUM = 64  # of weights: enough sums to keep a GPU busy, and few enough to add up


def mean_of_convolution(
    inputs: tuple[Array, ...],
    totals: tuple[Array, ...],
    kernel: Array,
    bias: Array | None,
    *,
    phases: int = 1,
) -> Array:
    """The mean over time, height and width of a convolution (plus bias), without running it.

    Args:
        inputs: ``[batch, time, height, width, channel]``, joined along channels.
        totals: of each input: float32 ``[batch, time, channel]``, sums over height and width.
        kernel: ``[kt, kh, kw, channel, out_channel]`` at stride 1 with zero padding: 1 or 3 taps
            along each axis; for a transposed convolution (``phases`` = 2) 4 in height and width.
        bias: ``[out_channel]``.
        phases: 1, or 2 for a transposed convolution that doubles height and width.

    Returns:
        float32 ``[batch, out_channel]``.
    """
    kt, kh, kw, depth, channels = kernel.shape
    batch, time, height, width, _ = inputs[0].shape
    parts = [_tap_sums(x, total, (kt, kh, kw)) for x, total in zip(inputs, totals)]
    sums = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
    rows = kt * kh * kw * depth
    part = math.gcd(rows, _ROWS_A_SUM)
    sums = lax.optimization_barrier(sums).reshape(batch, rows // part, part, 1)
    weights = kernel.reshape(rows // part, part, channels).astype(jnp.float32)
    # A sum of products, not a dot: XLA then reads the 16-bit weights once and converts in passing.
    products = lax.optimization_barrier((sums * weights).sum(axis=2)).sum(axis=1)
    mean = lax.optimization_barrier(products) / (time * height * width * phases**2)
    return mean if bias is None else mean + bias.astype(jnp.float32)


def _tap_sums(x: Array, totals: Array, size: tuple[int, int, int]) -> Array:
    """The sum of what each tap meets: float32 ``[batch, *size, channel]``."""
    ends = _ends(x, 2)
    corners = _ends(ends, 3).astype(jnp.float32)  # [b, t, first·last, first·last, c]
    rows, columns = lax.optimization_barrier(
        (ends.sum(axis=3, dtype=jnp.float32), _ends(x, 3).sum(axis=2, dtype=jnp.float32))
    )
    reached, left_rows, left_columns = _masks(size, x.shape[1])
    sums = jnp.zeros((), jnp.float32)
    for frame in range(x.shape[1]):
        total = totals[:, frame, None, None]  # [b, 1, 1, c], on the way to [b, kh, kw, c]
        for i in range(2):
            total -= left_rows[i] * rows[:, frame, i, None, None]
            total -= left_columns[i] * columns[:, frame, i, None, None]
            for j in range(2):
                total += left_rows[i] * left_columns[j] * corners[:, frame, i, j, None, None]
        sums += reached[frame] * total[:, None]
    return sums


def _masks(size: tuple[int, int, int], time: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which taps reach a frame, and which leave out the first and the last row and column."""
    kt, kh, kw = size
    reached = np.array(
        [[0 <= t - tap + kt // 2 < time for tap in range(kt)] for t in range(time)], np.float32
    )
    rows, columns = (
        np.array([[tap == k - 1, tap == 0] for tap in range(k)], np.float32).T * (k > 1)
        for k in (kh, kw)
    )
    return (
        reached[:, :, None, None, None],
        rows[:, :, None, None],
        columns[:, None, :, None],
    )


def _ends(x: Array, axis: int) -> Array:
    """The first and the last slice along an axis, as a view of the whole where there are two."""
    size = x.shape[axis]
    if size == 1:
        return jnp.repeat(x, 2, axis=axis)
    return lax.slice_in_dim(x, 0, None, stride=size - 1, axis=axis)
