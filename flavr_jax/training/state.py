# SPDX-License-Identifier: Apache-2.0
"""What a training run knows between two steps.

The parameters are float32; only the forward and backward passes run in bfloat16, whose 8 bits
of precision would swallow most updates. The average is what is evaluated and released.
"""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int, PyTree, UInt32

from flavr_jax.training.optimizers import OptimizerConfig, optimizer

__all__ = ["TrainState", "create"]

Arrays: TypeAlias = Array | np.ndarray  # on devices or on the host


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The same on every device; all that the next step depends on, but for data read from disk."""

    step: Int[Arrays, ""]
    skipped: Int[Arrays, ""]  # steps whose gradient was not finite
    skipped_in_a_row: Int[Arrays, ""]
    key: UInt32[Arrays, "words"]  # of all that is random; data rather than a typed key, to be saved
    params: PyTree[Float[Arrays, "..."]]
    average: PyTree[Float[Arrays, "..."]]
    moments: optax.OptState


def create(params: PyTree[Float[Arrays, "..."]], config: OptimizerConfig, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(jax.random.key(seed)),
        params=params,
        # A copy: the state is donated to the step, and a buffer can be donated only once.
        average=jax.tree.map(jnp.copy, params),
        moments=optimizer(config).init(params),
    )
