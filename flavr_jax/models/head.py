# SPDX-License-Identifier: Apache-2.0
"""The warping head: predicted frames are mixed from displaced pixels of the two middle frames.

FLAVR synthesises every pixel of a new frame, which blurs large motion. With ``base = "warp"`` the
output convolution also predicts where to look, for each time t: backward flow into the frame before
and into the frame after, in pixels, and a mask that mixes the two. This departs from the paper,
whose network is flow-agnostic; there is still no flow loss, no flow teacher and no cost volume.
With v the raw outputs and x the position of a pixel,

    frame(t) = m · before(x + 10 t v₀) + (1 − m) · after(x + 10 (1 − t) v₁) + v_colour
    m = sigmoid(v_mask + log((1 − t) / t))

If v is 0, this is the linear blend of the two frames. Look-ups are bilinear and clamped to the
border. The 3-D U-Net that computes v is called the trunk; it may run on smaller frames.

One look-up in each frame cannot show a pixel that two layers share, or that may have come from two
places. With ``flow_pairs`` > 1, the last look also predicts further pairs of flows, relative to the
first, and two logits e for each; all look-ups are mixed with weights that a softmax makes:

    frame(t) = v_colour + Σₖ mₖ · before(x + 10 t (v₀ + Δₖ₀))
                           + nₖ · after(x + 10 (1 − t) (v₁ + Δₖ₁))
    (m, n) = softmax over k of (v_mask + log((1 − t) / t) + eₖ₀, eₖ₁), where Δ₀ = 0 and e₀ = 0

A caption or a display stands still over a background that moves, and its strokes can be one pixel
wide. Flow cannot change that fast. With ``keep_still``, pixels that stand still are kept, as far as
s(x) says so, which is computed from the input frames and has no parameters (:func:`standing`):

    frame(t) := (1 − s) · frame(t) + s · ((1 − t) · before(x) + t · after(x))

Similar heads: Jiang et al. 2018 (https://arxiv.org/abs/1712.00080), Huang et al. 2022
(https://arxiv.org/abs/2011.06294); several pairs of flows: Li et al. 2023
(https://arxiv.org/abs/2304.09790).
"""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from jaxtyping import Float, Int

from flavr_jax.config import LookConfig, ModelConfig
from flavr_jax.models.layers import Conv2d, Implementation, LayerOptions, sample
from flavr_jax.typing import Images, Windows

__all__ = [
    "CHANNELS",
    "Look",
    "Rows",
    "WarpHead",
    "blend",
    "enlarge",
    "pixels_read",
    "reduce",
    "standing",
]

CHANNELS = 8
"""Raw outputs per predicted time: 3 colours, flow (x, y) into before and into after, the mask."""

_PAIR = 6
"""Raw outputs per further pair of flows: flow (x, y) into before and into after, two logits."""

_SEEN = 3 * 4 + CHANNELS  # channels of a pixel that a look reads: four images, the raw outputs
_UNIT = 10.0  # pixels per interval for a raw flow of 1, so that raw outputs are of order 1
_NOTICEABLE = 4 / 255  # change of a colour that counts half
_CELL = 8  # side of the cells, in pixels, in which changes around a pixel are averaged
_AROUND = 3  # cells on either side of that of the pixel

Fields: TypeAlias = Float[Array, "batch output _height _width _raw"]
"""Raw outputs, at the size of the U-Net (the trunk) or enlarged to that of the frames.

After the last look, further pairs of flows follow the 8 channels."""

Times: TypeAlias = Float[np.ndarray, " output"] | Float[Array, "batch output"]
"""Times of the outputs, inside (0, 1): the same for all samples, or each sample's own."""


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
        middle = windows.shape[1] // 2
        # Frames are data: without a gradient for them, training needs no scatter.
        pair = lax.stop_gradient(windows[:, middle - 1 : middle + 1])
        trunk_scale = self.config.trunk_scale
        start = 0 if rows is None else rows.start * trunk_scale
        scale = trunk_scale  # the frames' size divided by that of `raw`
        for number, look in enumerate(self.looks):
            with jax.named_scope(f"look{number}"):
                if look.scale < scale:
                    raw, scale = enlarge(raw, scale // look.scale), look.scale
                times_smaller = look.scale // scale
                smaller = reduce(raw, times_smaller)
                correction = look(smaller, features, pair, times, start)
                further = correction.shape[-1] - CHANNELS
                raw = jnp.pad(raw, (*((0, 0),) * 4, (0, further)))
                raw = raw + enlarge(correction, times_smaller)
        raw = enlarge(raw, scale)
        if rows is not None:
            # Only now: looks and enlargement also read rows beyond those of the output.
            raw, start = rows.of_output(raw, trunk_scale), rows.first * trunk_scale
        displacements, weights = _displacements_and_weights(raw, times, 1, start)
        # Every pair of flows looks into the same two frames.
        frames = jnp.concatenate([pair] * self.config.flow_pairs, axis=1)
        residual = raw[..., :3]
        if self.config.keep_still:
            unmoved, still = (
                lax.dynamic_slice_in_dim(maps, start, raw.shape[2], axis=2)
                for maps in (pair, standing(lax.stop_gradient(windows)))
            )
            weights = weights * (1 - still[:, :, None, ..., 0])
            residual = (1 - still) * residual + still * blend(unmoved, times)
        return sample(
            frames, displacements, weights, residual=residual, implementation=self.implementation
        )


class Look(nnx.Module):
    """Corrects the raw outputs after a look at the frames as they are warped so far.

    A 2-D network that runs once for each predicted time. It sees both middle frames, as they are
    and warped by the raw outputs, and the trunk's features. If it sees the frames larger than the
    trunk does, ``fold × fold`` of their pixels become the channels of one position, so that its
    convolutions run at the trunk's size.
    """

    def __init__(
        self,
        config: ModelConfig,
        look: LookConfig,
        options: LayerOptions,
        predicted: int = CHANNELS,
    ) -> None:
        """Make a look.

        Args:
            config: the network's settings.
            look: its own.
            options: how its layers compute.
            predicted: raw outputs per time that it corrects or, beyond ``CHANNELS``, predicts.
        """
        self.scale = look.scale
        self.fold = max(1, config.trunk_scale // look.scale)
        self.times_smaller = look.scale * self.fold // config.trunk_scale  # than the trunk
        self.implementation: Implementation | None = options.without_kernel
        channels, pixels = look.channels, self.fold**2
        seen = pixels * _SEEN
        # The GPU kernel needs a multiple of 16 input channels.
        plain = dataclasses.replace(options, implementation=options.without_kernel)
        self.read = Conv2d(seen, channels, 3, plain if seen % 16 else options)
        self.context = Conv2d(config.width, channels, 3, options, use_bias=False, gain=1.0)
        self.hidden = nnx.List(Conv2d(channels, channels, 3, options) for _ in range(look.layers))
        # Small initial weights: at first, a look corrects next to nothing.
        self.correct = Conv2d(channels, pixels * predicted, 3, options, gain=0.01)

    def __call__(
        self,
        raw: Fields,
        features: Images,
        pair: Float[Array, "batch 2 full_height full_width 3"],
        times: Times,
        start: Int[Array, ""] | int,
    ) -> Fields:
        """Corrections of the raw outputs.

        Args:
            raw: raw outputs so far, ``scale`` times smaller than the frames.
            features: the trunk's, at the trunk's size.
            pair: the whole middle frames.
            times: times of the outputs, inside (0, 1).
            start: the row of the frames at which ``raw`` and ``features`` begin.
        """
        batch, outputs, height, width, _ = raw.shape
        pair = reduce(pair, self.scale)
        # Stripes begin at rows that are whole at every scale (`_Stripes.unit` in
        # inference/tiles.py).
        first = start // self.scale
        displacements, _ = _displacements_and_weights(raw, times, self.scale, first)
        # Each of the two frames warped on its own, with weight 1: [b, outputs, h, w, 2, 3].
        ones = jnp.ones((batch, outputs, 1, height, width))
        moved = jnp.stack(
            [
                sample(
                    pair[:, n : n + 1],
                    displacements[:, :, n : n + 1],
                    ones,
                    implementation=self.implementation,
                )
                for n in range(2)
            ],
            axis=-2,
        )
        # The same frames unwarped, repeated for every output.
        pair = lax.dynamic_slice_in_dim(pair, first, height, axis=2)
        still = jnp.broadcast_to(
            jnp.moveaxis(pair, 1, -2)[:, None], (batch, outputs, height, width, 2, 3)
        )
        seen = jnp.concatenate([moved, still], axis=-2).reshape(batch, outputs, height, width, 12)
        # Colours about 0, as the other inputs are.
        x = jnp.concatenate([seen - 0.5, raw], axis=-1)
        x = _folded(x.reshape(batch * outputs, height, width, -1), self.fold)
        x = self.read(x.astype(features.dtype))
        x = x.reshape(batch, outputs, *x.shape[1:])
        # The features are the same for all outputs, so their convolution runs once per sample.
        features = reduce(features[:, None], self.times_smaller)[:, 0].astype(features.dtype)
        # The sum of two convolutions is one over the concatenation of their inputs.
        x = nnx.leaky_relu(x + self.context(features)[:, None], 0.2)
        x = x.reshape(batch * outputs, *x.shape[2:])
        for layer in self.hidden:
            x = layer(x, "leaky_relu")
        correction = _unfolded(self.correct(x, out_dtype=jnp.float32), self.fold)
        return correction.reshape(*raw.shape[:-1], -1)


def pixels_read(channels: int) -> int:
    """Number of pixels that a look with so many input channels takes as one position."""
    return channels // _SEEN


def standing(windows: Windows) -> Float[Array, "batch 1 height width 1"]:
    """How far each pixel stands still and should be kept, from 0 to 1.

    It has to have the same colour in all frames of the window, and the picture within 28 pixels of
    it has to move: then it belongs to something that lies over the picture. Or nothing may move
    there. In between, it may be a background that a small object passes, such as a ball, which the
    network has to decide.
    """
    # Small changes count more: one of 4 levels of 255 is 0.5, one of 36 is 0.9.
    change = (windows.max(axis=1) - windows.min(axis=1)).max(axis=-1)[:, None, ..., None]
    change = change / (change + _NOTICEABLE)
    around, side = reduce(change, _CELL), 2 * _AROUND + 1
    for axis in (2, 3):
        length, ends = around.shape[axis], [(_AROUND * (each == axis),) * 2 for each in range(5)]
        padded = jnp.pad(around, ends, mode="edge")
        near = (lax.slice_in_dim(padded, n, n + length, axis=axis) for n in range(side))
        around = sum(near, jnp.zeros(())) / side
    around = enlarge(around, _CELL)
    moving = jnp.clip((around - 0.15) / (0.35 - 0.15), 0.0, 1.0)
    same = (1.0 - change) * (1.0 - change)
    return same * same * jnp.where(around < 0.002, 1.0, moving)


def _folded(
    x: Float[Array, "batch height width channel"], fold: int
) -> Float[Array, "batch _height _width _channel"]:
    """``fold × fold`` neighbouring pixels as the channels of one ("space to depth")."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // fold, fold, width // fold, fold, channels)
    return x.swapaxes(2, 3).reshape(batch, height // fold, width // fold, -1)


def _unfolded(
    x: Float[Array, "batch height width channel"], fold: int
) -> Float[Array, "batch _height _width _channel"]:
    """Inverse of :func:`_folded`."""
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, fold, fold, -1)
    return x.swapaxes(2, 3).reshape(batch, height * fold, width * fold, -1)


def _displacements_and_weights(
    raw: Fields,
    times: Times,
    scale: int,
    first_row: Int[Array, ""] | int,
) -> tuple[
    Float[Array, "batch output source height width 2"],
    Float[Array, "batch output source height width"],
]:
    """Displacements, in pixels of frames ``scale`` times smaller, and mixing weights.

    Displacements count from the raw outputs' positions, whose first row is ``first_row`` of the
    frames. The sources are the frame before and the frame after, for each pair of flows.
    """
    t = jnp.asarray(times, jnp.float32)[..., None, None]
    first = raw[..., 3:7]
    further = [raw[..., n : n + _PAIR] for n in range(CHANNELS, raw.shape[-1], _PAIR)]
    flows = [first, *(first + each[..., :4] for each in further)]
    flows = [flow[..., side : side + 2] for flow in flows for side in (0, 2)]
    reach = jnp.stack([t, 1 - t] * (len(flows) // 2), axis=-3)[..., None] * (_UNIT / scale)
    displacements = jnp.stack(flows, axis=2) * reach  # [..., t, source, 1, 1, 1]
    displacements += jnp.stack([jnp.zeros(()), jnp.asarray(first_row, jnp.float32)])
    logit = raw[..., 7] + jnp.log((1 - t) / t)
    if not further:
        mask = nnx.sigmoid(logit)
        return displacements, jnp.stack([mask, 1 - mask], axis=2)
    logits = [logit, jnp.zeros_like(logit)]
    for each in further:
        logits += [logit + each[..., 4], each[..., 5]]
    return displacements, jax.nn.softmax(jnp.stack(logits, axis=2), axis=2)


def blend(windows: Windows, times: Times) -> Windows:
    """Linear mix of the two middle frames at ``times``, from 0 (the first) to 1 (the second)."""
    after = windows.shape[1] // 2
    share = jnp.asarray(times, windows.dtype)[..., None, None, None]
    return windows[:, after - 1, None] * (1 - share) + windows[:, after, None] * share


def reduce(
    maps: Float[Array, "batch output height width channel"], scale: int
) -> Float[Array, "batch output _height _width channel"]:
    """Maps ``scale`` times smaller; each pixel is the mean of ``scale × scale`` pixels."""
    if scale == 1:
        return maps
    batch, time, height, width, channels = maps.shape
    shape = (batch, time, height // scale, scale, width // scale, scale, channels)
    return maps.reshape(shape).mean(axis=(3, 5))


def enlarge(
    maps: Float[Array, "batch output _height _width channel"], scale: int
) -> Float[Array, "batch output _height _width channel"]:
    """Maps ``scale`` times larger, by bilinear interpolation between pixel centres."""
    if scale == 1:
        return maps
    # As sums of shifted maps: jax.image.resize multiplies by dense matrices in float32, for which
    # XLA compiles and times many kernels on a GPU.
    return _longer(_longer(maps, scale, axis=2), scale, axis=3)


def _longer(
    maps: Float[Array, "batch output _height _width channel"], scale: int, axis: int
) -> Float[Array, "batch output _height _width channel"]:
    """Maps with ``scale`` times as many rows or columns, interpolated linearly."""
    length = maps.shape[axis]
    ends = [(int(each == axis),) * 2 for each in range(maps.ndim)]
    beyond = jnp.pad(maps, ends, mode="edge")
    parts = []
    for part in range(scale):
        # Distance of the new pixel's centre from that of the old one, in old pixels.
        below, share = divmod((part + 0.5) / scale - 0.5, 1)
        first = 1 + int(below)
        one, next_one = (
            lax.slice_in_dim(beyond, start, start + length, axis=axis)
            for start in (first, first + 1)
        )
        parts.append((1 - share) * one + share * next_one)
    shape = (*maps.shape[:axis], length * scale, *maps.shape[axis + 1 :])
    return jnp.stack(parts, axis=axis + 1).reshape(shape)
