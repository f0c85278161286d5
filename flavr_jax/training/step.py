# SPDX-License-Identifier: Apache-2.0
"""One training step, written for one device and mapped over all of them.

Every device takes its part of the batch that the step's number stands for, so that a step depends
on the state alone, however many devices share the work. Gradients are averaged, and every device
applies the same update to its copy of the state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jaxtyping import Float, PyTree

from flavr_jax.training.inputs import Inputs
from flavr_jax.training.optimizers import OptimizerConfig, optimizer
from flavr_jax.training.parallel import AXIS, Mapped, Parallel
from flavr_jax.training.state import TrainState
from flavr_jax.training.tasks import Task

__all__ = ["Compute", "Metrics", "make_step", "make_validation"]

Compute: TypeAlias = Literal["bfloat16", "float32"]
Metrics: TypeAlias = dict[str, Float[Array, ""]]

_VALIDATION = 0x7A11D  # sets the random numbers of validation apart from those of training


@functools.lru_cache(maxsize=4)
def make_step(
    task: Task,
    inputs: Inputs,
    optimization: OptimizerConfig,
    parallel: Parallel,
    compute: Compute = "bfloat16",
) -> Mapped:
    """The step: (state, shared, own) → (next state, metrics); the state is donated.

    ``shared`` has the ``learning_rate``, and what the inputs keep on every device as ``resident``.
    ``own`` has what the inputs ``fetched``, and in ``signals`` an array a device that comes back in
    the metrics as its maximum: how processes agree to stop.
    """
    update_rule = optimizer(optimization)
    accumulate = optimization.accumulate

    def step(
        state: TrainState, shared: dict[str, Any], own: dict[str, Any]
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        first = lax.axis_index(AXIS) * accumulate
        parts = parallel.size * accumulate

        def gradient_of(part: Array, fetched: PyTree) -> tuple[Metrics, PyTree]:
            batch = inputs.batch(key, part, parts, fetched, shared["resident"])
            loss = functools.partial(_loss, task, compute)
            key_part = jax.random.fold_in(key, part)
            (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(
                state.params, batch, key_part
            )
            return metrics, gradient

        found = _mean_over_parts(gradient_of, first, accumulate, own["fetched"])
        metrics, gradient = lax.pmean(found, AXIS)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        new = _update(state, gradient, shared["learning_rate"], update_rule, optimization)
        new = _keep_if_finite(metrics["gradient_norm"], new, state)
        metrics |= {"skipped": new.skipped, "skipped_in_a_row": new.skipped_in_a_row}
        metrics |= {name: lax.pmax(value.max(), AXIS) for name, value in own["signals"].items()}
        return new, metrics

    return parallel.map(step)


@functools.lru_cache(maxsize=4)
def make_validation(
    task: Task, inputs: Inputs, parallel: Parallel, compute: Compute = "bfloat16"
) -> Mapped:
    """(parameters, shared, own) → metrics and a preview; ``shared`` has a batch's ``number``."""

    def validate(
        params: PyTree, shared: dict[str, Any], own: dict[str, Any]
    ) -> tuple[Metrics, Array | None]:
        key = jax.random.fold_in(jax.random.key(_VALIDATION), shared["number"])
        batch = inputs.batch(
            key, lax.axis_index(AXIS), parallel.size, own["fetched"], shared["resident"]
        )
        _, metrics = _loss(task, compute, params, batch, None)
        return lax.pmean(metrics, AXIS), task.preview(_cast(params, compute), batch)

    return parallel.map(validate, donate=False)


def _loss(
    task: Task, compute: Compute, params: PyTree, batch: Any, key: Array | None
) -> tuple[Float[Array, ""], Metrics]:
    loss, terms = task.loss(_cast(params, compute), batch, key)
    return loss, {"loss": loss, **terms}


def _cast(params: PyTree, compute: Compute) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(compute), params)


def _mean_over_parts(
    gradient_of: Callable[[Array, PyTree], tuple[Metrics, PyTree]],
    first: Array,
    count: int,
    fetched: PyTree,
) -> tuple[Metrics, PyTree]:
    """The mean of ``count`` parts of equal size, one after the other in the memory of one."""
    if count == 1:
        return gradient_of(first, fetched)
    cut = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), fetched)
    numbers = first + jnp.arange(count)

    def add(total: PyTree, part: tuple[Array, PyTree]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, gradient_of(*part)), None

    shapes = jax.eval_shape(gradient_of, numbers[0], jax.tree.map(lambda leaf: leaf[0], cut))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = lax.scan(add, zero, (numbers, cut))
    return jax.tree.map(lambda leaf: leaf / count, total)


def _update(
    state: TrainState,
    gradient: PyTree,
    learning_rate: Float[Array, ""],
    update_rule: optax.GradientTransformation,
    config: OptimizerConfig,
) -> TrainState:
    updates, moments = update_rule.update(gradient, state.moments, state.params)
    params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
    age = state.step.astype(jnp.float32)
    # A young average forgets fast: the first parameters are noise.
    decay = jnp.minimum(config.average_decay, (1.0 + age) / (10.0 + age))
    average = jax.tree.map(lambda a, p: p + decay * (a - p), state.average, params)
    return TrainState(
        step=state.step + 1,
        skipped=state.skipped,
        skipped_in_a_row=jnp.zeros_like(state.skipped_in_a_row),
        key=state.key,
        params=params,
        average=average,
        moments=moments,
    )


def _keep_if_finite(norm: Float[Array, ""], new: TrainState, old: TrainState) -> TrainState:
    """The new state, or where the gradient was not finite the old one with its counters risen."""
    kept = TrainState(
        step=old.step + 1,
        skipped=old.skipped + 1,
        skipped_in_a_row=old.skipped_in_a_row + 1,
        key=old.key,
        params=old.params,
        average=old.average,
        moments=old.moments,
    )
    finite = jnp.isfinite(norm)
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, kept)
