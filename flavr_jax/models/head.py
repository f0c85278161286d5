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

Similar heads: Jiang et al. 2018 (https://arxiv.org/abs/1712.00080), Huang et al. 2022
(https://arxiv.org/abs/2011.06294).
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

from flavr_jax.config import ModelConfig
from flavr_jax.models.layers import Conv2d, Implementation, LayerOptions, sample
from flavr_jax.typing import Images, Windows

__all__ = ["CHANNELS", "Rows", "WarpHead", "enlarge", "reduce"]

CHANNELS = 8
"""Raw outputs per predicted time: 3 colours, flow (x, y) into before and into after, the mask."""

_UNIT = 10.0  # pixels per interval for a raw flow of 1, so that raw outputs are of order 1

Fields: TypeAlias = Float[Array, "batch output _height _width 8"]
"""Raw outputs, at the size of the U-Net (the trunk) or enlarged to that of the frames."""


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
    """Turns raw outputs into frames, with an optional refinement of the raw outputs.

    The refinement ("second look") is a small 2-D network of ``config.refine`` channels at the
    trunk's size, run once for each predicted time. It sees both frames warped by the raw outputs,
    and predicts corrections of the raw outputs.
    """

    def __init__(self, config: ModelConfig, options: LayerOptions) -> None:
        self.config = config
        self.implementation: Implementation | None = options.implementation
        channels = config.refine
        if channels:
            # The GPU kernel needs a multiple of 16 input channels, and this layer has 20.
            plain = dataclasses.replace(options, implementation=options.without_kernel)
            self.read = Conv2d(3 * 4 + CHANNELS, channels, 3, plain)
            self.context = Conv2d(config.width, channels, 3, options, use_bias=False, gain=1.0)
            self.hidden = nnx.List(
                Conv2d(channels, channels, 3, options) for _ in range(config.refine_layers)
            )
            self.correct = Conv2d(channels, CHANNELS, 3, options, gain=0.01)

    def __call__(
        self,
        raw: Fields,
        features: Images,
        windows: Windows,
        small: Float[Array, "batch _time _height _width 3"],
        times: Float[np.ndarray, " output"],
        rows: Rows | None = None,
    ) -> Float[Array, "batch output _height width 3"]:
        """The frames at ``times``, float32 and not clipped.

        Args:
            raw: result of the output convolution at the trunk's size, float32.
            features: the feature map that ``raw`` was computed from.
            windows: the input frames.
            small: the input frames at the trunk's size.
            times: times of the outputs, inside (0, 1).
            rows: the rows that ``raw`` and ``features`` cover and those to compute; None for all.
        """
        scale = self.config.trunk_scale
        if self.config.refine:
            start = 0 if rows is None else rows.start
            raw = raw + self._second_look(raw, features, small, times, start)
        raw = enlarge(raw, scale)
        if rows is None:
            return self._look(raw, windows, times, 0)
        return self._look(rows.of_output(raw, scale), windows, times, rows.first * scale)

    def _second_look(
        self,
        raw: Fields,
        features: Images,
        small: Float[Array, "batch _time _small_height _width 3"],
        times: Float[np.ndarray, " output"],
        first_row: Int[Array, ""] | int,
    ) -> Fields:
        """Corrections of the raw outputs, from both frames before and after warping."""
        batch, outputs, height, width, _ = raw.shape
        middle = small.shape[1] // 2
        pair = small[:, middle - 1 : middle + 1]
        displacements, _ = _displacements_and_weights(
            raw, times, self.config.trunk_scale, first_row
        )
        # Each of the two frames warped on its own, with weight 1: [b, outputs, h, w, 2, 3].
        ones = jnp.ones((batch, outputs, 1, height, width))
        moved = jnp.stack(
            [
                sample(
                    lax.stop_gradient(pair[:, n : n + 1]),
                    displacements[:, :, n : n + 1],
                    ones,
                    implementation=self.implementation,
                )
                for n in range(2)
            ],
            axis=-2,
        )
        # The same frames unwarped, repeated for every output.
        pair = lax.dynamic_slice_in_dim(pair, first_row, height, axis=2)
        still = jnp.broadcast_to(
            jnp.moveaxis(pair, 1, -2)[:, None], (batch, outputs, height, width, 2, 3)
        )
        seen = jnp.concatenate([moved, still], axis=-2).reshape(batch, outputs, height, width, 12)
        x = jnp.concatenate([seen - 0.5, raw], axis=-1)
        x = x.reshape(batch * outputs, height, width, -1).astype(features.dtype)
        # The features are the same for all outputs, so their convolution runs once per sample.
        x = self.read(x).reshape(batch, outputs, height, width, -1)
        x = nnx.leaky_relu(x + self.context(features)[:, None], 0.2)
        x = x.reshape(batch * outputs, height, width, -1)
        for layer in self.hidden:
            x = layer(x, "leaky_relu")
        correction = self.correct(x, out_dtype=jnp.float32)
        return correction.reshape(raw.shape)

    def _look(
        self,
        raw: Fields,
        windows: Windows,
        times: Float[np.ndarray, " output"],
        first_row: Int[Array, ""] | int,
    ) -> Float[Array, "batch output _height width 3"]:
        """The two middle frames warped and mixed, plus the predicted colours.

        The raw outputs may begin at a later row than the frames, which are always whole.
        """
        middle = windows.shape[1] // 2
        # Frames are data: without a gradient for them, training needs no scatter.
        displacements, weights = _displacements_and_weights(raw, times, 1, first_row)
        pair = lax.stop_gradient(windows[:, middle - 1 : middle + 1])
        return sample(
            pair,
            displacements,
            weights,
            residual=raw[..., :3],
            implementation=self.implementation,
        )


def _displacements_and_weights(
    raw: Fields,
    times: Float[np.ndarray, " output"],
    scale: int,
    first_row: Int[Array, ""] | int,
) -> tuple[
    Float[Array, "batch output 2 height width 2"], Float[Array, "batch output 2 height width"]
]:
    """Displacements, in pixels of frames ``scale`` times smaller, and mixing weights.

    Displacements count from the raw outputs' positions, whose first row is ``first_row`` of the
    frames.
    """
    t = jnp.asarray(times, jnp.float32)[:, None, None]
    reach = jnp.stack([t, 1 - t], axis=1)[..., None] * (_UNIT / scale)  # [t, 2, 1, 1, 1]
    displacements = jnp.stack([raw[..., 3:5], raw[..., 5:7]], axis=2) * reach
    displacements += jnp.stack([jnp.zeros(()), jnp.asarray(first_row, jnp.float32)])
    mask = nnx.sigmoid(raw[..., 7] + jnp.log((1 - t) / t))
    return displacements, jnp.stack([mask, 1 - mask], axis=2)


def reduce(windows: Windows, scale: int) -> Float[Array, "batch _time _height _width 3"]:
    """Frames ``scale`` times smaller; each pixel is the mean of ``scale × scale`` pixels."""
    if scale == 1:
        return windows
    batch, time, height, width, channels = windows.shape
    shape = (batch, time, height // scale, scale, width // scale, scale, channels)
    return windows.reshape(shape).mean(axis=(3, 5))


def enlarge(
    maps: Float[Array, "batch output _height _width channel"], scale: int
) -> Float[Array, "batch output _height _width channel"]:
    """Maps ``scale`` times larger, by bilinear interpolation between pixel centres."""
    if scale == 1:
        return maps
    batch, time, height, width, channels = maps.shape
    return jax.image.resize(maps, (batch, time, height * scale, width * scale, channels), "linear")
