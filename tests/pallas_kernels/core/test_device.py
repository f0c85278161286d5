# SPDX-License-Identifier: Apache-2.0
"""Devices: who can run the kernels, why others cannot, and the stand-ins for a Hopper GPU."""

import threading
from types import SimpleNamespace

import jax
import pytest

import pallas_kernels as pk
from pallas_kernels.core import device


@pytest.fixture
def a_gpu(monkeypatch):
    """Replace the default device by a GPU with these attributes."""

    def replace(kind, **attributes):
        gpu = SimpleNamespace(platform="gpu", device_kind=kind, **attributes)
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(jax, "devices", lambda: [gpu])

    return replace


@pytest.mark.parametrize("kind", ["NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA GH200 480GB"])
def test_every_hopper_gpu_can_run_the_kernels(a_gpu, kind):
    a_gpu(kind, compute_capability="9.0")
    assert device.why_not() is None
    assert not device.is_cpu()


@pytest.mark.parametrize(
    ("kind", "capability"),
    [("NVIDIA A100", "8.0"), ("NVIDIA B200", "10.0"), ("NVIDIA RTX 5090", "12.0")],
)
def test_other_gpus_are_named_with_their_capability(a_gpu, kind, capability):
    # 10.0 and 12.0 as well: later GPUs do not have Hopper's WGMMA instructions.
    a_gpu(kind, compute_capability=capability)
    assert str(device.why_not()).endswith(f"and {kind} has {capability}")


def test_kernels_without_wgmma_run_on_later_gpus_too_but_only_by_name(a_gpu):
    a_gpu("NVIDIA A100", compute_capability="8.0")
    assert "or a later one (compute capability 9.0)" in str(device.why_not(wgmma=False))
    a_gpu("NVIDIA B200", compute_capability="10.0")
    assert device.why_not(wgmma=False) is None
    assert "not been tried on NVIDIA B200" in str(device.untried())
    with pk.assume_hopper():
        assert device.untried() is None
    a_gpu("NVIDIA H100", compute_capability="9.0")
    assert device.untried() is None


def test_a_gpu_that_tells_no_capability_is_refused(a_gpu):
    a_gpu("AMD Instinct MI300X")
    assert "and AMD Instinct MI300X has unknown" in str(device.why_not())


def test_a_cpu_is_told_what_is_needed():
    if jax.default_backend() != "cpu":
        pytest.skip("needs a CPU as the default device")
    assert device.why_not() == "it needs an NVIDIA Hopper GPU, and the default device is a CPU"
    assert device.is_cpu()


def test_the_number_of_sms_is_the_devices_or_that_of_an_h200(a_gpu):
    a_gpu("NVIDIA H100 PCIe", compute_capability="9.0", core_count=114)
    assert device.sm_count() == 114
    a_gpu("NVIDIA H200", compute_capability="9.0")  # a runtime that does not tell
    assert device.sm_count() == 132


def test_stand_ins_do_not_ask_the_device(a_gpu):
    a_gpu("NVIDIA A100", compute_capability="8.0", core_count=108)
    with pk.assume_hopper():
        assert device.why_not() is None
        assert (device.sm_count(), device.table_name()) == (132, "nvidia_h200")
        assert not device.interpreting()
    with pk.interpret():
        assert device.why_not() is None
        assert (device.sm_count(), device.table_name()) == (2, "nvidia_h200")
        assert device.interpreting()
    assert device.why_not() is not None


def test_lowering_for_a_gpu_on_a_cpu_is_not_compiling_for_the_cpu():
    with pk.assume_hopper():
        assert not device.is_cpu()


def test_the_inner_of_two_stand_ins_counts_and_the_outer_returns():
    with pk.assume_hopper():
        with pk.interpret():
            assert device.interpreting()
        assert not device.interpreting()
        assert device.why_not() is None


def test_a_stand_in_ends_when_its_block_fails():
    before = device.why_not()

    def fail():
        with pk.assume_hopper():
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert device.why_not() == before


@pytest.mark.parametrize("stand_in", [pk.assume_hopper, pk.interpret])
def test_a_stand_in_of_one_thread_is_not_seen_by_another(stand_in):
    # A farm's threads compile at the same time; one may lower for a GPU while others run on a CPU.
    seen = []
    with stand_in():
        thread = threading.Thread(target=lambda: seen.append(device.why_not()))
        thread.start()
        thread.join()
    assert seen == [device.why_not()]
