# SPDX-License-Identifier: Apache-2.0
"""How parameters are updated, and how the learning rate runs.

The learning rate is an argument of the compiled step: it may follow steps, the clock or the
validation loss, and changing it compiles nothing anew.
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

_ADAMS_RMS = 0.2  # of Adam's updates, as seen in training
_ENDS = {"stem", "out"}  # layers that read or write pixels
_THRESHOLD = 1e-4  # a relative gain below this is none, as in PyTorch's ReduceLROnPlateau


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam, or AdamW where there is weight decay; or Muon.

    Muon (https://kellerjordan.github.io/posts/muon/) gives the update of a convolution's kernel,
    as a matrix of output channels by everything else, singular values near 1; as published, the
    layers that read and write pixels, gates and biases are still Adam's. Its updates are scaled
    to the size of Adam's (https://arxiv.org/abs/2502.16982), so that a learning rate means about
    the same; that paper also finds that it needs a weight decay, of 0.1 there.

    Attributes:
        kind: ``adam`` or ``muon``.
        learning_rate: the highest one, after the warm-up.
        beta1: decay of the first moment; Muon's is 0.95, as published.
        beta2: decay of the second moment.
        weight_decay: decoupled from the gradient; 0 is Adam.
        clip_norm: gradients longer than this are shortened to it; 0 leaves them.
        average_decay: of the exponential moving average of the parameters, per step; 0 makes the
            average the parameters themselves.
        accumulate: parts that a device's share of a batch is worked off in, one after the other.
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
    """How the learning rate runs after a linear warm-up.

    Attributes:
        kind: ``constant``; ``cosine`` to zero over the run, by steps or by time as the run is
            limited; ``plateau``: multiplied by ``factor`` when reports stop getting better.
        warmup_steps: steps over which the learning rate rises from 0.
        factor: of a plateau's drop.
        patience: reports without a gain that a plateau lasts.
    """

    kind: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup_steps: int = 500
    factor: float = 0.5
    patience: int = 5


def optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The update before it is scaled by the learning rate, which the schedule knows."""
    adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2)
    parts: list[optax.GradientTransformation] = [adam]
    if config.kind == "muon":
        muon = optax.chain(
            contrib.scale_by_muon(weight_dimension_numbers=_as_matrices),
            optax.stateless(lambda updates, _: jax.tree.map(_as_large_as_adams, updates)),
        )
        parts = [optax.partition({"muon": muon, "adam": adam}, _rules)]
    if config.clip_norm > 0:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay > 0:
        parts.append(optax.add_decayed_weights(config.weight_decay))
    return optax.chain(*parts)


def _rules(params: PyTree) -> PyTree:
    """Muon for kernels of convolutions within the network, Adam for everything else."""

    def rule(path: tuple[Any, ...], leaf: Array) -> str:
        at_an_end = _ENDS & {getattr(part, "key", None) for part in path}
        return "muon" if leaf.ndim > 2 and not at_an_end else "adam"

    return jax.tree_util.tree_map_with_path(rule, params)


def _as_matrices(params: PyTree) -> PyTree:
    """How kernels are matrices: their last axis is the output channels."""
    return jax.tree.map(
        lambda leaf: contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1),
        params,
    )


def _as_large_as_adams(update: Float[Array, "..."]) -> Float[Array, "..."]:
    """An update of singular values 1, scaled to the size of Adam's."""
    longest = max(update.size // update.shape[-1], update.shape[-1])
    return _ADAMS_RMS * math.sqrt(longest) * update


class Schedule:
    """The learning rate of a run; it remembers the reports that a plateau is seen in."""

    def __init__(self, config: ScheduleConfig, learning_rate: float) -> None:
        self._config, self._highest = config, learning_rate
        self._scale, self._best, self._waited = 1.0, math.inf, 0

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of a step, after ``progress`` (0 to 1) of the run."""
        config = self._config
        rate = self._highest * self._scale
        if config.warmup_steps:
            rate *= min(1.0, (step + 1) / config.warmup_steps)
        if config.kind == "cosine":
            rate *= 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
        return rate

    def report(self, loss: float) -> None:
        """Take note of a loss; one that is not finite counts as no gain."""
        if self._config.kind != "plateau":
            return
        if loss < self._best * (1.0 - _THRESHOLD):
            self._best, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited > self._config.patience:
            self._scale, self._waited = self._scale * self._config.factor, 0

    def get_state(self) -> dict[str, Any]:
        """What a resumed run has to know: plain values."""
        best = self._best if math.isfinite(self._best) else None
        return {"scale": self._scale, "best": best, "waited": self._waited}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        best = state["best"]
        self._best = math.inf if best is None else best
        self._scale, self._waited = state["scale"], state["waited"]
