# SPDX-License-Identifier: Apache-2.0
"""The mean of a convolution's output, from sums over its input: what a gate needs, ahead of time.

A gate scales each channel by a function of all channels' global means. The mean is linear in the
input: each tap of the kernel sums the whole picture except the rows, columns and frames that it
cannot reach. So it follows from each frame's channel totals, which the kernel that wrote the frame
has added up on the way, and from sums over the frame's border. The gate's scale is then known
before the convolution runs, and goes into its epilogue.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

__all__ = ["mean_of_convolution"]

# Which border row or column a tap leaves out: 0 the last one, 1 none, 2 the first one.
_LEFT_OUT = {1: (1,), 3: (0, 1, 2), 4: (0, 1, 1, 2)}


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
    parts = [_sums(x, total) for x, total in zip(inputs, totals)]
    sums = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)  # [b, t, 3, 3, c]
    sums = jnp.stack([sums[:, :, i] for i in _LEFT_OUT[kh]], axis=2)
    sums = jnp.stack([sums[:, :, :, i] for i in _LEFT_OUT[kw]], axis=3)
    reached = np.array(
        [[0 <= t - tap + kt // 2 < time for t in range(time)] for tap in range(kt)], np.float32
    )
    sums = jnp.einsum("kt,bthwc->bkhwc", reached, sums, precision="highest")
    sums = sums.reshape(batch, kt * kh * kw * depth, 1)
    weights = kernel.reshape(-1, channels).astype(jnp.float32)
    # A sum of products, not a dot: XLA then reads the 16-bit weights once and converts in passing.
    mean = (sums * weights).sum(axis=1) / (time * height * width * phases**2)
    return mean if bias is None else mean + bias.astype(jnp.float32)


def _sums(x: Array, totals: Array) -> Array:
    """Each frame's sums without its last, no or its first row, and likewise columns.

    ``[batch, time, 3, 3, channel]``.
    """
    rows = _ends(x, 2).sum(axis=3, dtype=jnp.float32)  # [b, t, last·none·first, c]
    columns = _ends(x, 3).sum(axis=2, dtype=jnp.float32)
    corners = _ends(_ends(x, 2), 3).astype(jnp.float32)
    return totals[:, :, None, None] - rows[:, :, :, None] - columns[:, :, None] + corners


def _ends(x: Array, axis: int) -> Array:
    """The last slice along an axis, zeros, and the first."""
    size = x.shape[axis]
    first, last = (lax.slice_in_dim(x, index, index + 1, axis=axis) for index in (0, size - 1))
    return jnp.concatenate([last, jnp.zeros_like(first), first], axis=axis)
