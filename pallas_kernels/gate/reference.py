# SPDX-License-Identifier: Apache-2.0
"""The definition of the gate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from pallas_kernels.core.epilogue import Activation, finish

__all__ = ["gate", "gate_scale"]


def gate_scale(mean: Array, kernel: Array, bias: Array) -> Array:
    """The gate's factors ``[batch, channel]`` from the channels' means, in float32."""
    mean, kernel, bias = (a.astype(jnp.float32) for a in (mean, kernel, bias))
    return jax.nn.sigmoid(jnp.matmul(mean, kernel, precision="highest") + bias)


def gate(
    x: Array, kernel: Array, bias: Array, residual: Array | None, activation: Activation
) -> Array:
    """See :func:`pallas_kernels.gate`."""
    mean = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)
    scale = gate_scale(mean, kernel, bias).astype(x.dtype)
    return finish(x, scale=scale, residual=residual, activation=activation)
