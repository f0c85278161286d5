# SPDX-License-Identifier: Apache-2.0
"""Which feature maps of a network are stored in 8 bits, and on what scale.

The type is float8_e4m3fn: numbers of 17 octaves with three bits after the leading one. So where the
scale is matters little, as long as nothing is clipped: it leaves room above the largest magnitude
that calibration met. What does matter is the rounding, to one part in sixteen at worst. A map is
given 16 bits again where a network cannot stand that, and which one is measured: by what storing it
alone costs in PSNR, over what is saved by multiplying its readers' kernels in 8 bits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from rich.table import Table

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr, quantized
from flavr_jax.quantization.clips import Example

__all__ = ["Limits", "Loss", "MapReport", "Report", "choose", "largest", "losses"]

# The mean square error of rounding to 8 bits. Where a prediction is better than a file can show,
# as of a still picture, a loss would be large and nobody could see it.
_OF_ROUNDING = 1 / 255**2 / 12

# What storing a map in 8 bits is worth where all its readers multiply in 16 bits anyway, as a share
# of all products: there is less to read and write.
_LEAST_WORTH = 0.01

Measure: TypeAlias = Callable[[Mapping[str, float]], "Loss"]
Track: TypeAlias = Callable[[Iterable[str]], Iterable[str]]


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much PSNR may be lost, in dB.

    Attributes:
        mean_loss: over all clips; the default leaves a quarter of what is promised of any (0.02),
            for those of calibration are few.
        worst_loss: on any one clip. Its few windows scatter, which makes up for that.
    """

    mean_loss: float = 0.015
    worst_loss: float = 0.05

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise ValueError(f"`{name}` is {value}; a loss that is allowed is above 0 dB.")


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a network loses against float32, of PSNR in dB, by clip.

    Attributes:
        in_fact: PSNR that is lost. On a few windows it scatters and may be negative: errors add
            up with the network's own, or make up for them.
        unrelated: what errors as large lose that have nothing to do with the network's own.
    """

    in_fact: Mapping[str, float]
    unrelated: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Over clips, of whichever is larger."""
        return max(float(np.mean(list(of.values()))) for of in (self.in_fact, self.unrelated))

    @property
    def worst(self) -> float:
        """Of any clip, of whichever is larger there."""
        return self.of(self.worst_clip)

    @property
    def worst_clip(self) -> str:
        """Its name."""
        return max(self.in_fact, key=self.of)

    def of(self, clip: str) -> float:
        """The larger of both there."""
        return max(self.in_fact[clip], self.unrelated[clip])

    def without(self, other: Loss) -> Loss:
        """What is left if ``other`` is not lost, as far as losses add up."""
        return Loss(
            {clip: lost - other.in_fact[clip] for clip, lost in self.in_fact.items()},
            {clip: lost - other.unrelated[clip] for clip, lost in self.unrelated.items()},
        )

    def over(self, limits: Limits) -> float:
        """The larger share of what is allowed; above 1 it is too much."""
        return max(self.mean / limits.mean_loss, self.worst / limits.worst_loss)


@dataclasses.dataclass(frozen=True)
class MapReport:
    """One feature map.

    Attributes:
        name: see :func:`flavr_jax.models.quantized.feature_maps`.
        largest: magnitude that was met.
        scale: what one unit of a stored number would be worth.
        alone: what is lost if this map alone is stored in 8 bits; None where that was not measured.
        in_8_bits: whether it is to be.
    """

    name: str
    largest: float
    scale: float
    alone: Loss | None
    in_8_bits: bool


@dataclasses.dataclass(frozen=True)
class Report:
    """A choice, and what it rests on.

    Attributes:
        maps: in the order of computation.
        everything: what is lost if all maps are stored in 8 bits; None where that was not measured.
        chosen: what is lost as chosen.
        share: of the 3-D convolutions' products, those in 8 bits.
    """

    maps: tuple[MapReport, ...]
    everything: Loss | None
    chosen: Loss
    share: float

    @property
    def scales(self) -> dict[str, float]:
        """Scales of the maps in 8 bits, for :func:`flavr_jax.models.quantized.pack`."""
        return {each.name: each.scale for each in self.maps if each.in_8_bits}

    def table(self) -> Table:
        """A line a feature map."""
        lines = Table("feature map", "largest", "lost alone, dB", "worst clip, dB", "stored in")
        rows = [(m.name, f"{m.largest:.3g}", m.alone, m.in_8_bits) for m in self.maps]
        if self.everything:
            rows.append(("all of them", "", self.everything, True))
        for name, magnitude, loss, in_8_bits in rows:
            losses = (f"{loss.mean:.4f}", f"{loss.worst:.4f}") if loss else ("", "")
            lines.add_row(name, magnitude, *losses, "fp8" if in_8_bits else "bf16")
        lines.add_row("as chosen", "", f"{self.chosen.mean:.4f}", f"{self.chosen.worst:.4f}", "")
        return lines

    def as_json(self) -> dict[str, Any]:
        """The same in plain values."""
        return {
            **_plain(self.chosen, ""),
            **_plain(self.everything, "_of_everything"),
            "share_of_products": self.share,
            "maps": {
                each.name: {
                    "stored": "fp8" if each.in_8_bits else "bf16",
                    "largest": each.largest,
                    **_plain(each.alone, "_alone"),
                }
                for each in self.maps
            },
        }


def _plain(loss: Loss | None, suffix: str) -> dict[str, float]:
    return {f"loss_mean{suffix}": loss.mean, f"loss_worst{suffix}": loss.worst} if loss else {}


def largest(
    config: ModelConfig,
    params: flavr.Parameters,
    windows: Iterable[Float[np.ndarray, "n_inputs height width 3"]],
) -> dict[str, float]:
    """The largest magnitude in each feature map on any of the windows, in order of computation.

    Raises:
        ValueError: the network makes one of them infinite or NaN.
    """
    run = jax.jit(functools.partial(quantized.ranges, config))
    found = dict.fromkeys(quantized.feature_maps(config), 0.0)
    for window in windows:
        met = jax.device_get(run(params, jnp.asarray(window)[None]))
        # Not Python's max, which may pass over a NaN.
        found = {name: float(np.maximum(found[name], met[name])) for name in found}
    if wrong := [name for name, value in found.items() if not np.isfinite(value)]:
        raise ValueError(
            f"the network's {', '.join(wrong)} is infinite or NaN on calibration clips, so it has "
            "no scale; check the checkpoint with scripts/evaluate.py."
        )
    return found


def losses(config: ModelConfig, params: flavr.Parameters, examples: Sequence[Example]) -> Measure:
    """What is lost, as a function of the scales of the maps in 8 bits.

    Scales of other maps than before compile the network anew.

    Args:
        config: the network.
        params: of float32.
        examples: what losses are measured on.
    """
    # On a CPU 16 bits are slow, and what they lose is a hundredth of what 8 bits do.
    on_cpu = jax.default_backend() == "cpu"
    narrow = params if on_cpu else jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    with jax.default_matmul_precision("highest"):  # a GPU would take TF32 for float32
        exact = [_predict(config, params, each) for each in examples]

    def loss(scales: Mapping[str, float]) -> Loss:
        packed = quantized.pack(config, narrow, scales)
        lost: dict[str, list[tuple[float, float]]] = {}
        for each, wanted in zip(examples, exact):
            of_window = _lost(_predict(config, packed, each), wanted, each.truth)
            lost.setdefault(each.clip, []).append(of_window)
        jax.clear_caches()  # dozens of programs would use up what a process may map
        means = {clip: np.mean(pairs, axis=0).tolist() for clip, pairs in lost.items()}
        return Loss(*({clip: pair[n] for clip, pair in means.items()} for n in (0, 1)))

    return loss


def choose(
    config: ModelConfig,
    magnitudes: Mapping[str, float],
    measure: Measure,
    limits: Limits | None = None,
    *,
    like: Collection[str] | None = None,
    track: Track = iter,
) -> Report:
    """The maps to store in 8 bits: all, less those that cost most for their use.

    Args:
        config: the network.
        magnitudes: see :func:`largest`.
        measure: see :func:`losses`; every map is measured alone, and each choice.
        limits: what may be lost; None for the defaults.
        like: maps that were chosen for a network much like it. If they lose no more than is allowed
            here, they are it, and nothing else is measured.
        track: is handed the names whose maps are measured one by one, to show progress.

    Raises:
        ValueError: the network has no feature map that could be stored in 8 bits.
    """
    limits = limits or Limits()
    scales = quantized.scales_for(magnitudes)
    if not scales:
        raise ValueError(
            "this network has no feature map that could be stored in 8 bits: those are outputs of "
            "convolutions without BatchNorm. Use bf16."
        )
    if kept := {name: scale for name, scale in scales.items() if name in (like or ())}:
        chosen = measure(kept)
        if chosen.over(limits) <= 1:
            return _report(config, magnitudes, scales, kept, chosen)
    everything = measure(scales)
    alone = {name: measure({name: scales[name]}) for name in track(scales)}
    kept, chosen = dict(scales), everything
    while kept and chosen.over(limits) > 1:
        kept = _dropped(config, kept, alone, chosen, limits)
        chosen = measure(kept)
    # Losses do not quite add up, so some map may have been dropped in vain.
    dropped = [name for name in scales if name not in kept]
    for name in sorted(dropped, key=lambda name: alone[name].over(limits)):
        more = {other: scales[other] for other in scales if other in kept or other == name}
        loss = measure(more)
        if loss.over(limits) <= 1:
            kept, chosen = more, loss
    return _report(config, magnitudes, scales, kept, chosen, alone, everything)


def _report(
    config: ModelConfig,
    magnitudes: Mapping[str, float],
    scales: Mapping[str, float],
    kept: Mapping[str, float],
    chosen: Loss,
    alone: Mapping[str, Loss] | None = None,
    everything: Loss | None = None,
) -> Report:
    maps = (
        MapReport(name, magnitudes[name], scale, alone[name] if alone else None, name in kept)
        for name, scale in scales.items()
    )
    return Report(tuple(maps), everything, chosen, _share(config, kept))


def _dropped(
    config: ModelConfig,
    kept: Mapping[str, float],
    alone: Mapping[str, Loss],
    measured: Loss,
    limits: Limits,
) -> dict[str, float]:
    """``kept`` without one map or more, until the sum of what they cost alone is low enough."""
    kept, before = dict(kept), _share(config, kept)

    def relief_for_price(name: str) -> float:
        others = {other: scale for other, scale in kept.items() if other != name}
        price = max(before - _share(config, others), _LEAST_WORTH)
        loss = alone[name]
        worst = loss.of(measured.worst_clip)
        return (loss.mean / limits.mean_loss + worst / limits.worst_loss) / price

    while kept:
        name = max(kept, key=relief_for_price)
        del kept[name]
        before, measured = _share(config, kept), measured.without(alone[name])
        if measured.over(limits) <= 1:
            break
    return kept


def _share(config: ModelConfig, scales: Mapping[str, float]) -> float:
    """Of all products of 3-D convolutions, those in 8 bits."""
    every = quantized.convolutions(config)
    done = sum(each.products for each in every if each.in_8_bits(scales))
    return done / sum(each.products for each in every)


def _predict(config: ModelConfig, params: flavr.Parameters, example: Example) -> np.ndarray:
    """The frames whose truth is known."""
    step = config.factor // (len(example.truth) + 1)
    outputs = _apply(config, params, jnp.asarray(example.inputs)[None])
    return np.asarray(outputs[0, step - 1 :: step])


@functools.partial(jax.jit, static_argnums=0)
def _apply(config: ModelConfig, params: flavr.Parameters, windows: Array) -> Array:
    return flavr.apply(config, params, windows)


def _lost(narrow: np.ndarray, exact: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """PSNR lost in fact, and by an error that has nothing to do with the network's own, in dB."""

    def error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))

    own = error(exact, truth) + _OF_ROUNDING
    in_fact = 10 * np.log10((error(narrow, truth) + _OF_ROUNDING) / own).mean()
    unrelated = 10 * np.log10(1 + error(narrow, exact) / own).mean()
    if np.isnan(unrelated):  # compares as if it were within every limit
        return math.inf, math.inf
    return float(in_fact), float(unrelated)
