# SPDX-License-Identifier: Apache-2.0
"""FLAVR: frames between frames by 3-D convolutions alone, without optical flow.

Kalluri et al., https://arxiv.org/abs/2012.08512. A window of frames around an interval goes
through a 3-D U-Net that keeps every frame's features apart until the end, where they are fused
into all in-between frames at once.

The module defines the network; :func:`init` and :func:`apply` are the same network as functions
of a plain nested dict of arrays, which is what training, inference and checkpoints use.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
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
    LARGEST,
    Conv2d,
    FeatureMap,
    Fusion,
    Implementation,
    LayerOptions,
    activate,
    pack_kernel,
    quantize_kernel,
    watching,
)
from flavr_jax.typing import Images, Windows

__all__ = [
    "FLAVR",
    "Convolution",
    "Parameters",
    "apply",
    "convolutions",
    "feature_maps",
    "init",
    "pack",
    "parameter_shapes",
    "ranges",
    "scales_for",
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


def parameter_shapes(
    config: ModelConfig,
    dtype: DTypeLike = jnp.float32,
    scales: Mapping[str, float] | None = None,
) -> Parameters:
    """The parameter tree with a ``jax.ShapeDtypeStruct`` in place of every array.

    With ``scales``, which :func:`pack` explains, the tree that it makes for the GPU kernels.
    """
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), to_dict(_skeleton(config, None)[1])
    )
    if scales is None:
        return shapes
    return jax.eval_shape(
        functools.partial(pack, config, scales=scales, implementation="mosaic_gpu"), shapes
    )


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A 3-D convolution of a network, and where its inputs come from.

    Attributes:
        name: of the layer, and of the feature map that it writes: its place in the parameters
            (``"encoder/layer1/0/conv1"``).
        reads: names of the feature maps that it reads; None for what no convolution wrote.
        residual: the name of the feature map that is added to its output, empty for what no
            convolution wrote; None where nothing is added.
        products: multiplications for a window of 64×64 pixels.
    """

    name: str
    reads: tuple[str | None, ...]
    residual: str | None
    products: int

    def in_8_bits(self, scales: Mapping[str, float]) -> bool:
        """Whether all that it reads is stored in 8 bits, so that it multiplies in them."""
        wanted = self.reads if self.residual is None else (*self.reads, self.residual)
        return all(name in scales for name in wanted)


@functools.cache
def convolutions(config: ModelConfig) -> tuple[Convolution, ...]:
    """The 3-D convolutions in their order."""
    found: list[Convolution] = []

    def trace(params: Parameters, windows: Windows) -> None:
        model = _merged(config, params, None)
        with watching() as calls:
            model(windows)
        names, writers = _names(model), dict[int, str]()
        for call in calls:
            kernel = call.layer.kernel.get_value()
            pixels = math.prod(call.output.values.shape[1:4])
            if kernel.shape[1] % 2 == 0:  # transposed: a quarter of the taps meet a pixel
                pixels //= 4
            name = names[id(call.layer)]
            reads = tuple(writers.get(id(x.values)) for x in call.inputs)
            residual = None
            if call.residual is not None:
                residual = writers.get(id(call.residual.values), "")
            found.append(Convolution(name, reads, residual, pixels * math.prod(kernel.shape)))
            writers[id(call.output.values)] = name

    windows = jax.ShapeDtypeStruct((1, config.n_inputs, 64, 64, 3), jnp.float32)
    jax.eval_shape(trace, parameter_shapes(config), windows)
    return tuple(found)


def feature_maps(config: ModelConfig) -> tuple[str, ...]:
    """Names of what may be stored in 8 bits: outputs of convolutions that others read."""
    every = convolutions(config)
    read = {name for each in every for name in (*each.reads, each.residual)}
    return tuple(each.name for each in every if each.name in read)


def ranges(
    config: ModelConfig,
    params: Parameters,
    windows: Windows,
    *,
    implementation: Implementation | None = None,
) -> dict[str, Array]:
    """The largest magnitude in each of :func:`feature_maps`: float32 numbers, by name."""
    model = _merged(config, params, implementation)
    with watching() as calls:
        model(windows)
    names, wanted = _names(model), feature_maps(config)
    written = {names[id(call.layer)]: call.output.in_units(jnp.float32).values for call in calls}
    return {name: jnp.abs(written[name]).max().astype(jnp.float32) for name in wanted}


def scales_for(magnitudes: Mapping[str, float]) -> dict[str, float]:
    """What a unit of each feature map is worth in 8 bits, from its largest magnitude.

    Twice that can be stored: other clips have larger ones, and float8_e4m3fn is as exact there.
    """
    return {name: 2 * value / LARGEST if value > 0 else 1.0 for name, value in magnitudes.items()}


def pack(
    config: ModelConfig,
    params: Parameters,
    scales: Mapping[str, float] | None = None,
    *,
    implementation: Implementation | None = None,
) -> Parameters:
    """``params`` for many calls of :func:`apply` on this device: kernels are rearranged once.

    For inference alone: checkpoints and gradients are of plain parameters.

    Args:
        config: the network.
        params: of 16 or 32 bits.
        scales: of those :func:`feature_maps` that are to be stored in float8_e4m3fn: what one unit
            of a stored number is worth. A convolution that reads nothing else multiplies in 8 bits.
        implementation: which :func:`apply` will name.

    Raises:
        ValueError: a name in ``scales`` is none of this network's.
    """
    scales = scales or {}
    if unknown := sorted(set(scales) - set(feature_maps(config))):
        raise ValueError(
            f"`scales` names {', '.join(map(repr, unknown))}, which this network does not have; "
            "calibrate this network (scripts/quantize.py)."
        )
    quantised: dict[str, Any] = {}
    channels: dict[str, int] = {}
    for each in convolutions(config) if scales else ():
        kernel = _at(params, each.name)["kernel"]
        channels[each.name] = kernel.shape[-1]
        in_scales = None
        if each.in_8_bits(scales):
            in_scales = jnp.concatenate(
                [jnp.full(channels[name], scales[name]) for name in each.reads if name is not None]
            )
        out_scale = scales.get(each.name)
        if in_scales is not None or out_scale is not None:
            quantised[each.name] = quantize_kernel(kernel, in_scales, out_scale, kernel.dtype)

    def visit(path: Any, leaf: Array) -> Any:
        *place, _ = (key.key for key in path)
        if leaf.ndim != 5:
            return leaf
        if (kernel := quantised.get("/".join(place))) is not None:
            return kernel
        return pack_kernel(leaf, config.n_inputs, implementation=implementation)

    return jax.tree_util.tree_map_with_path(visit, params)


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
    return _merged(config, params, implementation)(windows, remat=remat)


def _merged(
    config: ModelConfig, params: Parameters, implementation: Implementation | None
) -> FLAVR:
    """The network with these parameters."""
    graph, abstract = _skeleton(config, implementation)
    state = jax.tree.map(lambda leaf: leaf, abstract)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def _names(model: FLAVR) -> dict[int, str]:
    """Each layer's place in the parameters, by its ``id``."""
    return {id(module): "/".join(map(str, path)) for path, module in nnx.iter_modules(model)}


def _at(params: Parameters, name: str) -> Parameters:
    """The parameters of a layer."""
    return functools.reduce(lambda tree, key: tree[key], name.split("/"), params)


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
