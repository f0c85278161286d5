# SPDX-License-Identifier: Apache-2.0
"""Each way in which JAX can miss an NVIDIA GPU is named with its remedy."""

import dataclasses
import os

import jax
import pytest

from flavr_jax import gpu_setup
from flavr_jax.gpu_setup import GpuSetup

WORKS = GpuSetup(True, "580.65.06", {"cuda13": "0.12.0"}, "0.12.0.1", {}, ("NVIDIA H200",))
UNSEEN = dataclasses.replace(WORKS, seen=(), failure="Unknown backend gpu.")
NO_GPU = GpuSetup(False, None, {}, "0.12.0.1", {"JAX_PLATFORMS": "cpu"})


@pytest.mark.parametrize("setup", [WORKS, NO_GPU])
def test_a_setup_that_works_and_a_machine_without_a_gpu_have_no_problem(setup):
    assert gpu_setup.problems(setup) == []


@pytest.mark.parametrize(
    ("setup", "changes", "cause", "remedy"),
    [
        (UNSEEN, {"plugins": {}}, "installed without CUDA", "cuda13]"),
        (UNSEEN, {"plugins": {}, "driver": "535.1.2"}, "installed without CUDA", "cuda12]"),
        (UNSEEN, {"plugins": {}, "driver": "470.1.2"}, "installed without CUDA", "Update NVIDIA's"),
        (UNSEEN, {"driver": None, "device_file": False}, "driver is not loaded", "driver 580 or"),
        (UNSEEN, {"device_file": False}, "is no /dev/nvidia0", "--gpus all"),
        (UNSEEN, {"driver": None, "plugins": {}}, "installed without CUDA", "cuda12]"),  # WSL 2
        (UNSEEN, {"driver": None}, "Unknown backend gpu.", "new virtual environment"),
        (UNSEEN, {"driver": "550.54.15"}, "cuda13 needs 580", "cuda12]"),
        (UNSEEN, {"plugins": {"cuda13": "0.11.2"}}, "has version 0.11.2", "-U"),
        (UNSEEN, {"environment": {"JAX_PLATFORMS": "cpu"}}, "JAX_PLATFORMS=cpu", "Unset it"),
        (UNSEEN, {"environment": {"CUDA_VISIBLE_DEVICES": ""}}, "hides all GPUs", "Unset it"),
        (UNSEEN, {"environment": {"CUDA_VISIBLE_DEVICES": "-1"}}, "hides all GPUs", "Unset it"),
        (
            UNSEEN,
            {"environment": {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"}},
            "other CUDA libraries",
            "Unset it",
        ),
        (
            WORKS,
            {"plugins": {"cuda12": "0.12.0", "cuda13": "0.12.0"}},
            "both installed",
            "pip uninstall jax-cuda12-plugin jax-cuda12-pjrt",
        ),
        (UNSEEN, {}, "Unknown backend gpu.", "new virtual environment"),
    ],
)
def test_a_cause_is_named_with_its_remedy(setup, changes, cause, remedy):
    [problem] = gpu_setup.problems(dataclasses.replace(setup, **changes))
    assert cause in problem
    assert remedy in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    "environment",
    [{"JAX_PLATFORMS": "cuda,cpu"}, {"CUDA_VISIBLE_DEVICES": "0,1"}, {"LD_LIBRARY_PATH": "/opt"}],
)
def test_a_harmless_environment_is_not_blamed(environment):
    [problem] = gpu_setup.problems(dataclasses.replace(UNSEEN, environment=environment))
    assert not any(name in problem for name in environment)


def test_this_machine_is_described_as_jax_sees_it():
    setup = gpu_setup.find()
    gpus = [device for device in jax.devices() if device.platform == "gpu"]
    assert len(setup.seen) == len(gpus)
    assert setup.environment == dict(os.environ)
    assert bool(setup.failure) == (not gpus)
    assert setup.jaxlib.startswith(jax.lib.__version__)
