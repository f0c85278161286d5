# SPDX-License-Identifier: Apache-2.0
"""What a network computes in: named by the user, or the fastest that card and checkpoint support.

``fp8`` stores the feature maps that calibration found fit for it in float8_e4m3fn and multiplies
them there (see ``flavr_jax/quantize.py``); everything else of such a network is bfloat16. Every
device can compute it as it is defined; only Hopper GPUs have kernels that make it fast.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from flavr_jax.config import ModelConfig, Precision
from flavr_jax.models import flavr, quantized
from flavr_jax.models.layers import explain

__all__ = ["Prepared", "prepare"]

_TYPES = {
    "fp8": jnp.bfloat16,  # of what is not in 8 bits
    "bf16": jnp.bfloat16,
    "fp16": jnp.float16,
    "fp32": jnp.float32,
}
_SIZE = 8  # the least that a network takes; what runs it does not depend on the size


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A network's parameters on the device, ready for many calls.

    Attributes:
        params: packed.
        precision: what it computes in, never ``auto``.
        reason: why ``auto`` took that; empty where the user named it.
    """

    params: flavr.Parameters
    precision: Precision
    reason: str = ""

    def __str__(self) -> str:
        """Device and precision in words."""
        device = jax.devices()[0]
        reason = f" ({self.reason})" if self.reason else ""
        return f"{device.device_kind} ({device.platform}) in {self.precision}{reason}"


def prepare(
    config: ModelConfig,
    params: flavr.Parameters,
    precision: Precision,
    scales: Mapping[str, float] | None = None,
) -> Prepared:
    """Parameters for :func:`flavr_jax.models.flavr.apply` in a precision.

    Args:
        config: the network.
        params: plain ones, of any type.
        precision: what to compute in.
        scales: of the feature maps to be stored in 8 bits, if the checkpoint knows them.

    Raises:
        ValueError: for another precision, or fp8 without scales.
    """
    if precision == "auto":
        return _fastest(config, params, scales)
    if precision not in _TYPES:
        raise ValueError(f"`precision` is {precision!r}; choose auto, {', '.join(_TYPES)}.")
    if precision != "fp8":
        return Prepared(quantized.pack(config, _cast(params, precision)), precision)
    if not scales:
        raise ValueError(
            "`precision` is fp8, but the checkpoint was not calibrated for it; add scales with "
            "scripts/quantize.py CHECKPOINT --output DIR, or use bf16."
        )
    return Prepared(quantized.pack(config, _cast(params, "fp8"), scales), "fp8")


def _fastest(
    config: ModelConfig, params: flavr.Parameters, scales: Mapping[str, float] | None
) -> Prepared:
    if jax.default_backend() == "cpu":
        chosen, reason = "fp32", "the device is a CPU"
    elif not scales:
        chosen, reason = "bf16", "not fp8: the checkpoint has no scales, see scripts/quantize.py"
    else:
        refused = _why_slow(config, scales)
        chosen = "fp8" if refused is None else "bf16"
        in_8_bits = f"{len(scales)} of {len(quantized.feature_maps(config))} feature maps"
        reason = f"not fp8: {refused}" if refused else in_8_bits
    return dataclasses.replace(prepare(config, params, chosen, scales), reason=reason)


def _why_slow(config: ModelConfig, scales: Mapping[str, float]) -> str | None:
    """Why some convolution would not run on the kernels for 8 bits; None if all do."""
    packed = quantized.packed_shapes(config, _TYPES["fp8"], scales)
    windows = jax.ShapeDtypeStruct((1, config.n_inputs, _SIZE, _SIZE, 3), jnp.float32)
    for choice in explain(functools.partial(flavr.apply, config), packed, windows):
        if "mosaic_gpu" in choice.refused:
            return choice.refused["mosaic_gpu"]
    return None


def _cast(params: flavr.Parameters, precision: Precision) -> flavr.Parameters:
    dtype = _TYPES[precision]
    return jax.device_put(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params))
