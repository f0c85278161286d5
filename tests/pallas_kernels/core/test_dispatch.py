# SPDX-License-Identifier: Apache-2.0
"""Dispatch: a name is that implementation or an error, and no argument is lost on the way."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.core import dispatch
from pallas_kernels.core.arguments import Conv2dArguments, Conv3dArguments, on_arrays
from pallas_kernels.core.dispatch import Candidate
from pallas_kernels.core.feature_map import FeatureMap
from tests.pallas_kernels.oracles import draw, oracle_conv3d, rounded


@dataclasses.dataclass(frozen=True)
class Two:
    x: jax.Array
    kernel: jax.Array

    @property
    def operands(self):
        return self.x, self.kernel


TWO = Two(jnp.zeros((2, 3)), jnp.zeros(4, jnp.bfloat16))


def test_none_takes_the_first_that_can_and_tells_why_others_cannot():
    implementations = {
        "mosaic_gpu": Candidate(lambda _: "fast", lambda _: "it rains"),
        "xla": Candidate(lambda _: "middle"),
        "reference": Candidate(lambda _: "slow"),
    }
    result = dispatch.call("op", implementations, None, TWO)
    assert result == "middle"
    assert dispatch.call("op", implementations, "reference", TWO) == "slow"
    (choice,) = pk.explain(lambda: jnp.zeros(len(dispatch.call("op", implementations, None, TWO))))
    assert str(choice) == "op float32[2,3] bfloat16[4]: xla; not mosaic_gpu: it rains"
    with pytest.raises(NotImplementedError, match=r"op cannot run as asked \(mosaic_gpu: it rains"):
        dispatch.call("op", implementations, "mosaic_gpu", TWO)


def test_an_unknown_name_lists_those_that_there_are():
    with pytest.raises(ValueError, match="'mosaic_gpu', but op has only xla; use one of these"):
        dispatch.call("op", {"xla": Candidate(lambda _: 0)}, "mosaic_gpu", TWO)


def test_an_implementation_may_run_only_if_it_is_named():
    reasons = ["nobody tried it", None]
    implementations = {
        "mosaic_gpu": Candidate(lambda _: "new", only_named=lambda: reasons[0]),
        "xla": Candidate(lambda _: "old"),
    }
    assert dispatch.call("op", implementations, None, TWO) == "old"
    assert dispatch.call("op", implementations, "mosaic_gpu", TWO) == "new"
    reasons.pop(0)
    assert dispatch.call("op", implementations, None, TWO) == "new"


@pytest.mark.parametrize("device", [contextlib.nullcontext, pk.assume_hopper])
def test_a_gate_named_mosaic_gpu_does_not_run_on_xla(device):
    x, kernel = jnp.zeros((1, 2, 3, 4, 16), jnp.bfloat16), jnp.zeros((16, 16), jnp.bfloat16)
    with device(), pytest.raises(ValueError, match="gate has only xla and reference"):
        pk.gate(x, kernel, kernel[0], implementation="mosaic_gpu")


@pytest.mark.parametrize("implementation", ["xla", "reference"])
@pytest.mark.parametrize("size", [1, 3])
def test_conv2d_rounds_its_sums_to_out_dtype_alone(implementation, size):
    # Sums in bfloat16 would be off by up to 2⁻⁹ of the largest.
    x, x64 = rounded(draw(1, 6, 7, 16))
    kernel, kernel64 = rounded(draw(size, size, 16, 4, seed=1))
    actual = pk.conv2d(x, kernel, out_dtype=jnp.float32, implementation=implementation)
    expected = oracle_conv3d(x64[:, None], kernel64[None])[:, 0]
    assert actual.dtype == jnp.float32
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_conv2d_with_out_dtype_has_gradients_of_the_inputs_types(implementation):
    x, kernel = jnp.ones((1, 5, 6, 8), jnp.bfloat16), jnp.ones((3, 3, 8, 2), jnp.bfloat16)

    def objective(x, kernel):
        out = pk.conv2d(
            x, kernel, padding="reflect", out_dtype=jnp.float32, implementation=implementation
        )
        return out.sum()

    of_x, of_kernel = jax.grad(objective, argnums=(0, 1))(x, kernel)
    assert of_x.dtype == of_kernel.dtype == jnp.bfloat16
    assert float(of_kernel[1, 1, 0, 0]) == 30  # pixels


def test_array_functions_get_every_argument_by_its_name():
    seen = {}

    def function(**given):
        seen.update(given)
        return given["inputs"][0]

    x = FeatureMap(jnp.ones((1, 2, 3, 4, 5)))
    arguments = Conv3dArguments(
        inputs=(x, x), kernel=jnp.ones((1, 1, 1, 10, 5)), bias=None, activation="relu",
        stride=(1, 2, 2), pad_time=False, scale=None, residual=x, with_totals=True,
    )  # fmt: skip
    assert isinstance(on_arrays(function)(arguments), FeatureMap)
    assert set(seen) == {field.name for field in dataclasses.fields(arguments)} - {"with_totals"}
    assert seen["residual"] is x.values
    assert (seen["stride"], seen["pad_time"], seen["activation"]) == ((1, 2, 2), False, "relu")


def test_arguments_cannot_be_given_by_position_or_changed():
    with pytest.raises(TypeError, match="positional"):
        Conv2dArguments((), jnp.ones((1, 1, 1, 1)), None, None, "zeros", jnp.dtype("float32"))
    arguments = Conv2dArguments(
        inputs=(), kernel=jnp.ones((1, 1, 1, 1)), bias=None, activation=None, padding="zeros",
        out_dtype=jnp.dtype("float32"),
    )  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        arguments.padding = "reflect"
