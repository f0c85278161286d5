# SPDX-License-Identifier: Apache-2.0
"""What a training run knows: parameters, their average, the optimiser's moments, the step.

The parameters are float32; only the forward and backward passes run in bfloat16, whose 8 bits
of precision would swallow most updates. The average is what is evaluated and released.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int, PyTree

__all__ = ["OptimizerConfig", "TrainState", "create", "optimizer", "restore", "save"]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and a cosine to zero.

    Attributes:
        learning_rate: the highest one, after the warm-up.
        warmup_steps: steps over which the learning rate rises from 0.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        weight_decay: decoupled from the gradient.
        clip_norm: gradients longer than this are shortened to it.
        average_decay: of the exponential moving average of the parameters, per step.
    """

    learning_rate: float = 4e-4
    warmup_steps: int = 500
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    average_decay: float = 0.999


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state between two steps; the same on every device."""

    step: Int[Array, ""]
    skipped: Int[Array, ""]  # steps whose gradient was not finite
    params: PyTree[Float[Array, "..."]]
    average: PyTree[Float[Array, "..."]]
    moments: optax.OptState


def optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The update before it is scaled by the learning rate, which the schedule knows."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2),
        optax.add_decayed_weights(config.weight_decay),
    )


def create(params: PyTree[Float[Array, "..."]], config: OptimizerConfig) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=params,
        # A copy: the state is donated to the step, and a buffer can be donated only once.
        average=jax.tree.map(jnp.copy, params),
        moments=optimizer(config).init(params),
    )


def save(path: Path, state: TrainState, *, elapsed: float) -> None:
    """Write the state and the seconds trained so far, atomically, as one uncompressed .npz file."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    arrays: dict[str, Any] = {jax.tree_util.keystr(key): np.asarray(leaf) for key, leaf in leaves}
    partial = path.with_name(f"{path.stem}.partial.npz")
    np.savez(partial, allow_pickle=False, elapsed=np.float64(elapsed), **arrays)
    partial.replace(path)


def restore(path: Path, like: TrainState) -> tuple[TrainState, float]:
    """The state that ``save`` wrote, with the structure of ``like``, and the seconds trained.

    Raises:
        ValueError: when the file holds other arrays than ``like``: another network's state.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    with np.load(path, allow_pickle=False) as stored:
        expected = {jax.tree_util.keystr(key): leaf.shape for key, leaf in leaves}
        found = {name: stored[name].shape for name in stored.files if name != "elapsed"}
        if expected != found:
            differing = sorted(
                name
                for name in {*expected, *found}
                if expected.get(name, "none") != found.get(name, "none")
            )
            raise ValueError(
                f"{path} is the state of another network: {len(differing)} arrays differ, "
                f"{differing[0]} first. Resume with the recipe it was started with."
            )
        arrays = [jnp.asarray(stored[name]) for name in expected]
        return jax.tree.unflatten(structure, arrays), float(stored["elapsed"])
