# SPDX-License-Identifier: Apache-2.0
"""The network as one file that runs without this project: a StableHLO program with its weights.

``jax.export`` keeps such programs readable for later versions of JAX, and other runtimes read the
StableHLO inside. ONNX is missing because no kept converter takes the network: jax2onnx 0.17.1 has
no 3-D convolution in the layouts that the network uses, and its ``jit`` plugin fails on jax 0.12.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.export  # the submodule is not imported with jax
import jax.numpy as jnp
import numpy as np

from flavr_jax.config import ModelConfig
from flavr_jax.extras import install_command
from flavr_jax.models import flavr
from flavr_jax.typing import Windows

__all__ = ["PLATFORMS", "largest_difference", "run", "stablehlo"]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""Platforms that an exported program can be compiled for."""


def stablehlo(
    config: ModelConfig,
    params: flavr.Parameters,
    shape: tuple[int, int, int],
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """Export the network in float32, for one batch size and one size of frames.

    Args:
        config: the network.
        params: its parameters, not packed.
        shape: batch, height and width; height and width are multiples of ``config.multiple``.
        platforms: what the program can be compiled for.

    Returns:
        What :func:`jax.export.deserialize` reads. The program takes float32 RGB windows in [0, 1],
        ``[batch, n_inputs, height, width, 3]``, and returns ``[batch, n_outputs, height, width,
        3]``, not clipped. The weights are constants in it.

    Raises:
        ValueError: the network does not take frames of this size.
        ModuleNotFoundError: flatbuffers is not installed.
    """
    batch, height, width = shape
    windows = jax.ShapeDtypeStruct((batch, config.n_inputs, height, width, 3), jnp.float32)
    exported = jax.export.export(jax.jit(_network(config, params)), platforms=platforms)(windows)
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise ModuleNotFoundError(
            f"exporting needs flatbuffers, which is not installed: {install_command('export')}."
        ) from error


def run(program: bytes, windows: np.ndarray) -> np.ndarray:
    """Run an exported program on this machine's default device."""
    return np.asarray(jax.export.deserialize(bytearray(program)).call(windows))


def largest_difference(
    program: bytes, config: ModelConfig, params: flavr.Parameters, shape: tuple[int, int, int]
) -> float:
    """Return how far the outputs of a program are from the network's own, on random windows."""
    batch, height, width = shape
    random = np.random.default_rng(0)
    windows = random.random((batch, config.n_inputs, height, width, 3), np.float32)
    expected = np.asarray(
        jax.jit(functools.partial(flavr.apply, config))(_float32(params), windows)
    )
    return float(np.abs(run(program, windows) - expected).max())


def _network(config: ModelConfig, params: flavr.Parameters):  # noqa: ANN202
    weights = _float32(params)

    def network(windows: Windows) -> Windows:
        # The other implementations are kernels for one kind of GPU, or slow.
        return flavr.apply(config, weights, windows, implementation="xla")

    return network


def _float32(params: flavr.Parameters) -> flavr.Parameters:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
