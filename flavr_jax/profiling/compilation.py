# SPDX-License-Identifier: Apache-2.0
"""Compilation of the kernels without a GPU, and the assembler's report on each kernel.

XLA can compile for a device from its description. The assembler (ptxas) then reports register
spills, and products of the tensor cores (wgmma) that it serialised (C7510, C7512 and others).
This needs the packages in :data:`PACKAGES`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import re
from pathlib import Path
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from jax.typing import DTypeLike

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr, quantized
from flavr_jax.models.layers import assume_hopper
from flavr_jax.profiling.comparison import TYPES

__all__ = [
    "PACKAGES",
    "CompiledKernel",
    "OfKernels",
    "compile_kernels",
    "prepare",
    "read_notes",
    "shapes_of",
]

OfKernels: TypeAlias = Literal["bf16", "fp16", "fp8"]
"""Precisions of the GPU kernels."""

PACKAGES = (
    "jax-cuda13-plugin",
    "jax-cuda13-pjrt",
    "nvidia-cuda-nvcc",
    "nvidia-nvvm",
    "nvidia-cuda-crt",
    "nvidia-cuda-nvdisasm",
    "nvidia-cuda-cuobjdump",
)
"""Packages to install with ``pip install --no-deps``; the first two need the version of jax."""


@dataclasses.dataclass(frozen=True)
class CompiledKernel:
    """The assembler's report on one kernel.

    Attributes:
        name: name of the kernel.
        registers: registers per thread when the kernel starts.
        spilled: bytes per thread stored to memory because registers ran out.
        serialised: number of notes that products were serialised, whatever the reason.
        shared_memory: bytes per thread block.
    """

    name: str
    registers: int
    spilled: int
    serialised: int
    shared_memory: int


def prepare(dump: Path) -> None:
    """Set up JAX and XLA to compile without a GPU; call it before anything is compiled.

    Args:
        dump: folder for the assembler's reports.

    Raises:
        FileNotFoundError: CUDA's compiler is not installed as packages.
    """
    found = importlib.util.find_spec("nvidia")
    roots = (
        [Path(place) / "cu13" for place in (found.submodule_search_locations or [])]
        if found
        else []
    )
    tools = next((root for root in roots if (root / "bin" / "ptxas").exists()), None)
    if tools is None:
        raise FileNotFoundError(
            "CUDA's compiler is missing: pip install --no-deps " + " ".join(PACKAGES)
        )
    dump.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_platforms", "cpu")
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    os.environ["MOSAIC_GPU_DUMP_TO"] = str(dump)
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_cuda_data_dir={tools}"
    os.environ["PATH"] += os.pathsep + str(tools / "bin")


def compile_kernels(
    config: ModelConfig,
    batch: int,
    height: int,
    width: int,
    precision: OfKernels,
    target: str,
    dump: Path,
) -> list[CompiledKernel]:
    """Compile the network for a device, and return the assembler's report on each kernel.

    Args:
        config: the network.
        batch: number of windows per call.
        height: height of frames in pixels, a multiple of ``config.multiple``.
        width: width of frames in pixels, a multiple of ``config.multiple``.
        precision: precision of the network.
        target: XLA's description of the device, as text.
        dump: the folder that was passed to :func:`prepare`.
    """
    topology = topologies.get_topology_desc(platform="cuda", target_config=target, topology="1x1x1")
    device = SingleDeviceSharding(topology.devices[0])

    def abstract(shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=device)

    params = jax.tree.map(
        lambda leaf: abstract(leaf.shape, leaf.dtype), shapes_of(config, precision)
    )
    windows = abstract((batch, config.n_inputs, height, width, 3), "float32")
    apply = functools.partial(flavr.apply, config, implementation="mosaic_gpu")
    with assume_hopper():
        jax.jit(apply, out_shardings=device).trace(params, windows).lower(
            lowering_platforms=("cuda",)
        ).compile()
    return [read_notes(notes) for notes in sorted(dump.glob("*.ptxas"))]


def shapes_of(config: ModelConfig, precision: OfKernels) -> flavr.Parameters:
    """Return the parameters that the kernels take, with shapes in place of arrays."""
    if precision != "fp8":
        return flavr.parameter_shapes(config, TYPES[precision])
    scales = dict.fromkeys(quantized.feature_maps(config), 1.0)
    return quantized.packed_shapes(config, TYPES[precision], scales)


def read_notes(notes: Path) -> CompiledKernel:
    """Read the assembler's report on a kernel, and its shared memory from the files beside it."""
    text = notes.read_text()

    def number(pattern: str) -> int:
        return sum(int(found) for found in re.findall(pattern, text))

    return CompiledKernel(
        notes.stem,
        number(r"Used (\d+) registers"),
        # A warning about spills repeats the number, so only the first one counts.
        int((re.findall(r"(\d+) bytes spill stores", text) or ["0"])[0]),
        text.count("wgmma.mma_async instructions are serialized"),
        _shared_memory(notes),
    )


def _shared_memory(notes: Path) -> int:
    """Bytes per thread block; 0 if no file tells them."""
    # From jax 0.12 on, files of resources are numbered apart from the others.
    for suffix, pattern in (
        (".mlir-passes.log", r"mosaic_gpu\.smem_bytes = (\d+)"),
        (".resources.txt", r"smem_scratch_bytes=(\d+)"),
    ):
        file = notes.with_suffix(suffix)
        found = re.search(pattern, file.read_text()) if file.exists() else None
        if found:
            return int(found.group(1))
    return 0
