# SPDX-License-Identifier: Apache-2.0
import pytest

import pallas_kernels as pk
from pallas_kernels.conv2d import mosaic_gpu as conv2d_mosaic
from pallas_kernels.hopper import gradients, launch
from tests.pallas_kernels.oracles import gemm_without_kernel


@pytest.fixture
def without_kernels(monkeypatch):
    """Mosaic GPU implementations run, with convolutions of lax in place of their kernel."""
    for module in (gradients, launch, conv2d_mosaic):
        monkeypatch.setattr(module, "implicit_gemm", gemm_without_kernel)
    for module in (gradients, conv2d_mosaic):
        monkeypatch.setattr(module, "plan_resident", lambda *_, **__: None)
    with pk.assume_hopper():
        yield
