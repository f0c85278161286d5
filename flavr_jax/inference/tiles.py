# SPDX-License-Identifier: Apache-2.0
"""The network in stripes of rows, so that large frames fit into little memory.

Two kinds of layers need whole frames: the mean colour, and the gates, which depend on means over a
whole feature map. All gates but the last are computed at half the U-Net's size or less, where
feature maps are small. ``exact`` therefore computes those layers on whole frames. Only the last
decoder stage, the output convolution and the warping head run in stripes; together they hold most
of the memory of a window. A first pass over the stripes measures the last gate. A stripe reads
more rows than it writes, as many as the convolutions reach, so its frames are those of the whole
network up to the order of sums. Displaced pixels are looked up in the whole frames.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr
from flavr_jax.models.decoder import DecoderStage
from flavr_jax.models.head import Rows
from flavr_jax.models.layers import FeatureMap
from flavr_jax.typing import Windows

__all__ = ["WHOLE", "Tiling", "predict"]

Finish: TypeAlias = Callable[[Windows], Array]


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a window is divided.

    Attributes:
        stripes: number of stripes of full-width rows; 1 computes whole frames.
    """

    stripes: int = 1


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
        tiling: how each window is divided. Samples of a divided batch are computed in turn.
    """
    if tiling.stripes == 1:
        made = flavr.apply(config, params, windows, outputs=outputs)
        # Check before `finish` turns infinity into white and NaN into black.
        return finish(made), jnp.isfinite(made).all(axis=(1, 2, 3, 4))

    def one(window: Float[Array, "time height width 3"]) -> tuple[Array, Array]:
        return _in_stripes(config, params, window[None], finish, outputs, tiling)

    return lax.map(one, windows)


def _in_stripes(
    config: ModelConfig,
    params: flavr.Parameters,
    windows: Float[Array, "1 time height width 3"],
    finish: Finish,
    outputs: tuple[int, ...] | None,
    tiling: Tiling,
) -> tuple[Array, Bool[Array, ""]]:
    """Frames of one window: whole up to the last decoder stage, then in stripes."""
    model = flavr.merged(config, params, None)
    maps, sources = model.coarse(windows)
    half_height = maps[0].values.shape[2]
    stripes = _Stripes.of(half_height, tiling.stripes, _reach(config))
    _share_gate(model.decoder.stages[-1], maps, stripes)

    def add(number: Int[Array, ""], done: tuple[Array, Array]) -> tuple[Array, Array]:
        frames, finite = done
        start, first = stripes.place(number)
        rows = Rows(2 * start, 2 * first, 2 * stripes.count)
        made = model.fine(stripes.cut(maps, start), sources, outputs=outputs, rows=rows)
        row = rows.first * config.trunk_scale
        frames = lax.dynamic_update_slice_in_dim(frames, finish(made)[0], row, axis=1)
        return frames, finite & jnp.isfinite(made).all()

    whole = jax.ShapeDtypeStruct(
        (1, config.n_outputs if outputs is None else len(outputs), *windows.shape[2:]), jnp.float32
    )
    result = jax.eval_shape(finish, whole)
    empty = jnp.zeros(result.shape[1:], result.dtype)
    return lax.fori_loop(0, stripes.number, add, (empty, jnp.array(True)))


@dataclasses.dataclass(frozen=True)
class _Stripes:
    """Division of a feature map's rows; the last stripe overlaps the one before it.

    Attributes:
        height: rows of the map.
        count: rows that each stripe writes.
        reach: rows that it also reads on either side, inside the map.
    """

    height: int
    count: int
    reach: int

    @classmethod
    def of(cls, height: int, number: int, reach: int) -> _Stripes:
        """Divide ``height`` rows into at most ``number`` stripes."""
        return cls(height, math.ceil(height / number), reach)

    @property
    def number(self) -> int:
        """Number of stripes."""
        return math.ceil(self.height / self.count)

    @property
    def read(self) -> int:
        """Number of rows that each stripe reads.

        At the top and bottom, a stripe reads more rows on its other side instead. Its own border
        is then that of the map, and convolutions pad it in the same way.
        """
        return min(self.height, self.count + 2 * self.reach)

    def place(self, number: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """The first row that a stripe reads, and the first that it writes."""
        first = jnp.minimum(number * self.count, self.height - self.count)
        return jnp.clip(first - self.reach, 0, self.height - self.read), first

    def cut(self, maps: tuple[FeatureMap, ...], start: Int[Array, ""]) -> tuple[FeatureMap, ...]:
        """The rows that a stripe reads."""
        return tuple(
            FeatureMap(
                lax.dynamic_slice_in_dim(each.values, start, self.read, axis=2), scale=each.scale
            )
            for each in maps
        )


def _reach(config: ModelConfig) -> int:
    """Rows that a stripe reads beyond those it writes, at half the U-Net's size."""
    rows = 2 + 3  # a row of the last stage's input, which is half as large; the 7×7 convolution
    if config.refine:
        rows += config.refine_layers + 2  # 3×3 convolutions
    if config.trunk_scale > 1:
        rows += 1  # interpolation to the frames' size
    return math.ceil(rows / 2)


def _share_gate(stage: DecoderStage, maps: tuple[FeatureMap, ...], stripes: _Stripes) -> None:
    """Measure the stage's gate over all stripes, and fix it to the result."""
    gate = stage.gate
    bias, kernel = gate.parameters[1], gate.parameters[0]
    # A gate whose logits are 0 halves its input, which a map in 8 bits can hold; the stage's own
    # gate would be that of each stripe.
    _fix(stage, jnp.zeros(bias.shape, jnp.float32))

    def add(number: Int[Array, ""], sums: Float[Array, " channel"]) -> Float[Array, " channel"]:
        start, first = stripes.place(number)
        half = stage.conv.gated(stripes.cut(maps, start), gate).in_units().values
        own = lax.dynamic_slice_in_dim(half, 2 * (first - start), 2 * stripes.count, axis=2)
        # Rows that the stripe before has counted are left out.
        new = 2 * first + jnp.arange(2 * stripes.count) >= 2 * number * stripes.count
        own = jnp.where(new[:, None, None], own, 0)
        return sums + own.sum(axis=(0, 1, 2, 3), dtype=jnp.float32)

    sums = lax.fori_loop(0, stripes.number, add, jnp.zeros(bias.shape, jnp.float32))
    _, time, height, width, _ = maps[0].values.shape
    _fix(stage, gate_logits(2 * sums / (time * 4 * height * width), kernel, bias))


def gate_logits(mean: Array, kernel: Array, bias: Array) -> Float[Array, " channel"]:
    """Logits of a gate from the channels' means, in float32."""
    mean, kernel, bias = (x.astype(jnp.float32) for x in (mean, kernel, bias))
    return jnp.matmul(mean, kernel, precision="highest") + bias


def _fix(stage: DecoderStage, logits: Float[Array, " channel"]) -> None:
    """Replace the gate's parameters by some that give these logits for every input."""
    stage.gate.kernel = nnx.Param(jnp.zeros_like(stage.gate.kernel[...]))
    stage.gate.bias = nnx.Param(logits)
