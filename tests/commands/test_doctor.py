# SPDX-License-Identifier: Apache-2.0
"""The report on an installation, and its exit code."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from flavr_jax import gpu_setup
from flavr_jax.commands import doctor
from flavr_jax.gpu_setup import GpuSetup
from flavr_jax.video.files import encoders
from pallas_kernels.core import device

HEALTHY = GpuSetup(False, None, {}, "0.12.0", {})


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs it on a machine without a GPU; returns the exit code and the lines."""
    monkeypatch.setattr(gpu_setup, "find", lambda: HEALTHY)

    def run():
        code = doctor.main(doctor.Options())
        return code, capsys.readouterr().out.splitlines()

    return run


def test_a_healthy_installation_is_described_and_exits_with_0(run, monkeypatch):
    monkeypatch.setattr(device, "why_not_int8", lambda: "the CPU is too old")
    code, lines = run()
    assert (code, lines[-1]) == (0, "Nothing is wrong.")
    text = "\n".join(lines)
    assert "int8         not faster than float32: the CPU is too old" in text
    assert f"jax {jax.__version__}" in text
    assert "libx264" in text
    assert "checkpoints/default" in text
    assert str(jax.config.jax_compilation_cache_dir) in text


def test_a_gpu_that_is_not_used_is_a_problem(run, monkeypatch):
    unused = GpuSetup(True, "580.65.06", {}, "0.12.0", {})
    monkeypatch.setattr(gpu_setup, "find", lambda: unused)
    code, lines = run()
    assert code == 1
    assert lines[-2].startswith("problem: This machine has an NVIDIA GPU, but JAX is installed")
    assert lines[-1] == "1 problem(s)."


def test_a_checkpoint_that_is_missing_is_a_problem(run, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "DEFAULT_CHECKPOINT", tmp_path / "gone")
    code, lines = run()
    assert code == 1
    assert lines[-2].startswith(f"problem: {tmp_path / 'gone'} is missing")


def test_an_encoder_that_is_missing_is_a_problem(run, monkeypatch):
    monkeypatch.setattr(encoders, "failure", lambda name: "this build of FFmpeg lacks it")
    code, lines = run()
    assert code == 1
    assert lines[-2].startswith("problem: H.264, the default for .mp4, cannot be written")


def test_a_cache_that_cannot_be_written_or_is_full_is_a_problem(run, monkeypatch):
    monkeypatch.setattr(doctor, "_cache", lambda: Path("/proc/1/flavr"))
    code, lines = run()
    assert code == 1
    assert "JAX_COMPILATION_CACHE_DIR" in lines[-2]


def test_a_device_that_computes_wrong_numbers_is_a_problem(run, monkeypatch):
    right = jax.lax.conv_general_dilated
    monkeypatch.setattr(jax.lax, "conv_general_dilated", lambda *a, **k: 2 * right(*a, **k))
    code, lines = run()
    assert code == 1
    assert "gives 216.0, not 108" in lines[-2]


def test_a_device_that_cannot_compute_is_a_problem(run, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("DNN library\nis not found")

    monkeypatch.setattr(jax.lax, "conv_general_dilated", fail)
    code, lines = run()
    assert code == 1
    assert "cannot compute a convolution: DNN library is not found." in lines[-2]


def test_a_device_without_free_memory_is_a_problem_with_its_own_remedy(run, monkeypatch):
    def full(*args, **options):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12 bytes.")

    monkeypatch.setattr(jax.lax, "conv_general_dilated", full)
    code, lines = run()
    assert code == 1
    assert "End the program that holds it (nvidia-smi lists them)" in lines[-2]


def test_platforms_that_are_not_there_are_a_problem():
    environment = {**os.environ, "JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", "flavr_jax", "doctor"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert "problem: JAX starts no device with JAX_PLATFORMS='cuda'. Unset it" in run.stdout
    assert "Traceback" not in run.stderr
