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
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Float32, PyTree
from optax import contrib

__all__ = ["OptimizerConfig", "Schedule", "ScheduleConfig", "joint_norm", "optimizer"]

_ADAMS_RMS = 0.2  # typical root mean square of Adam's updates (arXiv 2502.16982, section 2.2)
_ENDS = {"stem", "out"}  # layers that read or write pixels; they use Adam
_STEPS = 5  # of the Newton–Schulz iteration, as published
_PARTS = 16  # of the longest sums in it
_NARROW = 64  # output channels below which padding to as many costs a GPU next to nothing
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

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"`accumulate` is {self.accumulate}; a batch has at least 1 part.")
        for name in ("beta1", "beta2", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}; a decay is at least 0 and below 1."
                )


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
            _muon(),
            # optax offers other scalings of Muon's updates, but not to the size of Adam's.
            optax.stateless(lambda updates, _: jax.tree.map(_as_large_as_adams, updates)),
        )
        parts = [optax.partition({"muon": muon, "adam": adam}, _rules)]
    # Clipping comes first, so that outliers never enter the moments. Weight decay comes last, so
    # that it is decoupled from the gradient, as in AdamW.
    if config.clip_norm > 0:
        parts.insert(0, optax.stateless(lambda updates, _: _clipped(updates, config.clip_norm)))
    if config.weight_decay > 0:
        parts.append(optax.add_decayed_weights(config.weight_decay))
    return optax.chain(*parts)


def joint_norm(tree: PyTree) -> Float32[Array, ""]:
    """The norm of all elements of a tree.

    Leaves are joined before they are summed. optax sums each leaf on its own, in 89 of the 544
    kernels of a training step (width 32, one H200).
    """
    joined = jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in jax.tree.leaves(tree)])
    return jnp.sqrt(jnp.square(lax.optimization_barrier(joined)).sum())


def _clipped(updates: PyTree, limit: float) -> PyTree:
    """Scale updates down to a norm of ``limit`` if theirs is larger."""
    norm = joint_norm(updates)
    return jax.tree.map(lambda x: jnp.where(norm < limit, x, x / norm * limit), updates)


def _rules(params: PyTree) -> PyTree:
    """Name the rule for every parameter: Muon for kernels of inner convolutions, else Adam."""

    def rule(path: tuple[Any, ...], leaf: Array) -> str:
        at_an_end = _ENDS & {getattr(part, "key", None) for part in path}
        return "muon" if leaf.ndim > 2 and not at_an_end else "adam"

    return jax.tree_util.tree_map_with_path(rule, params)


def _muon() -> optax.GradientTransformation:
    """Return optax's Muon, run on a few stacks of matrices instead of on each matrix.

    Muon computes 15 products in a row for each matrix. Most matrices are so small that a GPU would
    spend its time on starting hundreds of kernels. The state has the tree of the parameters, as
    optax's own.
    """
    # Without steps, what is left of optax's rule is the momentum and the division by the norm.
    rule = contrib.scale_by_muon(ns_steps=0, weight_dimension_numbers=_described)

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        stacks = _Stacks(updates)
        state = state._replace(mu=stacks.join(state.mu))
        joined, stacked = rule.update(stacks.join(updates), state)
        assert isinstance(stacked, contrib.MuonState)
        joined = [_orthogonalised(stack, stacked.ns_coeffs) for stack in jax.tree.leaves(joined)]
        return stacks.split(joined), stacked._replace(mu=stacks.split(stacked.mu))

    return optax.GradientTransformation(rule.init, update)


def _described(stacks: PyTree) -> PyTree:
    """Describe stacks of matrices to optax, which treats their first axis as a batch."""
    return [contrib.MuonDimensionNumbers(1, 2) for _ in stacks]


def _orthogonalised(x: Float[Array, "_ _ _"], coefficients: ArrayLike) -> Float[Array, "_ _ _"]:
    """Bring the singular values of upright matrices of norm 1 near 1 (Newton–Schulz iteration)."""
    stacked, long, short = x.shape
    first, third, fifth = jnp.asarray(coefficients)
    # XᵀX has few elements, each of which is a long sum. A GPU computes parts of the sums at once,
    # and takes a quarter of the time.
    parts = next(count for count in range(min(_PARTS, long), 0, -1) if long % count == 0)
    for _ in range(_STEPS):
        rows = x.reshape(stacked * parts, long // parts, short)
        square = jnp.matmul(rows.mT, rows).reshape(stacked, parts, short, short).sum(axis=1)
        x = first * x + x @ (third * square + fifth * square @ square)
    return x


class _Stacks:
    """Kernels as matrices, output channels × everything else, in stacks of similar size.

    Matrices are upright and padded with zeros to the size of the largest. These zeros stay zero in
    Muon, and change nothing else.
    """

    def __init__(self, kernels: PyTree) -> None:
        leaves, self._tree = jax.tree.flatten(kernels)
        self._shapes = [leaf.shape for leaf in leaves]
        stacks: dict[tuple[int, int], list[int]] = {}
        for number, shape in enumerate(self._shapes):
            long, short = (side.bit_length() for side in _sides(shape))
            # Wide steps give few stacks; a product of small matrices takes no longer if padded.
            stacks.setdefault((max(short, _NARROW.bit_length()), long // 4), []).append(number)
        self._stacks = list(stacks.values())

    def join(self, kernels: PyTree) -> list[Float[Array, "_ _ _"]]:
        """Stack kernels."""
        leaves = jax.tree.leaves(kernels)
        return [self._stack([leaves[number] for number in stack]) for stack in self._stacks]

    def split(self, stacked: PyTree) -> PyTree:
        """Invert :meth:`join`."""
        leaves: list[Any] = [None] * len(self._shapes)
        for stack, matrices in zip(self._stacks, stacked):
            for number, matrix in zip(stack, matrices):
                shape = self._shapes[number]
                long, short = _sides(shape)
                leaves[number] = _upright(matrix[:long, :short], shape).reshape(shape)
        return self._tree.unflatten(leaves)

    def _stack(self, leaves: list[Array]) -> Float[Array, "_ _ _"]:
        longs, shorts = zip(*(_sides(leaf.shape) for leaf in leaves))
        padded = []
        for leaf, long, short in zip(leaves, longs, shorts):
            matrix = _upright(leaf.reshape(-1, leaf.shape[-1]), leaf.shape)
            missing = (0, max(longs) - long), (0, max(shorts) - short)
            padded.append(jnp.pad(matrix, missing))
        return jnp.stack(padded)


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the longer and the shorter side of a kernel as a matrix."""
    sides = math.prod(shape[:-1]), shape[-1]
    return max(sides), min(sides)


def _upright(matrix: Float[Array, "_ _"], shape: tuple[int, ...]) -> Float[Array, "_ _"]:
    """Transpose the matrix of a kernel of this shape if its output channels are the longer side."""
    return matrix.T if shape[-1] == _sides(shape)[0] else matrix


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
