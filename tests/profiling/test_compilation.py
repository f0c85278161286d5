# SPDX-License-Identifier: Apache-2.0
import importlib.util

import pytest

from flavr_jax.profiling import compilation

NOTES = """\
ptxas info    : (C7519) warpgroup.arrive is injected in around line 22 by compiler
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized
ptxas info    : Function properties for conv
    16 bytes stack frame, 144 bytes spill stores, 96 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 16 bytes cumulative stack size
ptxas warning : Registers are spilled to local memory, 144 bytes spill stores, 96 bytes spill loads
"""


def test_the_assemblers_notes_are_read(tmp_path):
    (tmp_path / "conv_0.ptxas").write_text(NOTES)
    (tmp_path / "conv_0.resources.txt").write_text("Resources(smem_scratch_bytes=231424, tmem=0)")
    assert compilation.read_notes(tmp_path / "conv_0.ptxas") == compilation.CompiledKernel(
        "conv_0", registers=168, spilled=144, serialised=1, shared_memory=231424
    )


def test_without_cudas_compiler_the_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OSError, match=r"pip install --no-deps .*nvidia-cuda-nvcc"):
        compilation.prepare(tmp_path)
