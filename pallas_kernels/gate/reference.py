# SPDX-License-Identifier: Apache-2.0
"""The definition of the gate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from pallas_kernels.core.epilogue import Activation, finish

__all__ = ["gate", "gate_scale"]


def gate_scale(
    mean: Float[Array, "batch channel"],
    kernel: Float[Array, "channel channel"],
    bias: Float[Array, " channel"],
) -> Float32[Array, "batch channel"]:
    """The gate's scale from the channels' means, in float32."""
    mean, kernel, bias = (a.astype(jnp.float32) for a in (mean, kernel, bias))
    return jax.nn.sigmoid(jnp.matmul(mean, kernel, precision="highest") + bias)


def gate(
    x: Float[Array, "batch *size channel"],
    kernel: Float[Array, "channel channel"],
    bias: Float[Array, " channel"],
    *,
    residual: Float[Array, "batch *size channel"] | None = None,
    activation: Activation = None,
) -> Float[Array, "batch *size channel"]:
    """See :func:`pallas_kernels.gate`."""
    # A 16-bit sum over a whole frame would stop growing long before its end.
    mean = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)
    # The sigmoid is computed in float32, its product with x in the dtype of x.
    scale = gate_scale(mean, kernel, bias).astype(x.dtype)
    return finish(x, scale=scale, residual=residual, activation=activation)
