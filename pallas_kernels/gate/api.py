# SPDX-License-Identifier: Apache-2.0
"""Channel gating by global statistics, without the bottleneck of squeeze-and-excitation.

Kalluri et al. 2020, section 3.2, https://arxiv.org/abs/2012.08512.
"""

from __future__ import annotations

from jax import Array
from jaxtyping import Float

from pallas_kernels.core import dispatch
from pallas_kernels.core.dispatch import Candidate, Implementation, Implementations
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.gate import reference

__all__ = ["gate"]

# One reduction and one fused pass is already what XLA makes of the definition. A gate after a
# convolution costs no pass at all in `gated_conv3d`.
IMPLEMENTATIONS: Implementations = {
    "xla": Candidate(reference.gate),
    "reference": Candidate(reference.gate),
}


def gate(
    x: Float[Array, "batch time height width channel"],
    kernel: Float[Array, "channel channel"],
    bias: Float[Array, " channel"],
    *,
    residual: Float[Array, "batch time height width channel"] | None = None,
    activation: Activation = None,
    implementation: Implementation | None = None,
) -> Float[Array, "batch time height width channel"]:
    """``activation(x · sigmoid(mean(x) @ kernel + bias) + residual)``.

    The mean is taken per sample and channel over time, height and width, in float32. Mosaic GPU
    kernels fuse the gate into the convolution before it; alone it runs on XLA, also where they
    were asked for.
    """
    name = "xla" if implementation == "mosaic_gpu" else implementation
    return dispatch.call("gate", IMPLEMENTATIONS, name, x, kernel, bias, residual, activation)
