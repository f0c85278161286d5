# SPDX-License-Identifier: Apache-2.0
"""The network in 8 bits: which feature maps can be stored so, and parameters packed for it.

A feature map is the output of a convolution. Stored in float8_e4m3fn it needs a scale: the value of
one unit of a stored number. A convolution whose inputs are all stored so multiplies in 8 bits.
:func:`convolutions` reads the network's graph off one abstract call, so that
:mod:`flavr_jax.models.flavr` says nothing about precision.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr
from flavr_jax.models.flavr import FLAVR, Parameters
from flavr_jax.models.layers import (
    LARGEST,
    Implementation,
    pack_kernel,
    quantize_kernel,
    watching,
)
from flavr_jax.typing import Windows

__all__ = [
    "Convolution",
    "convolutions",
    "feature_maps",
    "pack",
    "packed_shapes",
    "ranges",
    "scales_for",
]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A 3-D convolution of a network, and where its inputs come from.

    Attributes:
        name: of the layer, and of the feature map that it writes: its place in the parameters
            (``"encoder/layer1/0/conv1"``).
        reads: names of the feature maps that it reads; None for what no convolution wrote.
        residual: the name of the feature map that is added to its output, empty for what no
            convolution wrote; None where nothing is added.
        products: multiplications for a window of 64×64 pixels at the trunk's size.
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
        model = flavr.merged(config, params, None)
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

    side = 64 * config.trunk_scale  # 64 pixels where the convolutions are
    windows = jax.ShapeDtypeStruct((1, config.n_inputs, side, side, 3), jnp.float32)
    jax.eval_shape(trace, flavr.parameter_shapes(config), windows)
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
    model = flavr.merged(config, params, implementation)
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


def packed_shapes(config: ModelConfig, dtype: DTypeLike, scales: Mapping[str, float]) -> Parameters:
    """The tree that :func:`pack` makes for the GPU kernels, with shapes in place of arrays."""
    return jax.eval_shape(
        functools.partial(pack, config, scales=scales, implementation="mosaic_gpu"),
        flavr.parameter_shapes(config, dtype),
    )


def _names(model: FLAVR) -> dict[int, str]:
    """Each layer's place in the parameters, by its ``id``."""
    return {id(module): "/".join(map(str, path)) for path, module in nnx.iter_modules(model)}


def _at(params: Parameters, name: str) -> Parameters:
    """The parameters of a layer."""
    return functools.reduce(lambda tree, key: tree[key], name.split("/"), params)
