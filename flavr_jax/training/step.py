# SPDX-License-Identifier: Apache-2.0
"""One training step, written for one device and mapped over all devices.

The step's number determines the batch, and every device computes its part of it. A step therefore
depends only on the state, not on how many devices share the work. Gradients are averaged, and every
device applies the same update to its copy of the state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jaxtyping import Float, Int, PyTree

from flavr_jax.training.inputs import Inputs
from flavr_jax.training.optimizers import OptimizerConfig, joint_norm, optimizer
from flavr_jax.training.parallel import AXIS, Mapped, Parallel
from flavr_jax.training.state import TrainState
from flavr_jax.training.tasks import Task, Terms

__all__ = [
    "BatchNumber",
    "Compute",
    "DeviceInputs",
    "SharedInputs",
    "Signals",
    "StepResult",
    "make_signals",
    "make_step",
    "make_validation",
]

Compute: TypeAlias = Literal["bfloat16", "float32"]

_VALIDATION = 0x7A11D  # keeps the random numbers of validation apart from those of training


class Signals(NamedTuple):
    """Values that processes exchange in a step; each process gets the maximum over all devices.

    Attributes:
        elapsed: seconds of training so far.
        stop: 1 if this process was asked to stop, else 0.
    """

    elapsed: Any
    stop: Any


class SharedInputs(NamedTuple):
    """Arguments of a training step that are equal on all devices.

    Attributes:
        learning_rate: float32 scalar.
        resident: arrays that the inputs keep on every device.
    """

    learning_rate: Any
    resident: PyTree


class BatchNumber(NamedTuple):
    """Arguments of a validation step that are equal on all devices.

    Attributes:
        number: int32 scalar, index of the batch within the validation.
        resident: arrays that the inputs keep on every device.
    """

    number: Any
    resident: PyTree


class DeviceInputs(NamedTuple):
    """Arguments of a training or validation step that are split over devices on their first axis.

    Attributes:
        fetched: data that the inputs read for this step.
        signals: one value per device.
    """

    fetched: PyTree
    signals: Signals


class StepResult(NamedTuple):
    """Results of a training step besides the next state; scalars, equal on all devices.

    Attributes:
        loss: mean loss of the whole batch.
        terms: parts of the loss and other means over the batch, by name.
        gradient_norm: norm before clipping; not finite if the step was skipped.
        skipped: number of steps skipped since the start of the run.
        skipped_in_a_row: number of steps skipped since the last one that was not.
        signals: maxima over all devices.
    """

    loss: Float[Array, ""]
    terms: Terms
    gradient_norm: Float[Array, ""]
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]
    signals: Signals


class _Losses(NamedTuple):
    """The loss of a part of the batch, and its terms by name."""

    loss: Float[Array, ""]
    terms: Terms


def make_signals(parallel: Parallel, elapsed: float = 0.0, *, stop: bool = False) -> Signals:
    """Place this process's signals on its devices, for :class:`DeviceInputs`."""
    count = len(parallel.local)
    values = Signals(elapsed, float(stop))
    return parallel.distribute(Signals(*(np.full(count, value, np.float32) for value in values)))


@functools.lru_cache(maxsize=4)
def make_step(
    task: Task,
    inputs: Inputs,
    optimization: OptimizerConfig,
    parallel: Parallel,
    compute: Compute = "bfloat16",
) -> Mapped:
    """Build the step: (TrainState, SharedInputs, DeviceInputs) → (TrainState, StepResult).

    The state is donated: its buffers are reused for the next state.
    """
    update_rule = optimizer(optimization)
    accumulate = optimization.accumulate

    def step(
        state: TrainState, shared: SharedInputs, own: DeviceInputs
    ) -> tuple[TrainState, StepResult]:
        # Random numbers depend only on the seed and the step, so a resumed run draws the same.
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        first = lax.axis_index(AXIS) * accumulate
        parts = parallel.size * accumulate

        def gradient_of(part: Array, fetched: PyTree) -> tuple[_Losses, PyTree]:
            with jax.named_scope("batch"):
                batch = inputs.batch(key, part, parts, fetched, shared.resident)
                # Without a barrier, XLA would compute frames again in every kernel that reads them.
                batch = lax.optimization_barrier(batch)
            loss = functools.partial(_loss, task, compute)
            # `inputs.batch` tells parts apart by itself; random choices of the loss need a key for
            # each.
            key_part = jax.random.fold_in(key, part)
            (_, losses), gradient = jax.value_and_grad(loss, has_aux=True)(
                state.params, batch, key_part
            )
            return losses, gradient

        found = _mean_over_parts(gradient_of, first, accumulate, own.fetched)
        # Parts have equal sizes, so the mean of their means is the mean over the batch.
        losses, gradient = lax.pmean(found, AXIS)
        with jax.named_scope("optimizer"):
            norm = joint_norm(gradient)
            new = _update(state, gradient, shared.learning_rate, update_rule, optimization)
            new = _keep_if_finite(norm, new, state)
        # All devices get the maximum: if one process must stop, all stop after the same step.
        signals = Signals(*(lax.pmax(value.max(), AXIS) for value in own.signals))
        result = StepResult(
            loss=losses.loss,
            terms=losses.terms,
            gradient_norm=norm,
            skipped=new.skipped,
            skipped_in_a_row=new.skipped_in_a_row,
            signals=signals,
        )
        return new, result

    return parallel.map(step)


@functools.lru_cache(maxsize=4)
def make_validation(
    task: Task, inputs: Inputs, parallel: Parallel, compute: Compute = "bfloat16"
) -> Mapped:
    """Build the validation: (parameters, BatchNumber, DeviceInputs) → (means by name, preview)."""

    def validate(
        params: PyTree, shared: BatchNumber, own: DeviceInputs
    ) -> tuple[Terms, Array | None]:
        # Independent of the run's seed and step: every report validates on the same batches.
        key = jax.random.fold_in(jax.random.key(_VALIDATION), shared.number)
        batch = inputs.batch(key, lax.axis_index(AXIS), parallel.size, own.fetched, shared.resident)
        # Without a key the loss makes no random choices, so that reports are comparable.
        _, losses = _loss(task, compute, params, batch, None)
        means = lax.pmean({"loss": losses.loss, **losses.terms}, AXIS)
        return means, task.preview(_cast(params, compute), batch)

    # The run goes on with the same parameters.
    return parallel.map(validate, donate=False)


def _loss(
    task: Task, compute: Compute, params: PyTree, batch: Any, key: Array | None
) -> tuple[Float[Array, ""], _Losses]:
    """Return the loss alone, which ``value_and_grad`` needs, and the loss with its terms."""
    # The cast is inside of what is differentiated, so gradients are float32, as the parameters are.
    loss, terms = task.loss(_cast(params, compute), batch, key)
    return loss, _Losses(loss, terms)


def _cast(params: PyTree, compute: Compute) -> PyTree:
    """Convert the float32 parameters to the dtype in which the network computes."""
    return jax.tree.map(lambda leaf: leaf.astype(compute), params)


def _mean_over_parts(
    gradient_of: Callable[[Array, PyTree], tuple[_Losses, PyTree]],
    first: Array,
    count: int,
    fetched: PyTree,
) -> tuple[_Losses, PyTree]:
    """Average ``count`` parts of equal size, computed in turn so that memory holds only one."""
    if count == 1:
        return gradient_of(first, fetched)
    cut = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), fetched)
    numbers = first + jnp.arange(count)

    def add(total: PyTree, part: tuple[Array, PyTree]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, gradient_of(*part)), None

    # XLA might overlap unrolled parts and need memory for several; a scan runs them in turn.
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
    """Apply the optimiser's update, and update the moving average of the parameters."""
    updates, moments = update_rule.update(gradient, state.moments, state.params)
    # optax's rules without a learning rate scale the gradient only, which points uphill.
    params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
    age = state.step.astype(jnp.float32)
    # Early parameters are close to random, so the average first uses a smaller decay.
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
    """Return the new state, or the old one and higher counters if the gradient is not finite."""
    kept = TrainState(
        # Counted although skipped: the step determines the batch, and the same one would fail
        # again.
        step=old.step + 1,
        skipped=old.skipped + 1,
        skipped_in_a_row=old.skipped_in_a_row + 1,
        key=old.key,
        params=old.params,
        average=old.average,
        moments=old.moments,
    )
    finite = jnp.isfinite(norm)
    # A select instead of a branch: all devices run the same program.
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, kept)
