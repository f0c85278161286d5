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
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from flavr_jax.config import ModelConfig
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
    """The whole network; heights and widths must be multiples of 8."""

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
        self.out = Conv2d(width, 3 * config.n_outputs, 7, options, padding="reflect", gain=0.01)

    def __call__(self, windows: Windows, *, remat: bool = False) -> Windows:
        """The frames inside the middle interval, float32 and not clipped.

        Args:
            windows: RGB in [0, 1], ``config.n_inputs`` consecutive frames a sample.
            remat: keep only what enters each block for the gradient, and compute the rest again.

        Returns:
            ``config.n_outputs`` frames a sample, at the times k / (n_outputs + 1).
        """
        mean = mean_colour(windows)
        dtype = self.out.kernel[...].dtype
        with jax.named_scope("encoder"):
            features = self.encoder((windows - mean).astype(dtype), remat=remat)
        with jax.named_scope("decoder"):
            x = self.decoder(features, remat=remat)
        with jax.named_scope("fuse"):
            x = self._fuse(x)  # [b, h, w, width]
        with jax.named_scope("out"):
            x = self.out(x, out_dtype=jnp.float32)  # [b, h, w, n_outputs·3]
        x = x.reshape(*x.shape[:3], self.config.n_outputs, 3)
        base = mean if self.config.base == "mean" else blend(windows, self.config.n_outputs)
        return jnp.moveaxis(x, 3, 1) + base

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


def blend(windows: Windows, n_outputs: int) -> Windows:
    """The two middle frames mixed linearly in time, at the times k / (n_outputs + 1)."""
    after = windows.shape[1] // 2
    times = jnp.arange(1, n_outputs + 1, dtype=windows.dtype) / (n_outputs + 1)
    times = times[None, :, None, None, None]
    return windows[:, after - 1, None] * (1 - times) + windows[:, after, None] * times


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
    remat: bool = False,
) -> Windows:
    """The network as a function; see :meth:`FLAVR.__call__`.

    It computes in the dtype of ``params``, which may be packed, takes float32 and returns float32.

    Raises:
        ValueError: for another number of frames than ``config.n_inputs``, or a height or width
            that is no multiple of 8.
    """
    _, frames, height, width, _ = windows.shape
    if frames != config.n_inputs:
        raise ValueError(
            f"a window has {frames} frames, but the network takes `n_inputs` = {config.n_inputs}."
        )
    if height % 8 or width % 8:
        raise ValueError(
            f"frames have {width}×{height} pixels; the network takes multiples of 8. "
            "Pad them, or use Interpolator, which does."
        )
    return merged(config, params, implementation)(windows, remat=remat)


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
