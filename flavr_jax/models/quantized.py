# SPDX-License-Identifier: Apache-2.0
"""The network in 8 bits: which feature maps can have 8 bits, and parameters packed for them.

A feature map here is the output of a 3-D convolution. Stored in float8_e4m3fn it needs a scale: a
stored number times the scale is the value. A convolution whose inputs all have 8 bits multiplies in
8 bits. :func:`convolutions` traces the network to find which convolution reads which map, so that
:mod:`flavr_jax.models.flavr` contains nothing about precision.
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
    Int8Kernel,
    pack_kernel,
    quantize_kernel,
    watching,
)
from flavr_jax.typing import Windows

__all__ = [
    "Convolution",
    "convolutions",
    "feature_maps",
    "in_int8",
    "pack",
    "packed_shapes",
    "ranges",
    "scales_for",
]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A 3-D convolution of a network, and where its inputs come from.

    Attributes:
        name: path of the layer in the parameters (``"encoder/layer1/0/conv1"``); also names the
            feature map that the layer writes.
        reads: names of the feature maps that it reads; None for an input that no convolution wrote,
            such as the frames.
        residual: name of the feature map that is added to its output; empty if no convolution wrote
            it; None if nothing is added.
        products: number of multiplications for a window of 64×64 pixels at the U-Net's size.
    """

    name: str
    reads: tuple[str | None, ...]
    residual: str | None
    products: int

    def in_8_bits(self, scales: Mapping[str, float]) -> bool:
        """Return whether it multiplies in 8 bits: all maps that it reads have a scale."""
        wanted = self.reads if self.residual is None else (*self.reads, self.residual)
        return all(name in scales for name in wanted)


@functools.cache
def convolutions(config: ModelConfig) -> tuple[Convolution, ...]:
    """The 3-D convolutions of the network in order of execution."""
    found: list[Convolution] = []

    def trace(params: Parameters, windows: Windows) -> None:
        model = flavr.merged(config, params, None)
        with watching() as calls:
            model(windows)
        # Arrays are told apart by `id`: each traced value is one object, which `calls` keeps alive.
        names, writers = _names(model), dict[int, str]()
        for call in calls:
            kernel = call.layer.kernel.get_value()
            pixels = math.prod(call.output.values.shape[1:4])
            if kernel.shape[1] % 2 == 0:  # transposed: a quarter of the taps meet an input pixel
                pixels //= 4
            name = names[id(call.layer)]
            reads = tuple(writers.get(id(x.values)) for x in call.inputs)
            residual = None
            if call.residual is not None:
                residual = writers.get(id(call.residual.values), "")
            found.append(Convolution(name, reads, residual, pixels * math.prod(kernel.shape)))
            writers[id(call.output.values)] = name

    side = 64 * config.trunk_scale  # 64 pixels at the size of the 3-D convolutions
    windows = jax.ShapeDtypeStruct((1, config.n_inputs, side, side, 3), jnp.float32)
    jax.eval_shape(trace, flavr.parameter_shapes(config), windows)
    return tuple(found)


def feature_maps(config: ModelConfig) -> tuple[str, ...]:
    """Names of the maps that may have 8 bits: outputs of 3-D convolutions that others read."""
    every = convolutions(config)
    # The last map is read by 2-D layers only, which have no 8-bit kernels.
    read = {name for each in every for name in (*each.reads, each.residual)}
    return tuple(each.name for each in every if each.name in read)


def ranges(
    config: ModelConfig,
    params: Parameters,
    windows: Windows,
    *,
    implementation: Implementation | None = None,
) -> dict[str, Array]:
    """The largest magnitude in each of the :func:`feature_maps`, float32, by name."""
    model = flavr.merged(config, params, implementation)
    with watching() as calls:
        model(windows)
    names, wanted = _names(model), feature_maps(config)
    written = {names[id(call.layer)]: call.output.in_units(jnp.float32).values for call in calls}
    return {name: jnp.abs(written[name]).max().astype(jnp.float32) for name in wanted}


def scales_for(magnitudes: Mapping[str, float]) -> dict[str, float]:
    """Compute the scale of each feature map from its largest magnitude.

    Magnitudes up to twice as large can be stored, because other clips may have larger ones. The
    headroom costs no precision: float8_e4m3fn is a floating-point type.
    """
    # A map of zeros has no magnitude, and any scale stores it exactly.
    return {name: 2 * value / LARGEST if value > 0 else 1.0 for name, value in magnitudes.items()}


def pack(
    config: ModelConfig,
    params: Parameters,
    scales: Mapping[str, float] | None = None,
    *,
    with_int8: bool = False,
    implementation: Implementation | None = None,
) -> Parameters:
    """Prepare ``params`` for many calls of :func:`flavr.apply` on this device.

    Kernels are rearranged, and quantised if there are scales, once and not in every call. Packed
    parameters are for inference alone: checkpoints and gradients need plain ones.

    Args:
        config: the network's settings.
        params: parameters of 16 or 32 bits.
        scales: scale of each of the :func:`feature_maps` to store in float8_e4m3fn; a stored number
            times the scale is the value. A convolution that reads no other maps multiplies in 8
            bits.
        with_int8: multiply in int8, which is fast on some CPUs; needs float32 parameters.
        implementation: the name that will be passed to :func:`flavr.apply`.

    Raises:
        ValueError: a name in ``scales`` is not a feature map of this network.
    """
    scales = scales or {}
    # Without scales, the network need not be traced, which takes half a second.
    if scales and (unknown := sorted(set(scales) - set(feature_maps(config)))):
        raise ValueError(
            f"`scales` names {', '.join(map(repr, unknown))}, which this network does not have; "
            "calibrate this network (`flavr quantize`)."
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
        if leaf.ndim != 5 and not (with_int8 and leaf.ndim == 4):
            return leaf  # biases, gates, and in most precisions the 2-D layers
        if (kernel := quantised.get("/".join(place))) is not None:
            return kernel
        return pack_kernel(
            leaf, config.n_inputs, with_int8=with_int8, implementation=implementation
        )

    return jax.tree_util.tree_map_with_path(visit, params)


def in_int8(params: Parameters) -> bool:
    """Tell whether parameters were packed to multiply in int8."""
    kernels = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, Int8Kernel))
    return any(isinstance(kernel, Int8Kernel) for kernel in kernels)


def packed_shapes(config: ModelConfig, dtype: DTypeLike, scales: Mapping[str, float]) -> Parameters:
    """The tree that :func:`pack` makes for the GPU kernels, with shapes in place of arrays."""
    return jax.eval_shape(
        functools.partial(pack, config, scales=scales, implementation="mosaic_gpu"),
        flavr.parameter_shapes(config, dtype),
    )


def _names(model: FLAVR) -> dict[int, str]:
    """Path of each layer in the parameters, by the layer's ``id``."""
    return {id(module): "/".join(map(str, path)) for path, module in nnx.iter_modules(model)}


def _at(params: Parameters, name: str) -> Parameters:
    """The parameters of a layer."""
    return functools.reduce(lambda tree, key: tree[key], name.split("/"), params)
