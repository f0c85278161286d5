# SPDX-License-Identifier: Apache-2.0
"""Options that all layers of a network share, and the parameters and norms made from them."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pallas_kernels import Activation, FeatureMap, Implementation, activate

__all__ = ["LayerOptions", "normalise", "zero_bias"]


@dataclasses.dataclass(frozen=True)
class LayerOptions:
    """Options that all layers of a network share.

    Attributes:
        rngs: source of initial parameters; None leaves them zero, to be replaced.
        batch_norm: whether BatchNorm follows each convolution.
        implementation: see :data:`pallas_kernels.Implementation`.
    """

    rngs: nnx.Rngs | None
    batch_norm: bool = False
    implementation: Implementation | None = None

    @property
    def without_kernel(self) -> Implementation | None:
        """The implementation to name for operations without a Mosaic GPU kernel of their own."""
        return "xla" if self.implementation == "mosaic_gpu" else self.implementation

    def norm(self, channels: int) -> nnx.BatchNorm | None:
        """BatchNorm that uses running statistics until ``model.train()``; None if it is off."""
        if not self.batch_norm:
            return None
        # PyTorch's defaults, as in the official code; its momentum of 0.1 is 0.9 here.
        return nnx.BatchNorm(
            channels,
            use_running_average=True,
            momentum=0.9,
            epsilon=1e-5,
            # nnx wants a source even where the values are replaced.
            rngs=self.rngs or nnx.Rngs(0),
        )

    def kernel(self, *shape: int, gain: float) -> nnx.Param:
        """A normally distributed kernel ``[…, in, out]`` of variance ``gain`` / fan-in.

        NumPy draws it, so that it is the same on every device and nothing is compiled.
        """
        if self.rngs is None:
            return nnx.Param(jnp.zeros(shape))
        # `rngs.params()` gives another key at each call, so that every kernel has a seed of its
        # own.
        generator = np.random.default_rng(np.asarray(jax.random.key_data(self.rngs.params())))
        deviation = math.sqrt(gain / math.prod(shape[:-1]))
        return nnx.Param(jnp.asarray(generator.standard_normal(shape, np.float32) * deviation))


def normalise(
    norm: nnx.BatchNorm | None, x: FeatureMap, activation: Activation = None
) -> FeatureMap:
    """``activation(norm(x))``; without a norm, only the activation."""
    return x.map(lambda v: activate(v if norm is None else norm(v), activation))


def zero_bias(channels: int, use: bool) -> nnx.Param | None:
    """A bias of zeros; None if the layer has none."""
    return nnx.Param(jnp.zeros(channels)) if use else None
