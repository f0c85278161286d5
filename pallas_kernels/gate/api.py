# SPDX-License-Identifier: Apache-2.0
"""Channel gates computed from global means, without the bottleneck of squeeze-and-excitation.

Kalluri et al. 2020, section 3.2, https://arxiv.org/abs/2012.08512.
"""

from __future__ import annotations

import dataclasses

from jax import Array
from jaxtyping import Float

from pallas_kernels.core import dispatch
from pallas_kernels.core.dispatch import Candidate, Implementation
from pallas_kernels.core.epilogue import Activation
from pallas_kernels.gate import reference

__all__ = ["gate"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateArguments:
    """Arguments of :func:`gate`."""

    x: Float[Array, "batch time height width channel"]
    kernel: Float[Array, "channel channel"]
    bias: Float[Array, " channel"]
    residual: Float[Array, "batch time height width channel"] | None
    activation: Activation

    @property
    def operands(self) -> tuple[Array, Array]:
        """The input and the kernel."""
        return self.x, self.kernel


def _reference(arguments: GateArguments) -> Array:
    return reference.gate(
        arguments.x,
        arguments.kernel,
        arguments.bias,
        residual=arguments.residual,
        activation=arguments.activation,
    )


# XLA compiles the definition to one reduction and one fused pass, which a kernel could not beat. A
# gate that follows a convolution needs no pass of its own in `gated_conv3d`.
IMPLEMENTATIONS: dict[Implementation, Candidate[GateArguments, Array]] = {
    "xla": Candidate(_reference),
    "reference": Candidate(_reference),
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

    The mean is taken per sample and channel over time, height and width, in float32.

    Args:
        x: ``[batch, time, height, width, channel]``.
        kernel: ``[channel, channel]``, maps means to logits of the gates.
        bias: ``[channel]``, added to the logits.
        residual: same shape as ``x``, added after the gate.
        activation: applied last.
        implementation: "xla", "reference" or None; there is no kernel for a gate alone.

    Raises:
        ValueError: the gate has no implementation of that name, such as "mosaic_gpu".
    """
    arguments = GateArguments(
        x=x, kernel=kernel, bias=bias, residual=residual, activation=activation
    )
    return dispatch.call("gate", IMPLEMENTATIONS, implementation, arguments)
