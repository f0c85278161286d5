# SPDX-License-Identifier: Apache-2.0
"""GPU kernels are compiled one by one, ahead of the program that calls them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import pallas_kernels
from flavr_jax import kernel_compilation


@pytest.fixture(scope="module")
def lowered():
    """A program for a Hopper GPU with three convolutions, two of which are alike."""

    def convolve(frames, larger, kernel):
        small = [
            pallas_kernels.conv3d(each, kernel, implementation="mosaic_gpu") for each in frames
        ]
        return small, pallas_kernels.conv3d(larger, kernel, implementation="mosaic_gpu")

    def maps(side):
        return jax.ShapeDtypeStruct((1, 4, side, side, 64), jnp.bfloat16)

    kernel = jax.ShapeDtypeStruct((3, 3, 3, 64, 64), jnp.bfloat16)
    with pallas_kernels.assume_hopper():
        traced = jax.jit(convolve).trace([maps(16), maps(16)], maps(24), kernel)
        return traced.lower(lowering_platforms=("cuda",))


def test_each_kernel_of_a_program_is_compiled_once(lowered, monkeypatch):
    compiled = []
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: compiled.append(self))
    kernel_compilation.compile_kernels(lowered, jax.devices()[0])
    kernels = [
        {call.attributes["mhlo.backend_config"]["module"].value_bytes: call for call in calls}
        for calls in (
            kernel_compilation._calls(lowered),
            [call for one in compiled for call in kernel_compilation._calls(one)],
        )
    ]
    assert len(compiled) == len(kernels[1]) == 2
    # Other code, or arrays of other shapes, would be another kernel.
    assert kernels[0].keys() == kernels[1].keys()
    for module, call in kernels[0].items():
        same = kernels[1][module]
        for name in ("operands", "results"):
            types = [[str(each.type) for each in getattr(one, name)] for one in (call, same)]
            assert types[0] == types[1]
        assert str(call.attributes["mhlo.backend_config"]) == str(
            same.attributes["mhlo.backend_config"]
        )


def test_a_kernel_that_does_not_compile_is_left_to_the_program(lowered):
    # A CPU has no compiler for these kernels.
    kernel_compilation.compile_kernels(lowered, jax.devices()[0])


def test_a_program_without_kernels_has_nothing_to_compile(monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "compile", None)
    plain = jax.jit(jnp.sin).lower(jnp.zeros(3))
    kernel_compilation.compile_kernels(plain, jax.devices()[0])
