# SPDX-License-Identifier: Apache-2.0
import importlib.util
import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.profiling import compilation

NOTES = """\
ptxas info    : (C7519) warpgroup.arrive is injected in around line 22 by compiler
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized
ptxas info    : Function properties for conv
    16 bytes stack frame, 144 bytes spill stores, 96 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 16 bytes cumulative stack size
ptxas warning : Registers are spilled to local memory, 144 bytes spill stores, 96 bytes spill loads
"""


@pytest.mark.parametrize("reason", ["(C7510)", "(C7512)"])
def test_the_assemblers_notes_are_read(tmp_path, reason):
    (tmp_path / "conv_0.ptxas").write_text(NOTES.replace("(C7510)", reason))
    (tmp_path / "conv_0.resources.txt").write_text("Resources(smem_scratch_bytes=231424, tmem=0)")
    assert compilation.read_notes(tmp_path / "conv_0.ptxas") == compilation.CompiledKernel(
        "conv_0", registers=168, spilled=144, serialised=1, shared_memory=231424
    )


def test_without_cudas_compiler_the_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OSError, match=r"pip install --no-deps .*nvidia-cuda-nvcc"):
        compilation.prepare(tmp_path)


def test_a_kernel_without_spills_or_resources_has_none(tmp_path):
    (tmp_path / "gate.ptxas").write_text("ptxas info    : Used 40 registers, used 1 barriers\n")
    (tmp_path / "gate.resources.txt").write_text("Resources()")
    assert compilation.read_notes(tmp_path / "gate.ptxas") == compilation.CompiledKernel(
        "gate", registers=40, spilled=0, serialised=0, shared_memory=0
    )


def test_shared_memory_is_read_where_resources_have_another_number(tmp_path):
    (tmp_path / "conv_25.ptxas").write_text(NOTES)
    (tmp_path / "conv_23.resources.txt").write_text("Resources(smem_scratch_bytes=231424)")
    (tmp_path / "conv_25.mlir-passes.log").write_text("{mosaic_gpu.smem_bytes = 199792 : i32}")
    assert compilation.read_notes(tmp_path / "conv_25.ptxas").shared_memory == 199792


def test_jax_is_told_where_the_compiler_is_and_where_reports_go(tmp_path, monkeypatch):
    tools = tmp_path / "nvidia" / "cu13" / "bin"
    tools.mkdir(parents=True)
    (tools / "ptxas").touch()
    places = [str(tmp_path / "elsewhere"), str(tmp_path / "nvidia")]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=places)
    )
    for name in ("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "MOSAIC_GPU_DUMP_TO"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    monkeypatch.setenv("PATH", "/usr/bin")
    before = jax.config.jax_platforms
    try:
        compilation.prepare(tmp_path / "dump")
        assert jax.config.jax_platforms == "cpu"
    finally:
        jax.config.update("jax_platforms", before)
    assert (tmp_path / "dump").is_dir()
    assert os.environ["MOSAIC_GPU_DUMP_TO"] == str(tmp_path / "dump")
    assert os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] == "1"
    assert os.environ["XLA_FLAGS"].split() == [
        "--mine",
        f"--xla_gpu_cuda_data_dir={tmp_path / 'nvidia' / 'cu13'}",
    ]
    assert os.environ["PATH"] == f"/usr/bin{os.pathsep}{tools}"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", jnp.bfloat16), ("fp16", jnp.float16), ("fp8", jnp.bfloat16)]
)
def test_the_kernels_parameters_have_the_type_of_the_precision(precision, dtype):
    shapes = compilation.shapes_of(ModelConfig(width=32), precision)
    assert shapes["out"]["kernel"].dtype == dtype
    leaves = [leaf.dtype for leaf in jax.tree.leaves(shapes)]
    assert (jnp.float8_e4m3fn in leaves) == (precision == "fp8")
