# SPDX-License-Identifier: Apache-2.0
"""The warping head: predicted frames are mixed from displaced pixels of the two middle frames.

FLAVR draws every pixel of a new frame, which leaves what moves far soft. With ``base = "warp"`` the
output convolution says in addition where to look: for each predicted time t, a displacement into
the frame before and one into the frame after (backward flow, in pixels), and a mask that mixes the
two. This is a departure from the paper, whose network is flow-agnostic; there is still no flow
loss, no flow teacher and no cost volume. In equations, with v the raw outputs,

    frame(t) = m · before(x + 10 t v₀) + (1 − m) · after(x + 10 (1 − t) v₁) + v_colour
    m = sigmoid(v_mask + log((1 − t) / t))

so that zeros give the two frames blended by time. Look-ups are bilinear and clamped at the border.
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
from jaxtyping import Float

from flavr_jax.config import ModelConfig
from flavr_jax.models.layers import Conv2d, Implementation, LayerOptions, sample
from flavr_jax.typing import Images, Windows

__all__ = ["CHANNELS", "WarpHead", "enlarge", "reduce"]

CHANNELS = 8
"""Raw outputs a predicted time: 3 colours, displacements before and after (x, y), the mask."""

_UNIT = 10.0  # pixels: raw outputs of about 1 are motion of about 10 pixels an interval

Fields: TypeAlias = Float[Array, "batch output _height _width 8"]
"""Raw outputs, at the trunk's size or enlarged."""


class WarpHead(nnx.Module):
    """Turns raw outputs into frames; with ``config.refine`` channels it looks twice.

    The second look is a small 2-D network at the trunk's size, run once for each predicted time. It
    sees both frames as the first look has displaced them, and corrects the raw outputs.
    """

    def __init__(self, config: ModelConfig, options: LayerOptions) -> None:
        self.config = config
        self.implementation: Implementation | None = options.without_kernel
        channels = config.refine
        if channels:
            # 20 channels are no multiple of 16, which the GPU kernel asks for.
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
    ) -> Windows:
        """The frames at ``times``, float32 and not clipped.

        Args:
            raw: the output convolution's result at the trunk's size, float32.
            features: what it was computed from.
            windows: the input frames.
            small: the same at the trunk's size.
            times: of the outputs, inside (0, 1).
        """
        if self.config.refine:
            raw = raw + self._second_look(raw, features, small, times)
        return self._look(enlarge(raw, self.config.trunk_scale), windows, times)

    def _second_look(
        self,
        raw: Fields,
        features: Images,
        small: Float[Array, "batch _time _height _width 3"],
        times: Float[np.ndarray, " output"],
    ) -> Fields:
        """Corrections of the raw outputs."""
        batch, outputs, height, width, _ = raw.shape
        middle = small.shape[1] // 2
        pair = small[:, middle - 1 : middle + 1]
        displacements, _ = _placed(raw, times, self.config.trunk_scale)
        alone = jnp.broadcast_to(jnp.eye(2)[:, :, None, None], (2, 2, height, width))
        # Each frame displaced on its own: [b, outputs, 2, h, w, 3].
        moved = jnp.stack(
            [
                sample(
                    lax.stop_gradient(pair[:, n : n + 1]),
                    displacements[:, :, n : n + 1],
                    jnp.broadcast_to(alone[n, n], (batch, outputs, 1, height, width)),
                    implementation=self.implementation,
                )
                for n in range(2)
            ],
            axis=-2,
        )
        still = jnp.broadcast_to(
            jnp.moveaxis(pair, 1, -2)[:, None], (batch, outputs, height, width, 2, 3)
        )
        seen = jnp.concatenate([moved, still], axis=-2).reshape(batch, outputs, height, width, 12)
        x = jnp.concatenate([seen - 0.5, raw], axis=-1)
        x = x.reshape(batch * outputs, height, width, -1).astype(features.dtype)
        x = self.read(x).reshape(batch, outputs, height, width, -1)
        x = nnx.leaky_relu(x + self.context(features)[:, None], 0.2)
        x = x.reshape(batch * outputs, height, width, -1)
        for layer in self.hidden:
            x = layer(x, "leaky_relu")
        correction = self.correct(x, out_dtype=jnp.float32)
        return correction.reshape(raw.shape)

    def _look(self, raw: Fields, windows: Windows, times: Float[np.ndarray, " output"]) -> Windows:
        """The mix of displaced pixels, plus colours."""
        middle = windows.shape[1] // 2
        displacements, weights = _placed(raw, times, 1)
        pair = lax.stop_gradient(windows[:, middle - 1 : middle + 1])
        mixed = sample(pair, displacements, weights, implementation=self.implementation)
        return mixed + raw[..., :3]


def _placed(
    raw: Fields, times: Float[np.ndarray, " output"], scale: int
) -> tuple[
    Float[Array, "batch output 2 height width 2"], Float[Array, "batch output 2 height width"]
]:
    """Displacements in pixels of frames that are ``scale`` times smaller, and weights."""
    t = jnp.asarray(times, jnp.float32)[:, None, None]
    reach = jnp.stack([t, 1 - t], axis=1)[..., None] * (_UNIT / scale)  # [t, 2, 1, 1, 1]
    displacements = jnp.stack([raw[..., 3:5], raw[..., 5:7]], axis=2) * reach
    mask = nnx.sigmoid(raw[..., 7] + jnp.log((1 - t) / t))
    return displacements, jnp.stack([mask, 1 - mask], axis=2)


def reduce(windows: Windows, scale: int) -> Float[Array, "batch _time _height _width 3"]:
    """Frames ``scale`` times smaller: means of squares of pixels."""
    if scale == 1:
        return windows
    batch, time, height, width, channels = windows.shape
    shape = (batch, time, height // scale, scale, width // scale, scale, channels)
    return windows.reshape(shape).mean(axis=(3, 5))


def enlarge(
    maps: Float[Array, "batch output _height _width channel"], scale: int
) -> Float[Array, "batch output _height _width channel"]:
    """Maps ``scale`` times larger, linearly interpolated between pixel centres."""
    if scale == 1:
        return maps
    batch, time, height, width, channels = maps.shape
    return jax.image.resize(maps, (batch, time, height * scale, width * scale, channels), "linear")
