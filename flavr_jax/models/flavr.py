# SPDX-License-Identifier: Apache-2.0
"""FLAVR: frames between frames by 3-D convolutions alone, without optical flow.

Kalluri et al., https://arxiv.org/abs/2012.08512. A window of frames around an interval goes
through a 3-D U-Net that keeps every frame's features apart until the end, where they are fused
into all in-between frames at once.

The module defines the network; :func:`init` and :func:`apply` are the same network as functions
of a plain nested dict of arrays, which is what training, inference and checkpoints use.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from flavr_jax.config import ModelConfig
from flavr_jax.models import head
from flavr_jax.models.decoder import Decoder
from flavr_jax.models.encoder import Encoder
from flavr_jax.models.layers import (
    Conv2d,
    FeatureMap,
    Fusion,
    Implementation,
    LayerOptions,
    activate,
)
from flavr_jax.typing import Images, Windows

__all__ = [
    "FLAVR",
    "Parameters",
    "apply",
    "init",
    "merged",
    "parameter_shapes",
    "to_dict",
]

Parameters: TypeAlias = dict[str, Any]
"""Nested dicts of arrays; list positions are the keys "0", "1", …"""


class FLAVR(nnx.Module):
    """The whole network; heights and widths must be multiples of ``config.multiple``."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs | None,
        implementation: Implementation | None = None,
    ) -> None:
        options = LayerOptions(rngs, config.batch_norm, implementation)
        width = config.width
        self.config = config
        self.encoder = Encoder(config, options)
        self.decoder = Decoder(config, options)
        self.fuse = Fusion(config.n_inputs, width, options)
        self.fuse_norm = options.norm(width)
        # A small start: the first predictions are close to what the output is added to.
        channels = config.n_outputs * (head.CHANNELS if config.base == "warp" else 3)
        self.out = Conv2d(width, channels, 7, options, padding="reflect", gain=0.01)
        self.head = head.WarpHead(config, options) if config.base == "warp" else None

    def __call__(
        self, windows: Windows, *, outputs: tuple[int, ...] | None = None, remat: bool = False
    ) -> Windows:
        """The frames inside the middle interval, float32 and not clipped.

        Args:
            windows: RGB in [0, 1], ``config.n_inputs`` consecutive frames a sample.
            outputs: numbers of the predicted frames to compute, from 0; None for all.
            remat: keep only what enters each block for the gradient, and compute the rest again.

        Returns:
            ``config.n_outputs`` frames a sample, at the times k / (n_outputs + 1); or those asked.
        """
        config = self.config
        small = head.reduce(windows, config.trunk_scale)  # [b, n_inputs, h, w, 3], the trunk's size
        mean = mean_colour(small)
        dtype = self.out.kernel[...].dtype
        with jax.named_scope("encoder"):
            features = self.encoder((small - mean).astype(dtype), remat=remat)
        with jax.named_scope("decoder"):
            x = self.decoder(features, remat=remat)
        with jax.named_scope("fuse"):
            x = self._fuse(x)  # [b, h, w, width]
        wanted = np.arange(config.n_outputs) if outputs is None else np.asarray(outputs)
        times = (wanted + 1) / (config.n_outputs + 1)
        with jax.named_scope("out"):
            raw = self._raw(x, wanted)  # [b, outputs, h, w, 3 or 8]
        if self.head is not None:
            with jax.named_scope("head"):
                return self.head(raw, x, windows, small, times)
        base = mean if config.base == "mean" else blend(windows, times)
        return head.enlarge(raw, config.trunk_scale) + base

    def _raw(
        self, x: Images, wanted: Int[np.ndarray, " outputs"]
    ) -> Float[Array, "batch outputs _height _width _channel"]:
        """The output convolution, an image for each predicted time."""
        each = self.out.kernel.shape[-1] // self.config.n_outputs
        channels = None
        if len(wanted) < self.config.n_outputs:
            channels = (wanted[:, None] * each + np.arange(each)).reshape(-1)
        x = self.out(x, out_dtype=jnp.float32, channels=channels)
        return jnp.moveaxis(x.reshape(*x.shape[:3], len(wanted), each), 3, 1)

    def _fuse(self, x: FeatureMap) -> Images:
        """All frames' features into one image."""
        if self.fuse_norm is None:
            return self.fuse(x, "leaky_relu")
        return activate(self.fuse_norm(self.fuse(x)), "leaky_relu")


def mean_colour(windows: Windows) -> Float[Array, "batch 1 1 1 3"]:
    """Each sample's mean over time, height and width: ``[batch, 1, 1, 1, 3]``.

    Summed in rows of 64 pixels first: three columns alone would leave a GPU nearly idle.
    """
    batch, *size, channels = windows.shape
    rows = windows.reshape(batch, -1, 64 * channels).sum(axis=1)
    sums = rows.reshape(batch, 64, channels).sum(axis=1)
    return (sums / math.prod(size)).reshape(batch, 1, 1, 1, channels)


def blend(windows: Windows, times: Float[np.ndarray, " outputs"]) -> Windows:
    """The two middle frames mixed linearly in time, at ``times`` from 0 to 1 between them."""
    after = windows.shape[1] // 2
    share = jnp.asarray(times, windows.dtype)[None, :, None, None, None]
    return windows[:, after - 1, None] * (1 - share) + windows[:, after, None] * share


def init(config: ModelConfig, key: Array) -> Parameters:
    """Random float32 parameters (He initialisation), the same on every device.

    Drawn on the host, so not inside ``jit``; :func:`parameter_shapes` is the abstract version.
    """
    return to_dict(nnx.state(FLAVR(config, rngs=nnx.Rngs(key))))


def parameter_shapes(config: ModelConfig, dtype: DTypeLike = jnp.float32) -> Parameters:
    """The parameter tree with a ``jax.ShapeDtypeStruct`` in place of every array."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), to_dict(_skeleton(config, None)[1])
    )


def apply(
    config: ModelConfig,
    params: Parameters,
    windows: Windows,
    *,
    implementation: Implementation | None = None,
    outputs: tuple[int, ...] | None = None,
    remat: bool = False,
) -> Windows:
    """The network as a function; see :meth:`FLAVR.__call__`.

    It computes in the dtype of ``params``, which may be packed, takes float32 and returns float32.

    Raises:
        ValueError: for another number of frames than ``config.n_inputs``, or a height or width
            that is no multiple of ``config.multiple``.
    """
    _, frames, height, width, _ = windows.shape
    if frames != config.n_inputs:
        raise ValueError(
            f"a window has {frames} frames, but the network takes `n_inputs` = {config.n_inputs}."
        )
    if height % config.multiple or width % config.multiple:
        raise ValueError(
            f"frames have {width}×{height} pixels; the network takes multiples of "
            f"{config.multiple}. "
            "Pad them, or use Interpolator, which does."
        )
    return merged(config, params, implementation)(windows, outputs=outputs, remat=remat)


def merged(config: ModelConfig, params: Parameters, implementation: Implementation | None) -> FLAVR:
    """The network as a module that holds ``params``, which may be packed for 8 bits."""
    graph, abstract = _skeleton(config, implementation)
    state = jax.tree.map(lambda leaf: leaf, abstract)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


@functools.cache
def _skeleton(
    config: ModelConfig, implementation: Implementation | None
) -> tuple[nnx.GraphDef, nnx.State]:
    """The network's structure, with shapes in place of parameters."""
    model = nnx.eval_shape(lambda: FLAVR(config, rngs=None, implementation=implementation))
    return nnx.split(model)


def to_dict(state: nnx.State) -> Parameters:
    """A state as nested dicts with string keys throughout, as checkpoints store them."""

    def stringify(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {str(key): stringify(value) for key, value in tree.items()}
        return tree

    return stringify(nnx.to_pure_dict(state))
