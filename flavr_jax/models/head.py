# SPDX-License-Identifier: Apache-2.0
"""The warping head: predicted frames are mixed from displaced pixels of the two middle frames.

FLAVR synthesises every pixel of a new frame, which blurs large motion. With ``base = "warp"`` the
output convolution also predicts where to look, for each time t: backward flow into the frame before
and into the frame after, in pixels, and a mask that mixes the two. This departs from the paper,
whose network is flow-agnostic; there is still no flow loss, no flow teacher and no cost volume.
With v the raw outputs and x the position of a pixel,

    frame(t) = m · before(x + 10 t v₀) + (1 − m) · after(x + 10 (1 − t) v₁) + v_colour
    m = sigmoid(v_mask + log((1 − t) / t))

If v is 0, this is the linear blend of the two frames. Look-ups are clamped to the border. They are
bilinear, which blurs; with ``look_up = "cubic"`` these look-ups, though not those of the looks (see
below), are cubic (:mod:`pallas_kernels.sample.cubic`). The 3-D U-Net that computes v is called the
trunk; it may run on smaller frames.

One look-up in each frame cannot show a pixel that two layers share, or that may have come from two
places. With ``flow_pairs`` > 1, the last look also predicts further pairs of flows, relative to the
first, and two logits e for each; all look-ups are mixed with weights that a softmax makes:

    frame(t) = v_colour + Σₖ mₖ · before(x + 10 t (v₀ + Δₖ₀))
                           + nₖ · after(x + 10 (1 − t) (v₁ + Δₖ₁))
    (m, n) = softmax over k of (v_mask + log((1 − t) / t) + eₖ₀, eₖ₁), where Δ₀ = 0 and e₀ = 0

A caption or a display stands still over a background that moves, and its strokes can be one pixel
wide. Flow cannot change that fast. With ``keep_still``, pixels that stand still are kept, as far as
s(x) says so, which is computed from the input frames and has no parameters
(:func:`flavr_jax.models.still.standing`):

    frame(t) := (1 − s) · frame(t) + s · ((1 − t) · before(x) + t · after(x))

Similar heads: Jiang et al. 2018 (https://arxiv.org/abs/1712.00080), Huang et al. 2022
(https://arxiv.org/abs/2011.06294); several pairs of flows: Li et al. 2023
(https://arxiv.org/abs/2304.09790).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jaxtyping import Float, Int

from flavr_jax.config import ModelConfig
from flavr_jax.models.layers import (
    Convolved,
    Implementation,
    LayerOptions,
    enlarge,
    refine,
    unfolded,
    warp_and_mix,
)
from flavr_jax.models.look import CHANNELS, UNIT, Fields, Given, Look, Times
from flavr_jax.models.maps import halved, reduce
from flavr_jax.models.still import standing
from flavr_jax.typing import Images, Windows

__all__ = [
    "CHANNELS",
    "Rows",
    "Times",
    "WarpHead",
    "blend",
    "enlarge",
    "reduce",
]

_PAIR = 6
"""Raw outputs per further pair of flows: flow (x, y) into before and into after, two logits."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """A stripe of the output, and the stripe of feature maps that it is computed from.

    All are counted in rows of the trunk. The stripe of feature maps has more rows than the output,
    because convolutions also read the rows above and below.

    Attributes:
        start: first row of the feature maps.
        first: first row of the output.
        count: number of rows of the output.
    """

    start: Int[Array, ""]
    first: Int[Array, ""]
    count: int

    def of_output(
        self, maps: Float[Array, "batch output _height _width channel"], scale: int
    ) -> Float[Array, "batch output _height _width channel"]:
        """Cut the output's rows out of maps that were computed from the feature maps.

        Args:
            maps: images whose first row is ``start``.
            scale: how many times larger they are than the trunk.
        """
        offset = (self.first - self.start) * scale
        return lax.dynamic_slice_in_dim(maps, offset, self.count * scale, axis=2)


class WarpHead(nnx.Module):
    """Turns raw outputs into frames; a :class:`Look` for each of ``config.looks`` corrects them."""

    def __init__(self, config: ModelConfig, options: LayerOptions) -> None:
        self.config = config
        self.implementation: Implementation | None = options.implementation
        # The last look predicts the further pairs of flows.
        predicted = [CHANNELS] * len(config.looks)
        predicted[-1:] = [CHANNELS + _PAIR * (config.flow_pairs - 1)] * bool(config.looks)
        self.looks = nnx.List(
            Look(config, look, options, count) for look, count in zip(config.looks, predicted)
        )

    def __call__(
        self,
        raw: Fields,
        features: Images,
        windows: Windows,
        times: Times,
        rows: Rows | None = None,
    ) -> Float[Array, "batch output _height width 3"]:
        """The frames at ``times``, float32 and not clipped.

        Args:
            raw: result of the output convolution at the trunk's size, float32.
            features: the feature map that ``raw`` was computed from.
            windows: the input frames.
            times: times of the outputs, inside (0, 1).
            rows: the rows that ``raw`` and ``features`` cover and those to compute; None for all.
        """
        trunk_scale = self.config.trunk_scale
        start = 0 if rows is None else rows.start * trunk_scale
        pair = _middle_pair(windows)
        raw, correction, scale = self._looked(raw, features, pair, times, start)
        return warp_and_mix(
            pair,
            raw,
            times,
            correction=correction,
            pairs=self.config.flow_pairs,
            cubic=self.config.look_up == "cubic",
            keep=standing(lax.stop_gradient(windows)) if self.config.keep_still else None,
            unit=UNIT,
            first_row=start,
            enlarged=scale,
            # Looks and enlargement also read rows beyond those of the output.
            top=0 if rows is None else (rows.first - rows.start) * trunk_scale,
            height=None if rows is None else rows.count * trunk_scale,
            implementation=self.implementation,
        )

    def _looked(
        self,
        raw: Fields,
        features: Images,
        pair: Float[Array, "batch 2 full_height full_width 3"],
        times: Times,
        start: Int[Array, ""] | int,
    ) -> tuple[Fields, Convolved | None, int]:
        """Let every look correct the raw outputs; for the arguments see :class:`Given`.

        Returns:
            The raw outputs, a correction for :func:`warp_and_mix` to compute and add, or None, and
            how many times smaller than the frames the raw outputs are.
        """
        scale = self.config.trunk_scale  # the frames' size divided by that of `raw`
        coarse: dict[int, Fields] = {}  # corrections to be added to `raw`, by scale
        correction = None  # of the last look, where the frames are made
        refined = functools.partial(refine, implementation=self.implementation)
        for number, look in enumerate(self.looks):
            with jax.named_scope(f"look{number}"):
                if not all(each > look.scale > scale for each in coarse):
                    raw, coarse = refined(raw, *coarse.values()), {}
                enlarged = max(1, scale // look.scale)
                seen = raw
                if look.scale > scale:
                    # Corrections enlarged to the size of `raw` and reduced to that of this look are
                    # the same as those enlarged to the latter, since both sizes are even multiples.
                    seen = refined(halved(raw, look.scale // scale), *coarse.values())
                given = Given(seen, features, pair, times, start, enlarged)
                if look.scale >= scale and look.predicted == CHANNELS:
                    coarse[look.scale] = unfolded(look.folded(given))
                elif look.scale == 1 and number == len(self.looks) - 1:
                    correction = look.last(given)
                else:
                    raw, coarse = refined(raw, *coarse.values()), {}
                    found = unfolded(look.folded(given)[..., : look.predicted])
                    found = enlarge(found, max(1, look.scale // scale))
                    further = (*((0, 0),) * 4, (0, found.shape[-1] - CHANNELS))
                    raw = jnp.pad(enlarge(raw, enlarged), further) + found
                    scale = min(scale, look.scale)
        return refined(raw, *coarse.values()), correction, scale


def _middle_pair(windows: Windows) -> Float[Array, "batch 2 height width 3"]:
    """The frames before and after the interval, as constants.

    Frames are data: without a gradient for them, training needs no scatter.
    """
    middle = windows.shape[1] // 2
    return lax.stop_gradient(windows[:, middle - 1 : middle + 1])


def blend(windows: Windows, times: Times) -> Windows:
    """Linear mix of the two middle frames at ``times``, from 0 (the first) to 1 (the second)."""
    after = windows.shape[1] // 2
    share = jnp.asarray(times, windows.dtype)[..., None, None, None]
    return windows[:, after - 1, None] * (1 - share) + windows[:, after, None] * share
