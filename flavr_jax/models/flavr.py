# SPDX-License-Identifier: Apache-2.0
"""FLAVR: a network of 3-D convolutions that predicts new frames between given frames.

Kalluri et al., https://arxiv.org/abs/2012.08512. The input is a window of frames around the
interval to fill. A 3-D U-Net keeps separate features for each frame of the window. At the end they
are fused into one 2-D feature map, and one convolution predicts all frames of the interval from it.

:class:`FLAVR` defines the network. :func:`init` and :func:`apply` are the same network as pure
functions of a nested dict of arrays; training, inference and checkpoints use these.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
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
    Gate,
    Implementation,
    LayerOptions,
    activate,
)
from flavr_jax.typing import Images, Windows

__all__ = [
    "FLAVR",
    "Parameters",
    "Sources",
    "apply",
    "init",
    "merged",
    "parameter_shapes",
    "to_dict",
]

Parameters: TypeAlias = dict[str, Any]
"""Nested dicts of arrays; list positions are the keys "0", "1", …"""

Outputs: TypeAlias = tuple[int, ...] | Int[Array, "batch output"] | None
"""Which of the predicted frames to compute; an array chooses for each sample on its own."""


class Sources(NamedTuple):
    """The input frames in the forms that the network reads.

    Attributes:
        windows: at full size.
        small: at the U-Net's size.
        mean: mean colour of each sample's ``small``.
    """

    windows: Windows
    small: Float[Array, "batch _time _height _width 3"]
    mean: Float[Array, "batch 1 1 1 3"]


class FLAVR(nnx.Module):
    """The whole network; frame heights and widths must be multiples of ``config.multiple``."""

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
        # Small initial weights: the first predictions are close to the base they are added to.
        channels = config.n_outputs * (head.CHANNELS if config.base == "warp" else 3)
        self.out = Conv2d(width, channels, 7, options, padding="reflect", gain=0.01)
        self.head = head.WarpHead(config, options) if config.base == "warp" else None

    def __call__(
        self, windows: Windows, *, outputs: Outputs = None, remat: bool = False
    ) -> Windows:
        """The frames inside the middle interval, float32 and not clipped.

        Args:
            windows: RGB in [0, 1], ``config.n_inputs`` consecutive frames per sample.
            outputs: indices of the predicted frames to compute, from 0; None for all. An array of
                indices chooses for each sample on its own, as training does.
            remat: keep only the input of each block for the backward pass, and recompute the rest.

        Returns:
            ``config.n_outputs`` frames per sample, at the times k / (n_outputs + 1) between the
            two middle frames; only those in ``outputs``, if given.
        """
        sources = self.sources(windows)
        maps = self.coarse(sources.small - sources.mean, remat=remat)
        return self.fine(maps, sources, outputs=outputs, remat=remat)

    def sources(self, windows: Windows) -> Sources:
        """The input frames in the forms that the network reads."""
        small = head.reduce(windows, self.config.trunk_scale)  # [b, t, h, w, 3], U-Net size
        return Sources(windows, small, mean_colour(small))

    def coarse(
        self, colours: Float[Array, "batch time _height _width 3"], *, remat: bool = False
    ) -> tuple[FeatureMap, ...]:
        """First part of the network: the U-Net without its last decoder stage.

        Its feature maps have at most half the height and width of the U-Net's input.

        Args:
            colours: the frames at the U-Net's size, relative to their mean colour.
            remat: see :meth:`__call__`.

        Returns:
            The inputs of the last decoder stage, at half the U-Net's size.
        """
        # The kernel of the output layer has the dtype of the computation, even if packed.
        dtype = self.out.kernel.get_value().dtype
        with jax.named_scope("encoder"):
            features = self.encoder(colours.astype(dtype), remat=remat)
        with jax.named_scope("decoder"):
            return self.decoder.coarse(features, remat=remat)

    def fine(
        self,
        maps: tuple[FeatureMap, ...],
        sources: Sources,
        *,
        outputs: Outputs = None,
        rows: head.Rows | None = None,
        remat: bool = False,
    ) -> Windows:
        """Second part of the network: frames from the results of :meth:`coarse`.

        Args:
            maps: inputs of the last decoder stage; only some of their rows, if ``rows`` is given.
            sources: the frames, always whole.
            outputs: see :meth:`__call__`.
            rows: the rows that ``maps`` cover and those to compute; None for all.
            remat: see :meth:`__call__`.
        """
        config = self.config
        windows, _, mean = sources
        with jax.named_scope("decoder"):
            x = self.decoder.last(maps, remat=remat)
        with jax.named_scope("fuse"):
            x = self._fuse(x)  # [b, h, w, width]
        if isinstance(outputs, Array):
            wanted = outputs
        else:
            wanted = np.arange(config.n_outputs) if outputs is None else np.asarray(outputs)
        times = (wanted + 1) / (config.n_outputs + 1)
        with jax.named_scope("out"):
            raw = self._raw(x, wanted)  # [b, outputs, h, w, 3 or 8]
        if self.head is not None:
            with jax.named_scope("head"):
                return self.head(raw, x, windows, times, rows)
        raw, scale = head.enlarge(raw, config.trunk_scale), config.trunk_scale
        if rows is not None:
            raw = rows.of_output(raw, scale)
            windows = lax.dynamic_slice_in_dim(
                windows, rows.first * scale, rows.count * scale, axis=2
            )
        return raw + (mean if config.base == "mean" else head.blend(windows, times))

    @property
    def gates(self) -> list[Gate]:
        """All gates in order of execution."""
        stages = self.encoder.stages
        return [
            *(block.gate for stage in stages for block in stage),
            *(stage.gate for stage in self.decoder.stages),
        ]

    def _raw(
        self, x: Images, wanted: Int[np.ndarray, " outputs"] | Int[Array, "batch outputs"]
    ) -> Float[Array, "batch outputs _height _width _channel"]:
        """Raw outputs of the last convolution, one image for each predicted time."""
        each = self.out.kernel.get_value().shape[-1] // self.config.n_outputs
        channels = None
        if isinstance(wanted, Array):
            every = self._raw(x, np.arange(self.config.n_outputs))
            return jnp.take_along_axis(every, wanted[..., None, None, None], axis=1)
        if not np.array_equal(wanted, np.arange(self.config.n_outputs)):
            # Output channels are grouped by time: compute the wanted groups alone.
            channels = (wanted[:, None] * each + np.arange(each)).reshape(-1)
        x = self.out(x, out_dtype=jnp.float32, channels=channels)
        return jnp.moveaxis(x.reshape(*x.shape[:3], len(wanted), each), 3, 1)

    def _fuse(self, x: FeatureMap) -> Images:
        """Fuse the features of all input frames into one 2-D feature map."""
        if self.fuse_norm is None:
            return self.fuse(x, "leaky_relu")
        return activate(self.fuse_norm(self.fuse(x)), "leaky_relu")


def mean_colour(windows: Windows) -> Float[Array, "batch 1 1 1 3"]:
    """Mean colour of each sample over time, height and width: ``[batch, 1, 1, 1, 3]``.

    The sum takes two steps, because a reduction to 3 numbers at once leaves a GPU nearly idle. The
    first step makes 64 × 3 partial sums.
    """
    # Heights and widths are multiples of 8, so that 64 divides the number of pixels.
    batch, *size, channels = windows.shape
    rows = windows.reshape(batch, -1, 64 * channels).sum(axis=1)
    sums = rows.reshape(batch, 64, channels).sum(axis=1)
    return (sums / math.prod(size)).reshape(batch, 1, 1, 1, channels)


def init(config: ModelConfig, key: Array) -> Parameters:
    """Random float32 parameters (He initialisation), the same on every device.

    NumPy draws them on the host, so this cannot run inside ``jit``; for shapes alone, use
    :func:`parameter_shapes`.
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
    outputs: Outputs = None,
    remat: bool = False,
) -> Windows:
    """The network as a pure function; see :meth:`FLAVR.__call__`.

    Inputs and outputs are float32; in between, the dtype is that of ``params``, which may be packed
    (:func:`flavr_jax.models.quantized.pack`).

    Raises:
        ValueError: a window does not have ``config.n_inputs`` frames, or the height or width is not
            a multiple of ``config.multiple``.
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
    """The network as a module that holds ``params``, which may be packed."""
    graph, abstract = _skeleton(config, implementation)
    # A copy, because the next line changes it in place and the skeleton is cached.
    state = jax.tree.map(lambda leaf: leaf, abstract)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


@functools.cache
def _skeleton(
    config: ModelConfig, implementation: Implementation | None
) -> tuple[nnx.GraphDef, nnx.State]:
    """The network's structure, and its state with shapes in place of arrays."""
    model = nnx.eval_shape(lambda: FLAVR(config, rngs=None, implementation=implementation))
    return nnx.split(model)


def to_dict(state: nnx.State) -> Parameters:
    """Convert a state to nested dicts whose keys are all strings, as checkpoints store them."""

    def stringify(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {str(key): stringify(value) for key, value in tree.items()}
        return tree

    return stringify(nnx.to_pure_dict(state))
