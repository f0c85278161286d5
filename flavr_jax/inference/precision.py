# SPDX-License-Identifier: Apache-2.0
"""The precision that a network computes in: chosen by the user, or the fastest one available.

With ``fp8``, the feature maps that calibration chose (:mod:`flavr_jax.quantization`) are stored and
multiplied in float8_e4m3fn; the rest of the network is bfloat16. Any device can compute this, but
only Hopper GPUs have kernels that make it fast.

With ``int8``, convolutions round their inputs and weights to 8-bit integers, with scales taken from
the inputs themselves (:mod:`pallas_kernels.core.int8`); the rest of the network is float32. It is
for CPUs, some of which multiply int8 about four times as fast as float32.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flavr_jax import program_cache
from flavr_jax.config import ModelConfig, Precision
from flavr_jax.models import flavr, quantized
from flavr_jax.models.layers import explain, why_not_int8

__all__ = ["SOURCES", "Prepared", "prepare"]

_PACKAGES = Path(__file__).parents[2]
SOURCES = tuple(
    _PACKAGES / name for name in ("flavr_jax/inference", "flavr_jax/models", "pallas_kernels")
)
"""Folders of the code and the tuned tile sizes that a network's programs are made from."""

_TYPES = {
    "fp8": jnp.bfloat16,  # for everything that is not in 8 bits
    "int8": jnp.float32,  # between convolutions
    "bf16": jnp.bfloat16,
    "fp16": jnp.float16,
    "fp32": jnp.float32,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A network's parameters on the device, ready for many calls.

    Attributes:
        params: packed parameters.
        precision: what the network computes in, never ``auto``.
        reason: why ``auto`` chose it, or why it is slow if the user chose it; may be empty.
    """

    params: flavr.Parameters
    precision: Precision
    reason: str = ""

    def __str__(self) -> str:
        """Return device and precision in words."""
        device = jax.devices()[0]
        reason = f" ({self.reason})" if self.reason else ""
        return f"{device.device_kind} ({device.platform}) in {self.precision}{reason}"


def prepare(
    config: ModelConfig,
    params: flavr.Parameters,
    precision: Precision,
    scales: Mapping[str, float] | None = None,
    *,
    remember: bool = False,
) -> Prepared:
    """Convert and pack parameters for :func:`flavr_jax.models.flavr.apply` in a precision.

    Args:
        config: the network.
        params: parameters that are not packed, of any floating-point type.
        precision: what to compute in.
        scales: of the feature maps that are stored in 8 bits, if the checkpoint was calibrated.
        remember: keep the choice and the program that packs between runs, as
            :mod:`flavr_jax.program_cache` does.

    Raises:
        ValueError: the precision is unknown, is fp8 without scales, or has too small a range for
            the weights; or it is int8 and the device is not a CPU.
    """
    if precision == "auto":
        precision, reason = _fastest(config, scales, remember)
        return Prepared(_packed(config, params, precision, scales, remember), precision, reason)
    if precision not in _TYPES:
        raise ValueError(f"`precision` is {precision!r}; choose auto, {', '.join(_TYPES)}.")
    if precision == "int8" and jax.default_backend() != "cpu":
        raise ValueError("`precision` is int8, which is for CPUs. Use auto or bf16 on this device.")
    if precision != "fp8":
        slow = why_not_int8() if precision == "int8" else None
        reason = f"slower here than `precision` auto: {slow}" if slow else ""
        return Prepared(_packed(config, params, precision, None, False), precision, reason)
    if not scales:
        raise ValueError(
            "`precision` is fp8, but the checkpoint was not calibrated for it; add scales with "
            "`flavr quantize CHECKPOINT --output DIR`, or use bf16."
        )
    refused = _why_slow(config, scales, remember)
    slow = f"many times slower here than `precision` auto: {refused}" if refused else ""
    packed = _packed(config, params, "fp8", scales, remember and not refused)
    return Prepared(packed, "fp8", slow)


def _fastest(
    config: ModelConfig, scales: Mapping[str, float] | None, remember: bool
) -> tuple[Precision, str]:
    """Return the fastest precision on this device, and the reason for it."""
    if jax.default_backend() == "cpu":
        # Errors of a warping head move pixels by less than can be seen. Without one, they would be
        # errors of the colours.
        if config.base != "warp":
            return "fp32", "the device is a CPU"
        refused = why_not_int8()
        return ("int8", "its convolutions") if refused is None else ("fp32", f"not int8: {refused}")
    if not scales:
        return "bf16", "not fp8: the checkpoint has no scales, see `flavr quantize`"
    if refused := _why_slow(config, scales, remember):
        return "bf16", f"not fp8: {refused}"
    return "fp8", f"{len(scales)} of {len(quantized.feature_maps(config))} feature maps"


def _packed(
    config: ModelConfig,
    params: flavr.Parameters,
    precision: Precision,
    scales: Mapping[str, float] | None,
    remember: bool,
) -> flavr.Parameters:
    """Convert parameters to the type of a precision and pack them; only fp8 uses ``scales``.

    With ``remember``, the program that packs for 8-bit kernels is kept between runs.
    """
    cast = _cast(params, precision)
    pack = functools.partial(
        quantized.pack,
        config,
        scales=scales if precision == "fp8" else None,
        with_int8=precision == "int8",
    )
    # For other kernels, NumPy packs.
    if precision != "fp8" or not remember:
        return pack(cast)
    # As one program, because each operation on its own would be compiled in every run.
    leaves, tree = jax.tree.flatten(cast)
    packed = jax.tree.structure(jax.eval_shape(pack, cast))

    def arrays(leaves: list[Array]) -> tuple[Array, ...]:
        return tuple(jax.tree.leaves(pack(jax.tree.unflatten(tree, leaves))))

    program = program_cache.compiled(
        arrays,
        (leaves,),
        name=f"pack {config} {precision} {sorted((scales or {}).items())} {tree}",
        sources=SOURCES,
    )
    return jax.tree.unflatten(packed, program(leaves))


def _why_slow(config: ModelConfig, scales: Mapping[str, float], remember: bool) -> str | None:
    """Return why a convolution has no fast 8-bit kernel on this device; None if all have one."""
    find = functools.partial(_refused, config, scales)
    if not remember:
        return find()
    # Tracing takes seconds, so it is not done in every run.
    name = f"why slow {config} {sorted(scales)}"
    return program_cache.remembered(find, name=name, sources=SOURCES)


def _refused(config: ModelConfig, scales: Mapping[str, float]) -> str | None:
    """Find by tracing why a convolution has no fast 8-bit kernel on this device."""
    packed = quantized.packed_shapes(config, _TYPES["fp8"], scales)
    # The smallest frames that the network takes: the choice does not depend on the size.
    side = config.multiple
    windows = jax.ShapeDtypeStruct((1, config.n_inputs, side, side, 3), jnp.float32)
    # Trace the network without computing, to see which kernel each convolution would get. Only
    # 3-D convolutions have 8-bit kernels.
    for choice in explain(functools.partial(flavr.apply, config), packed, windows):
        if "conv3d" in choice.operation and "mosaic_gpu" in choice.refused:
            return choice.refused["mosaic_gpu"]
    return None


def _cast(params: flavr.Parameters, precision: Precision) -> flavr.Parameters:
    """Convert parameters to the type of a precision, on the device.

    Raises:
        ValueError: a weight is NaN, infinite, or too large for the type.
    """
    dtype = _TYPES[precision]
    largest = float(jnp.finfo(dtype).max)

    def cast(place: tuple[Any, ...], leaf: Any) -> np.ndarray:
        values = np.asarray(leaf, np.float32)
        # A comparison with NaN is false, so NaN is caught as well.
        if not (np.abs(values) <= largest).all():
            name = "/".join(str(key.key) for key in place)
            remedy = "another checkpoint" if precision == "fp32" else "`precision` fp32"
            raise ValueError(
                f"weights of {name} are NaN, infinite or above {largest:.5g}, where {precision} "
                f"ends. Use {remedy}."
            )
        return values.astype(dtype)

    # On the host: a device would compile a program for each shape.
    return jax.device_put(jax.tree_util.tree_map_with_path(cast, params))
