# SPDX-License-Identifier: Apache-2.0
"""The network in stripes of rows, so that large frames fit into little memory.

A stripe reads more rows than it writes, as many as the convolutions reach, and displaced pixels are
looked up in whole frames. Two kinds of layers need more: the mean colour, and the gates, which
depend on the means of whole feature maps. All stripes therefore share them.

With ``split = "fine"``, only the last decoder stage, the output convolution and the warping head
run in stripes. They hold most of a window's memory and contain one gate, which a first pass over
the stripes measures. The other layers compute maps of at most half the U-Net's height and width,
and run on whole frames.

With ``split = "all"``, the whole network runs in stripes, and memory hardly grows with the frame.
The gates are first estimated from a small copy of the frames. Each further pass over the stripes
measures all gates, given those of the pass before. The n-th gate depends only on those before it,
so n passes make it exact; in practice all gates stop changing after a few passes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Float32, Int

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr, head, quantized
from flavr_jax.models.layers import FeatureMap, Gate, watching_gates
from flavr_jax.typing import Windows

__all__ = ["WHOLE", "Tiling", "predict", "share_of_rows"]

Finish: TypeAlias = Callable[[Float[Array, "1 output _height _width 3"]], Array]
Logits: TypeAlias = list[Float32[Array, " _channel"]]

_SETTLED = 1e-5
"""Largest change of any gate's scale between two passes after which no further pass is made."""

_THUMBNAIL = 256
"""Largest height or width of the frames that the first estimate of the gates is made from."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a window is divided.

    Attributes:
        stripes: number of stripes of full-width rows; 1 computes whole frames.
        split: layers that run in stripes: the fine ones, at the end of the network, or all.
        passes: with ``split = "all"``, the largest number of passes that measure gates; None to
            go on until they no longer change.
    """

    stripes: int = 1
    split: Literal["fine", "all"] = "fine"
    passes: int | None = None

    def __str__(self) -> str:
        if self.stripes == 1:
            return "whole frames"
        if self.split == "fine":
            return f"{self.stripes} stripes in the last layers"
        kind = "exact" if self.passes is None else "estimated"
        return f"{self.stripes} stripes in all layers, {kind} gates"


WHOLE = Tiling()


def predict(
    config: ModelConfig,
    params: flavr.Parameters,
    windows: Windows,
    finish: Finish,
    *,
    outputs: tuple[int, ...] | None = None,
    tiling: Tiling = WHOLE,
) -> tuple[Array, Bool[Array, " batch"]]:
    """Predicted frames, and for each sample whether all their values are finite.

    Args:
        config: the network.
        params: its parameters, plain or packed.
        windows: float32 RGB in [0, 1]; heights and widths are multiples of ``config.multiple``.
        finish: turns predicted frames into the type to return, pixel by pixel. In stripes, float32
            frames then never exist as a whole.
        outputs: indices of the predicted frames to compute; None for all.
        tiling: how each window is divided. Samples of a divided batch are computed in turn, as are
            all in int8, whose scales would depend on the other samples.
    """

    def whole(windows: Windows) -> tuple[Array, Array]:
        made = flavr.apply(config, params, windows, outputs=outputs)
        # Check before `finish` turns infinity into white and NaN into black.
        return finish(made), jnp.isfinite(made).all(axis=(1, 2, 3, 4))

    def one(window: Float[Array, "time height width 3"]) -> tuple[Array, Array]:
        if tiling.stripes > 1:
            return _in_stripes(config, params, window[None], finish, outputs, tiling)
        made, finite = whole(window[None])
        return made[0], finite[0]

    in_turn = tiling.stripes > 1 or (len(windows) > 1 and quantized.in_int8(params))
    return lax.map(one, windows) if in_turn else whole(windows)


def share_of_rows(config: ModelConfig, height: int, tiling: Tiling) -> tuple[float, float]:
    """Rows that exist at once in the coarse and in the fine layers, as shares of a frame's rows.

    Args:
        config: the network.
        height: height of the frames, a multiple of ``config.multiple``.
        tiling: how a window is divided.
    """
    stripes = _Stripes.of(config, height // config.trunk_scale, tiling)
    coarse = 1.0 if tiling.split == "fine" else stripes.read / stripes.height
    return coarse, stripes.narrow(config).read / stripes.height


def _in_stripes(
    config: ModelConfig,
    params: flavr.Parameters,
    windows: Float[Array, "1 time height width 3"],
    finish: Finish,
    outputs: tuple[int, ...] | None,
    tiling: Tiling,
) -> tuple[Array, Bool[Array, ""]]:
    """Frames of one window, and whether all their values are finite."""
    model = flavr.merged(config, params, None)
    sources = model.sources(windows)
    fine = tiling.split == "fine"
    stripes = _Stripes.of(config, sources.small.shape[2], tiling)
    narrow = stripes.narrow(config)
    whole = model.coarse(sources.small - sources.mean) if fine else ()

    if fine:
        gates = model.gates[-1:]
        logits = _measure(
            stripes, gates, lambda start: model.decoder.last(stripes.cut_maps(whole, start))
        )
    else:
        gates = model.gates
        logits = _shared_gates(config, params, sources, stripes, tiling.passes)
    for gate, shared in zip(gates, logits):
        gate.fix(shared)

    def add(number: Int[Array, ""], done: tuple[Array, Array]) -> tuple[Array, Array]:
        frames, finite = done
        start, first = narrow.place(number)
        if fine:
            maps = narrow.cut_maps(whole, start)
        else:
            coarse_start, _ = stripes.place(number)
            maps = model.coarse(stripes.cut(sources.small, coarse_start) - sources.mean)
            maps = narrow.cut_maps(maps, start - coarse_start, of=stripes.read)
        unit = stripes.unit
        rows = head.Rows(unit * start, unit * first, unit * stripes.count)
        made = model.fine(maps, sources, outputs=outputs, rows=rows)
        row = rows.first * config.trunk_scale
        frames = lax.dynamic_update_slice_in_dim(frames, finish(made)[0], row, axis=1)
        return frames, finite & jnp.isfinite(made).all()

    count = config.n_outputs if outputs is None else len(outputs)
    made = jax.ShapeDtypeStruct((1, count, *windows.shape[2:]), jnp.float32)
    result = jax.eval_shape(finish, made)
    empty = jnp.zeros(result.shape[1:], result.dtype)
    return lax.fori_loop(0, stripes.number, add, (empty, jnp.array(True)))


def _shared_gates(
    config: ModelConfig,
    params: flavr.Parameters,
    sources: flavr.Sources,
    stripes: _Stripes,
    passes: int | None,
) -> Logits:
    """Logits of all gates: an estimate from a small copy of the frames, and passes over stripes."""
    model = flavr.merged(config, params, None)
    colours = sources.small - sources.mean
    batch, time, height, width, channels = colours.shape
    factor = max(1, max(height, width) / _THUMBNAIL)
    # The U-Net halves its frames three times.
    size = (max(8, round(side / factor / 8) * 8) for side in (height, width))
    small = jax.image.resize(colours, (batch, time, *size, channels), "linear")
    whole = _Stripes(height=1, count=1, reach=0, unit=1)
    logits = _measure(whole, model.gates, lambda _: model.decoder.last(model.coarse(small)))

    def unsettled(state: tuple[Array, Logits, Array]) -> Array:
        number, _, change = state
        return (number < (len(logits) if passes is None else passes)) & (change > _SETTLED)

    def again(state: tuple[Array, Logits, Array]) -> tuple[Array, Logits, Array]:
        number, old, _ = state
        # A model of its own, because fixed gates hold values that exist inside this loop only.
        fixed = flavr.merged(config, params, None)
        for gate, shared in zip(fixed.gates, old):
            gate.fix(shared)
        new = _measure(
            stripes,
            model.gates,
            lambda start: fixed.decoder.last(fixed.coarse(stripes.cut(colours, start))),
        )
        changes = [jnp.abs(jax.nn.sigmoid(a) - jax.nn.sigmoid(b)).max() for a, b in zip(new, old)]
        return number + 1, new, jnp.stack(changes).max()

    return lax.while_loop(unsettled, again, (jnp.array(0), logits, jnp.array(jnp.inf)))[1]


def _measure(
    stripes: _Stripes, gates: list[Gate], run: Callable[[Int[Array, ""]], FeatureMap]
) -> Logits:
    """Logits of ``gates`` from means over all stripes.

    Args:
        stripes: the stripes.
        gates: with the network's parameters.
        run: computes the layers with these gates on the rows that a stripe reads, from the first.
    """

    def add(number: Int[Array, ""], means: Logits) -> Logits:
        start, _ = stripes.place(number)
        with watching_gates() as maps:
            run(start)
        parts = [stripes.part_of_mean(x.in_units().values, number) for x in maps]
        return [mean + part for mean, part in zip(means, parts, strict=True)]

    nothing = [jnp.zeros(gate.bias.shape, jnp.float32) for gate in gates]
    means = lax.fori_loop(0, stripes.number, add, nothing)
    return [gate.logits(mean) for gate, mean in zip(gates, means)]


@dataclasses.dataclass(frozen=True)
class _Stripes:
    """Division of a frame's rows; the last stripe may overlap the one before it.

    Rows are counted in units, so that every stripe of a coarse feature map has whole rows.

    Attributes:
        height: rows of the frame.
        count: rows that each stripe writes.
        reach: rows that it also reads on either side, inside the frame.
        unit: rows of the U-Net's input that make a row here.
    """

    height: int
    count: int
    reach: int
    unit: int

    @classmethod
    def of(cls, config: ModelConfig, rows: int, tiling: Tiling) -> _Stripes:
        """Divide ``rows`` of the U-Net's input into at most ``tiling.stripes`` stripes."""
        # A row of the coarsest map in the last layers.
        unit = max([2, *(look.times_smaller(config.trunk_scale) for look in config.looks)])
        reach = _reach_of_fine(config)
        if tiling.split == "all":
            # The encoder's coarsest maps have a row for 8 of the U-Net's input.
            unit, reach = 8, reach + _reach_of_coarse(config)
        height = rows // unit
        return cls(height, math.ceil(height / tiling.stripes), math.ceil(reach / unit), unit)

    def narrow(self, config: ModelConfig) -> _Stripes:
        """The same stripes with as many rows to read as the fine layers need."""
        return dataclasses.replace(self, reach=math.ceil(_reach_of_fine(config) / self.unit))

    @property
    def number(self) -> int:
        """Number of stripes."""
        return math.ceil(self.height / self.count)

    @property
    def read(self) -> int:
        """Number of rows that each stripe reads.

        At the top and bottom, a stripe reads more rows on its other side instead. Its own border
        is then that of the frame, and convolutions pad it in the same way.
        """
        return min(self.height, self.count + 2 * self.reach)

    def place(self, number: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """The first row that a stripe reads, and the first that it writes."""
        first = jnp.minimum(number * self.count, self.height - self.count)
        return jnp.clip(first - self.reach, 0, self.height - self.read), first

    def cut(
        self,
        x: Float[Array, "batch time _rows width channel"],
        start: Int[Array, ""],
        *,
        of: int | None = None,
    ) -> Float[Array, "batch time _read width channel"]:
        """The rows that a stripe reads, of frames or of a feature map of any size.

        Args:
            x: the frames or the map.
            start: first row to read.
            of: number of rows that ``x`` covers; by default all.
        """
        each = x.shape[2] // (of or self.height)
        return lax.dynamic_slice_in_dim(x, start * each, self.read * each, axis=2)

    def cut_maps(
        self, maps: tuple[FeatureMap, ...], start: Int[Array, ""], *, of: int | None = None
    ) -> tuple[FeatureMap, ...]:
        """The rows that a stripe reads, of several feature maps; see :meth:`cut`."""
        return tuple(FeatureMap(self.cut(x.values, start, of=of), scale=x.scale) for x in maps)

    def part_of_mean(
        self, x: Float[Array, "1 time _rows width channel"], number: Int[Array, ""]
    ) -> Float32[Array, " channel"]:
        """Contribution of the rows that a stripe writes to the mean of a feature map."""
        start, first = self.place(number)
        _, time, rows, width, _ = x.shape
        each = rows // self.read
        own = lax.dynamic_slice_in_dim(x, (first - start) * each, self.count * each, axis=2)
        # Leave out rows that the stripe before has counted.
        new = first * each + jnp.arange(self.count * each) >= number * self.count * each
        own = jnp.where(new[:, None, None], own, 0)
        # In 16 bits, a sum over a whole map would soon be too large for single values to change it.
        return own.sum(axis=(0, 1, 2, 3), dtype=jnp.float32) / (time * self.height * each * width)


def _reach_of_fine(config: ModelConfig) -> int:
    """Rows of the U-Net's size that the last layers read beyond those they write."""
    rows = 2 + 3  # a row of the last stage's input, which is half as large; the 7×7 convolution
    for look in config.looks:
        # Its 3×3 convolutions, and a row for the interpolation between sizes.
        rows += (look.layers + 3) * look.times_smaller(config.trunk_scale)
    return rows + (config.trunk_scale > 1)  # interpolation to the frames' size


def _reach_of_coarse(config: ModelConfig) -> int:
    """Rows of the U-Net's size that all layers before them read beyond those they write."""
    blocks = zip(config.blocks, (2, 4, 8, 8))
    encoder = 3 + sum(2 * number * size for number, size in blocks)  # stem, two 3×3 in each block
    return encoder + 8 + 8 + 4 + 2  # and a row of each stage's input in the decoder
