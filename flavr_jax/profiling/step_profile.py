# SPDX-License-Identifier: Apache-2.0
"""Time of a recipe's training step on one device, and of the step's parts in a trace.

Parts are the named scopes of the step (batch, optimizer), of the loss (its terms) and of the
network. A kernel belongs to the backward pass if JAX made it by transposing the forward pass.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flavr_jax import losses
from flavr_jax.profiling import trace
from flavr_jax.profiling.training_throughput import rounds
from flavr_jax.training import state, step
from flavr_jax.training.inputs import Inputs
from flavr_jax.training.parallel import Parallel
from flavr_jax.training.recipe import Recipe
from flavr_jax.training.step import DeviceInputs, SharedInputs, make_signals
from flavr_jax.training.tasks import Task

__all__ = ["Part", "StepProfile", "part_of", "profile_step"]

_WHOLE = {"batch", "optimizer", "fuse", "out", "lpips", *losses.DISTANCES}
_DIVIDED = {"encoder", "decoder", "head"}  # into the scopes inside them
_LEARNING_RATE = np.float32(1e-4)


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a training step.

    Attributes:
        name: name such as ``batch`` or ``encoder/layer1``; "" is the rest.
        backward: whether it belongs to the backward pass.
        milliseconds: time of its kernels in a step.
        launches: number of its kernels in a step.
    """

    name: str
    backward: bool
    milliseconds: float
    launches: float


@dataclasses.dataclass(frozen=True)
class StepProfile:
    """Times of a training step.

    Attributes:
        seconds: time of a step if many are started without waiting.
        windows: number of windows in a step.
        parts: its parts, the most expensive first.
    """

    seconds: float
    windows: int
    parts: tuple[Part, ...]


def profile_step(
    recipe: Recipe, task: Task, inputs: Inputs, folder: Path, *, seconds: float = 2.0
) -> StepProfile:
    """Compile the step of a recipe for the first device, time it, and trace it.

    Args:
        recipe: how to train.
        task: the network and its loss.
        inputs: source of the batches.
        folder: folder for the trace.
        seconds: approximate length of each of the three rounds that are timed.
    """
    mapping = Parallel(recipe.strategy, tuple(jax.local_devices()[:1]))
    mapped = step.make_step(task, inputs, recipe.optimizer, mapping, recipe.compute)
    fresh = state.create(task.init(jax.random.key(recipe.seed)), recipe.optimizer, recipe.seed)
    current: Any = mapping.replicate(fresh)
    shared = SharedInputs(_LEARNING_RATE, inputs.resident)
    own = DeviceInputs(next(inputs.feed(mapping)), make_signals(mapping))
    compiled: Any = mapped.lower(current, shared, own).compile()  # type: ignore[attr-defined]

    def take() -> None:
        nonlocal current
        current, _ = compiled(current, shared, own)

    def take_and_wait() -> None:
        take()
        jax.block_until_ready(current)

    time = rounds(take, lambda: jax.block_until_ready(current), seconds)
    totals: dict[tuple[str, bool], list[float]] = {}
    for kernel in trace.profile(compiled, take_and_wait, folder):
        total = totals.setdefault(part_of(kernel.scope), [0.0, 0.0])
        total[0] += kernel.milliseconds
        total[1] += kernel.launches
    parts = [Part(*key, *total) for key, total in totals.items()]
    parts.sort(key=lambda part: -part.milliseconds)
    return StepProfile(time, inputs.batch_size, tuple(parts))


def part_of(scope: str) -> tuple[str, bool]:
    """Return the part that a scope belongs to, and whether it is in the backward pass."""
    # JAX wraps a scope in the transformations that made it: transpose(jvp(head))/look2.
    bare = re.sub(r"\b(transpose|jvp|vmap)\(|\)", "", scope)
    names = [name for name in bare.split("/") if name and "(" not in name]
    backward = "transpose(" in scope
    for place, name in enumerate(names):
        if name in _WHOLE:
            return name, backward
        if name in _DIVIDED:
            return "/".join(names[place : place + 2]), backward
    return "", backward
