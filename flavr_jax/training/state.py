# SPDX-License-Identifier: Apache-2.0
"""State of a training run between two steps.

Parameters are float32: bfloat16 has 8 bits of precision, and most updates would be rounded away.
Only the forward and backward passes run in bfloat16. Evaluations and released checkpoints use the
average of the parameters.
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
    """All values that the next step depends on, except data from disk; equal on all devices.

    Leaves are arrays, on the host or on devices. They are annotated as ``Any`` because JAX also
    builds trees of this type that hold shapes or shardings.

    Attributes:
        step: int32 number of steps so far.
        skipped: int32 number of steps skipped because their gradient was not finite.
        skipped_in_a_row: int32 number of skipped steps since the last that was not skipped.
        key: uint32 data of the run's random key, because typed keys cannot be saved.
        params: float32 parameters, as :func:`flavr_jax.models.flavr.init` names them.
        average: exponential moving average of the parameters.
        moments: the optimiser's state.
    """

    step: Any
    skipped: Any
    skipped_in_a_row: Any
    key: Any
    params: Any
    average: Any
    moments: optax.OptState


def create(params: PyTree, config: OptimizerConfig, seed: int) -> TrainState:
    """Return the state before the first step."""
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
