# SPDX-License-Identifier: Apache-2.0
"""What a training run knows between two steps.

The parameters are float32; only the forward and backward passes run in bfloat16, whose 8 bits
of precision would swallow most updates. The average is what is evaluated and released.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from flavr_jax.training.optimizers import OptimizerConfig, optimizer

__all__ = ["TrainState", "create"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The same on every device; all that the next step depends on, but for data read from disk.

    Leaves are arrays, on the host or on devices; they carry no annotation, because JAX also looks
    at trees that hold something else in their place.

    Attributes:
        step: int32, steps so far.
        skipped: int32, steps whose gradient was not finite.
        skipped_in_a_row: int32, such steps up to now.
        key: uint32 data of the key of all that is random; not a typed key, to be saved.
        params: float32, as :func:`flavr_jax.models.flavr.init` names them.
        average: their moving average.
        moments: what the optimiser keeps.
    """

    step: Any
    skipped: Any
    skipped_in_a_row: Any
    key: Any
    params: Any
    average: Any
    moments: optax.OptState


def create(params: PyTree, config: OptimizerConfig, seed: int) -> TrainState:
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
