# SPDX-License-Identifier: Apache-2.0
"""Optimisers, and schedules of the learning rate.

The learning rate is an argument of the compiled step, so that it can follow the steps, the clock or
the validation loss without another compilation.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import optax
from jax import Array
from jaxtyping import Float, PyTree
from optax import contrib

__all__ = ["OptimizerConfig", "Schedule", "ScheduleConfig", "optimizer"]

_ADAMS_RMS = 0.2  # typical root mean square of Adam's updates (arXiv 2502.16982, section 2.2)
_ENDS = {"stem", "out"}  # layers that read or write pixels; they use Adam
_THRESHOLD = 1e-4  # smallest relative gain that counts, as in PyTorch's ReduceLROnPlateau


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimiser: Adam (AdamW if there is weight decay) or Muon.

    Muon (https://kellerjordan.github.io/posts/muon/) treats the update of a convolution's kernel as
    a matrix, output channels × everything else, and brings its singular values near 1. As in the
    publication, the layers that read or write pixels, the gates and the biases use Adam. Muon's
    updates are scaled to the size of Adam's (https://arxiv.org/abs/2502.16982), so that the same
    learning rates suit both. That paper also finds that Muon needs weight decay, and uses 0.1.

    Attributes:
        kind: ``adam`` or ``muon``.
        learning_rate: highest learning rate, reached after the warm-up.
        beta1: decay of the first moment; Muon uses 0.95, as published.
        beta2: decay of the second moment.
        weight_decay: decoupled weight decay; 0 gives Adam.
        clip_norm: largest norm of the gradient; larger gradients are scaled down. 0 turns clipping
            off.
        average_decay: decay per step of the exponential moving average of the parameters; 0 makes
            the average equal to the parameters.
        accumulate: number of parts into which a device splits its share of a batch to save memory;
            their gradients are averaged.
    """

    kind: Literal["adam", "muon"] = "adam"
    learning_rate: float = 4e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    average_decay: float = 0.999
    accumulate: int = 1


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Schedule of the learning rate, after a linear warm-up.

    Attributes:
        kind: ``constant``; ``cosine``, to zero over the run, by steps or by time; ``plateau``,
            multiplied by ``factor`` when the loss of reports stops falling.
        warmup_steps: number of steps in which the learning rate rises from 0.
        factor: factor of each drop after a plateau.
        patience: number of reports without an improvement before a drop.
    """

    kind: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup_steps: int = 500
    factor: float = 0.5
    patience: int = 5


def optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Return the update rule without the learning rate, which the step multiplies in."""
    adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2)
    parts: list[optax.GradientTransformation] = [adam]
    if config.kind == "muon":
        muon = optax.chain(
            contrib.scale_by_muon(weight_dimension_numbers=_as_matrices),
            # optax offers other scalings of Muon's updates, but not to the size of Adam's.
            optax.stateless(lambda updates, _: jax.tree.map(_as_large_as_adams, updates)),
        )
        parts = [optax.partition({"muon": muon, "adam": adam}, _rules)]
    # Clipping comes first, so that outliers never enter the moments. Weight decay comes last, so
    # that it is decoupled from the gradient, as in AdamW.
    if config.clip_norm > 0:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay > 0:
        parts.append(optax.add_decayed_weights(config.weight_decay))
    return optax.chain(*parts)


def _rules(params: PyTree) -> PyTree:
    """Name the rule for every parameter: Muon for kernels of inner convolutions, else Adam."""

    def rule(path: tuple[Any, ...], leaf: Array) -> str:
        at_an_end = _ENDS & {getattr(part, "key", None) for part in path}
        return "muon" if leaf.ndim > 2 and not at_an_end else "adam"

    return jax.tree_util.tree_map_with_path(rule, params)


def _as_matrices(params: PyTree) -> PyTree:
    """Describe kernels as matrices to optax: the last axis is the output channels."""
    return jax.tree.map(
        lambda leaf: contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1),
        params,
    )


def _as_large_as_adams(update: Float[Array, "..."]) -> Float[Array, "..."]:
    """Scale an update of singular values near 1 to the size of Adam's updates."""
    # A matrix n × m whose singular values are 1 has a root mean square of 1 / sqrt(max(n, m)).
    longest = max(update.size // update.shape[-1], update.shape[-1])
    return _ADAMS_RMS * math.sqrt(longest) * update


class Schedule:
    """Learning rate of a run, with the state for detecting a plateau."""

    def __init__(self, config: ScheduleConfig, learning_rate: float) -> None:
        self._config, self._highest = config, learning_rate
        self._scale, self._best, self._waited = 1.0, math.inf, 0

    def rate(self, step: int, progress: float) -> float:
        """Return the learning rate of a step, at the fraction ``progress`` of the run."""
        config = self._config
        rate = self._highest * self._scale
        if config.warmup_steps:
            rate *= min(1.0, (step + 1) / config.warmup_steps)
        if config.kind == "cosine":
            rate *= 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
        return rate

    def report(self, loss: float) -> None:
        """Take a report's loss into account; a loss that is not finite is not an improvement."""
        if self._config.kind != "plateau":
            return
        if loss < self._best * (1.0 - _THRESHOLD):
            self._best, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited > self._config.patience:
            self._scale, self._waited = self._scale * self._config.factor, 0

    def get_state(self) -> dict[str, Any]:
        """Return the state as JSON values, for a resumed run."""
        # JSON has no infinity.
        best = self._best if math.isfinite(self._best) else None
        return {"scale": self._scale, "best": best, "waited": self._waited}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what ``get_state`` returned."""
        best = state["best"]
        self._best = math.inf if best is None else best
        self._scale, self._waited = state["scale"], state["waited"]
