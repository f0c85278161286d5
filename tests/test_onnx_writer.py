# SPDX-License-Identifier: Apache-2.0
"""Each operation of JAX becomes ONNX nodes that compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra onnx installs it")

from jax import lax

from flavr_jax import onnx_writer
from flavr_jax.export import run_onnx

KERNEL = np.random.default_rng(1).normal(size=(3, 2, 4, 5)).astype(np.float32)  # HWIO
LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolution(x, **options):
    return lax.conv_general_dilated(x, KERNEL, dimension_numbers=LAYOUT, **options)


FUNCTIONS = {
    "convolution": lambda x: convolution(x, window_strides=(2, 1), padding=((1, 0), (2, 3))),
    "dilated": lambda x: convolution(x, window_strides=(1, 1), padding="SAME", rhs_dilation=(1, 2)),
    "product over several axes": lambda x: jnp.einsum("abcd,aecd->ace", x, x[:, :3]),
    "product": lambda x: x @ KERNEL[0, 0],
    "parts": lambda x: jnp.concatenate([x[:, 1:5:2], x[:, :0], x[:, ::-1]], axis=1),
    "stack": lambda x: jnp.stack([x, 2 * x], axis=2),
    "unstack": lambda x: sum((n + 1) * each for n, each in enumerate(jnp.unstack(x, axis=1))),
    "choice": lambda x: jnp.where(x > 0, x, jnp.floor(10 * x)),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=3),
    "reflect": lambda x: jnp.pad(x, ((0, 0), (2, 2), (0, 0), (0, 0)), mode="reflect"),
    "sum": lambda x: jnp.broadcast_to(x.sum(axis=(1, 3), keepdims=True), x.shape),
    "activations": lambda x: jax.nn.leaky_relu(x) + jax.nn.relu(x) + jax.nn.sigmoid(x),
    "look-up": lambda x: (
        x.reshape(-1).at[jnp.clip((100 * x).astype(jnp.int32), 0, 50)].get(mode="promise_in_bounds")
    ),
    "transpose": lambda x: x.transpose(0, 3, 1, 2) / 3,
    "dynamic": lambda x: lax.dynamic_slice(x, (0, 9, 1, 0), (2, 4, 3, 4)),
    "barrier": lambda x: sum(lax.optimization_barrier((x, 2 * x))),
    "constants": lambda x: x + jnp.cumsum(jnp.arange(4.0)) ** 2,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_operation_computes_the_same(name):
    function = FUNCTIONS[name]
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 4)).astype(np.float32)
    model = onnx_writer.model_of(function, x.shape, ("windows", "frames"))
    expected = np.asarray(function(jnp.asarray(x)))
    np.testing.assert_allclose(
        run_onnx(model.SerializeToString(), x), expected, atol=2e-5, rtol=2e-5
    )


def test_what_depends_on_constants_alone_is_computed_beforehand():
    model = onnx_writer.model_of(FUNCTIONS["constants"], (2, 7, 6, 4), ("windows", "frames"))
    assert [node.op_type for node in model.graph.node] == ["Add", "Identity"]
    assert len(model.graph.initializer) == 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.sort(x), "the operation sort of JAX has no rule for ONNX"),
        (
            lambda x: convolution(
                x, window_strides=(1, 1), padding=((0, 0), (0, 0)), lhs_dilation=(2, 2)
            ),
            "a transposed convolution",
        ),
    ],
)
def test_operations_without_a_rule_are_errors(function, message):
    with pytest.raises(ValueError, match=message):
        onnx_writer.model_of(function, (2, 7, 6, 4), ("windows", "frames"))
