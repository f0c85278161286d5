# SPDX-License-Identifier: Apache-2.0
"""One training step, written for one device and mapped over all of them.

Every device draws its own windows from the step's number and its own key, so that a step depends
on the state alone and a resumed run goes on where it stopped. Gradients are averaged, and every
device applies the same update to its copy of the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Key, PyTree

from flavr_jax import losses
from flavr_jax.config import ModelConfig
from flavr_jax.data import mixture
from flavr_jax.models import flavr
from flavr_jax.training.state import OptimizerConfig, TrainState, optimizer

__all__ = ["Step", "make_step", "replicate"]

Metrics: TypeAlias = dict[str, Float[Array, ""]]
Step: TypeAlias = Callable[
    [TrainState, Float[Array, ""], mixture.RealClips | None, Key[Array, " devices"]],
    tuple[TrainState, Metrics],
]

_AXIS = "data"


def make_step(
    model: ModelConfig, mix: mixture.MixtureConfig, optimization: OptimizerConfig
) -> Step:
    """The step over all local devices: (state, learning rate, clips, key per device) → next state.

    The state is donated. Place state and clips with ``replicate`` first.
    """
    update_rule = optimizer(optimization)

    def loss_of(params: PyTree, batch: mixture.Batch) -> Float[Array, ""]:
        compute = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        prediction = flavr.apply(model, compute, batch.inputs)
        return losses.charbonnier(prediction, batch.targets, batch.weights)

    def step(
        state: TrainState,
        learning_rate: Float[Array, ""],
        real: mixture.RealClips | None,
        device_key: Key[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(device_key, state.step)
        batch = mixture.draw(key, model.n_outputs, mix, real)
        loss, gradient = jax.value_and_grad(loss_of)(state.params, batch)
        loss, gradient = lax.pmean((loss, gradient), _AXIS)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(norm)

        updates, moments = update_rule.update(gradient, state.moments, state.params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
        age = state.step.astype(jnp.float32)
        # A young average forgets fast: the first parameters are noise.
        decay = jnp.minimum(optimization.average_decay, (1.0 + age) / (10.0 + age))
        average = jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), state.average, params)

        def keep_if_finite(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        state = TrainState(
            step=state.step + 1,
            skipped=state.skipped + jnp.where(finite, 0, 1),
            params=keep_if_finite(params, state.params),
            average=keep_if_finite(average, state.average),
            moments=keep_if_finite(moments, state.moments),
        )
        return state, {"loss": loss, "gradient_norm": norm}

    return jax.pmap(
        step, axis_name=_AXIS, in_axes=(None, None, None, 0), out_axes=None, donate_argnums=0
    )


def replicate(tree: PyTree) -> PyTree:
    """Put a copy of every array on each local device, laid out as ``make_step`` takes it.

    Without this, each step would copy its arguments again, and a donated state would be lost.
    """
    mesh = Mesh(np.array(jax.local_devices()), (_AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
