# SPDX-License-Identifier: Apache-2.0
"""The network as one file that runs without this project: a StableHLO program or an ONNX model.

``jax.export`` keeps StableHLO programs readable for later versions of JAX, and other runtimes read
the StableHLO inside. ONNX models run where there is no JAX, on all that onnxruntime knows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.export  # the submodule is not imported with jax
import jax.numpy as jnp
import numpy as np

from flavr_jax import onnx_writer
from flavr_jax.config import ModelConfig
from flavr_jax.extras import install_command
from flavr_jax.models import flavr
from flavr_jax.typing import Windows

__all__ = ["PLATFORMS", "largest_difference", "onnx", "run", "run_onnx", "stablehlo"]

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


def onnx(config: ModelConfig, params: flavr.Parameters, shape: tuple[int, int, int]) -> bytes:
    """Export the network as an ONNX model in float32; arguments as of :func:`stablehlo`.

    Its input is named ``windows`` and its output ``frames``, with the shapes of :func:`stablehlo`.

    Raises:
        ValueError: the network does not take frames of this size.
        ModuleNotFoundError: onnx is not installed.
    """
    batch, height, width = shape
    windows = (batch, config.n_inputs, height, width, 3)
    model = onnx_writer.model_of(_network(config, params), windows, ("windows", "frames"))
    return model.SerializeToString()


def run(program: bytes, windows: np.ndarray) -> np.ndarray:
    """Run an exported program on this machine's default device."""
    return np.asarray(jax.export.deserialize(bytearray(program)).call(windows))


def run_onnx(model: bytes, windows: np.ndarray) -> np.ndarray:
    """Run an ONNX model by onnxruntime on the CPU.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"ONNX models need onnxruntime, which is not installed: {install_command('onnx')}."
        ) from error
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"windows": windows})[0])


def largest_difference(
    program: bytes,
    config: ModelConfig,
    params: flavr.Parameters,
    shape: tuple[int, int, int],
    runner: Callable[[bytes, np.ndarray], np.ndarray] = run,
) -> float:
    """Return how far the outputs of a program are from the network's own, on random windows.

    Args:
        program: of :func:`stablehlo` or :func:`onnx`.
        config: the network.
        params: its parameters, not packed.
        shape: batch, height and width.
        runner: :func:`run` or :func:`run_onnx`.
    """
    batch, height, width = shape
    random = np.random.default_rng(0)
    windows = random.random((batch, config.n_inputs, height, width, 3), np.float32)
    expected = np.asarray(
        jax.jit(functools.partial(flavr.apply, config))(_float32(params), windows)
    )
    return float(np.abs(runner(program, windows) - expected).max())


def _network(config: ModelConfig, params: flavr.Parameters):  # noqa: ANN202
    weights = _float32(params)

    def network(windows: Windows) -> Windows:
        # The other implementations are kernels for one kind of GPU, or slow.
        return flavr.apply(config, weights, windows, implementation="xla")

    return network


def _float32(params: flavr.Parameters) -> flavr.Parameters:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
