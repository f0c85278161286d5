# SPDX-License-Identifier: Apache-2.0
"""The choice of the feature maps that are stored in 8 bits.

Storing a map in 8 bits lets the convolutions that read it multiply in 8 bits, and costs PSNR. The
search begins with all maps in 8 bits. While a limit is exceeded, the map with the most loss per
multiplication is returned to 16 bits; at the end, 8 bits are tried once more for each such map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeAlias

from flavr_jax.config import ModelConfig
from flavr_jax.models import quantized
from flavr_jax.quantization.calibration import Measure, PsnrLoss

__all__ = ["Limits", "MapSelection", "Selection", "choose"]

# Least worth of a map, as a share of all multiplications. A map is worth this much even if its
# readers multiply in 16 bits anyway, because less memory is read and written.
_LEAST_WORTH = 0.01

Track: TypeAlias = Callable[[Iterable[str]], Iterable[str]]


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much PSNR may be lost, in dB.

    Attributes:
        mean_loss: largest mean loss over all clips. Calibration clips are few, so the default is a
            quarter below the 0.02 dB that is promised for any clip.
        worst_loss: largest loss on any one clip. It is higher, because results from the few windows
            of one clip vary.
    """

    mean_loss: float = 0.015
    worst_loss: float = 0.05

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise ValueError(f"`{name}` is {value}; allow a loss above 0 dB.")

    def used_by(self, loss: PsnrLoss) -> float:
        """Return the loss as a share of its limit, for the limit used most; above 1 is too much."""
        return max(loss.mean / self.mean_loss, loss.worst / self.worst_loss)


@dataclasses.dataclass(frozen=True)
class MapSelection:
    """The choice for one feature map.

    Attributes:
        name: see :func:`flavr_jax.models.quantized.feature_maps`.
        largest: the largest magnitude seen in calibration.
        scale: factor from stored 8-bit numbers to values.
        alone: the loss if this map alone is stored in 8 bits; None if that was not measured.
        in_8_bits: True if it was chosen.
    """

    name: str
    largest: float
    scale: float
    alone: PsnrLoss | None
    in_8_bits: bool


@dataclasses.dataclass(frozen=True)
class Selection:
    """A choice of feature maps, and the measurements behind it.

    Attributes:
        maps: in order of computation.
        everything: the loss if all maps are stored in 8 bits; None if that was not measured.
        chosen: the loss of the choice.
        share: share of the multiplications in 3-D convolutions that is done in 8 bits.
    """

    maps: tuple[MapSelection, ...]
    everything: PsnrLoss | None
    chosen: PsnrLoss
    share: float

    @property
    def scales(self) -> dict[str, float]:
        """Scales of the maps in 8 bits, for :func:`flavr_jax.models.quantized.pack`."""
        return {each.name: each.scale for each in self.maps if each.in_8_bits}


def choose(
    config: ModelConfig,
    magnitudes: Mapping[str, float],
    measure: Measure,
    limits: Limits | None = None,
    *,
    like: Collection[str] | None = None,
    track: Track = iter,
) -> Selection:
    """Choose the feature maps to store in 8 bits.

    Args:
        config: the network.
        magnitudes: see :func:`flavr_jax.quantization.calibration.largest_magnitudes`.
        measure: see :func:`flavr_jax.quantization.calibration.psnr_losses`; called for every map
            alone and for every choice that is tried.
        limits: how much PSNR may be lost; None for the defaults.
        like: maps that were chosen for a similar network. If their loss is within the limits here,
            they are chosen, and nothing else is measured.
        track: receives the names of the maps that are measured one by one, to show progress.

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
        if limits.used_by(chosen) <= 1:
            return _selection(config, magnitudes, scales, kept, chosen)
    everything = measure(scales)
    alone = {name: measure({name: scales[name]}) for name in track(scales)}
    kept, chosen = dict(scales), everything
    while kept and limits.used_by(chosen) > 1:
        kept = _reduced(config, kept, alone, chosen, limits)
        chosen = measure(kept)
    # Losses add up only roughly, so a map may have been returned to 16 bits unnecessarily.
    returned = [name for name in scales if name not in kept]
    for name in sorted(returned, key=lambda name: limits.used_by(alone[name])):
        more = {other: scales[other] for other in scales if other in kept or other == name}
        loss = measure(more)
        if limits.used_by(loss) <= 1:
            kept, chosen = more, loss
    return _selection(config, magnitudes, scales, kept, chosen, alone, everything)


def _selection(
    config: ModelConfig,
    magnitudes: Mapping[str, float],
    scales: Mapping[str, float],
    kept: Mapping[str, float],
    chosen: PsnrLoss,
    alone: Mapping[str, PsnrLoss] | None = None,
    everything: PsnrLoss | None = None,
) -> Selection:
    maps = (
        MapSelection(name, magnitudes[name], scale, alone[name] if alone else None, name in kept)
        for name, scale in scales.items()
    )
    return Selection(tuple(maps), everything, chosen, _work_in_8_bits(config, kept))


def _reduced(
    config: ModelConfig,
    kept: Mapping[str, float],
    alone: Mapping[str, PsnrLoss],
    measured: PsnrLoss,
    limits: Limits,
) -> dict[str, float]:
    """Remove maps from ``kept``, at least one, until the estimated loss is within the limits."""
    kept, before = dict(kept), _work_in_8_bits(config, kept)

    def loss_per_multiplication(name: str) -> float:
        others = {other: scale for other, scale in kept.items() if other != name}
        # A map may save nothing alone, where a convolution reads another map of 16 bits.
        saved = max(before - _work_in_8_bits(config, others), _LEAST_WORTH)
        loss = alone[name]
        worst = loss.of(measured.worst_clip)
        return (loss.mean / limits.mean_loss + worst / limits.worst_loss) / saved

    while kept:
        name = max(kept, key=loss_per_multiplication)
        del kept[name]
        before, measured = _work_in_8_bits(config, kept), measured.minus(alone[name])
        if limits.used_by(measured) <= 1:
            break
    return kept


def _work_in_8_bits(config: ModelConfig, scales: Mapping[str, float]) -> float:
    """Return the share of multiplications in 3-D convolutions that is done in 8 bits."""
    every = quantized.convolutions(config)
    done = sum(each.products for each in every if each.in_8_bits(scales))
    return done / sum(each.products for each in every)
