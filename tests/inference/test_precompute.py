# SPDX-License-Identifier: Apache-2.0
"""Programs split in two: the same results, and no work on weights left in the second half."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from flavr_jax.inference import precompute

WEIGHTS = {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.arange(4.0), "unused": jnp.ones(2)}
INPUTS = jnp.arange(6.0).reshape(2, 3)


def halves_of(function, weights=WEIGHTS, *others):
    """Both halves' jaxprs, the prepared weights, and the result of running both."""
    others = others or (INPUTS,)
    halves = precompute.split(function, weights, *others)
    prepared = precompute.joined(halves.prepare(weights), weights)
    return (
        jax.make_jaxpr(halves.prepare)(weights),
        jax.make_jaxpr(halves.run)(prepared, *others),
        prepared,
        halves.run(prepared, *others),
    )


def operations(jaxpr):
    """Names of all operations, with those inside calls."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
        ):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from operations(getattr(inner, "jaxpr", inner))


@jax.jit
def layer(kernel, bias, x):
    """A call in which only the first operations depend on the weights alone."""
    return x @ jnp.sin(kernel) + jnp.exp(bias)


@jax.custom_vjp
def custom(kernel, x):
    return x @ jnp.cos(kernel)


custom.defvjp(lambda kernel, x: (custom(kernel, x), None), lambda _, g: (None, None))


@pytest.mark.parametrize(
    ("function", "moved"),
    [
        (lambda w, x: layer(w["kernel"], w["bias"], x), {"sin", "exp"}),
        (lambda w, x: layer(w["kernel"], w["bias"], layer(w["kernel"], 1.0, x)[:, :3]), {"sin"}),
        (lambda w, x: custom(w["kernel"], x), {"cos"}),
        (lambda w, x: jax.jit(lambda x: layer(w["kernel"], w["bias"], x))(x), {"sin", "exp"}),
        (lambda w, x: {"a": x + np.float32(1), "b": jnp.tanh(w["bias"])}, {"tanh"}),
    ],
)  # fmt: skip
def test_weights_are_transformed_ahead_and_results_stay(function, moved):
    first, second, _, found = halves_of(function)
    jax.tree.map(np.testing.assert_array_equal, found, function(WEIGHTS, INPUTS))
    assert moved <= set(operations(first.jaxpr))
    assert moved.isdisjoint(operations(second.jaxpr))


def test_calls_without_such_operations_stay_calls():
    inner = jax.jit(lambda kernel, x: jnp.sin(x @ kernel))
    _, second, _, _ = halves_of(lambda w, x: inner(w["kernel"], inner(w["kernel"], x)[:, :3]))
    calls = [step.params["jaxpr"] for step in second.jaxpr.eqns if "jaxpr" in step.params]
    # The same object, so it is compiled once.
    assert len(calls) == 2
    assert calls[0] is calls[1]


def test_scopes_of_operations_stay():
    def function(w, x):
        with jax.named_scope("outer"):
            return jax.jit(jax.named_scope("inner")(layer))(w["kernel"], w["bias"], x)

    _, second, _, _ = halves_of(function)
    scopes = {step.primitive.name: str(step.source_info.name_stack) for step in second.jaxpr.eqns}
    assert scopes["dot_general"] == "outer/inner"


def test_weights_that_are_used_as_they_are_are_not_copied():
    _, _, prepared, _ = halves_of(lambda w, x: x @ w["kernel"] + jnp.exp(w["bias"]))
    assert len(prepared) == 2
    assert prepared[0] is WEIGHTS["kernel"]


def test_views_of_weights_are_not_copies():
    def function(w, x):
        rows = w["kernel"].reshape(2, 6)  # read as it is, and by an operation ahead
        return x[:, :2] @ rows + jnp.exp(rows)[1]

    _, _, prepared, found = halves_of(function)
    assert prepared[0] is WEIGHTS["kernel"]
    assert [x.size for x in prepared[1:]] == [6]
    np.testing.assert_array_equal(found, function(WEIGHTS, INPUTS))


def test_what_is_much_larger_than_its_weights_is_not_stored():
    def function(w, x):
        return x[0, 0] * jnp.broadcast_to(jnp.exp(w["bias"]), (100, 100, 4))

    _, _, prepared, found = halves_of(function)
    assert [x.shape for x in prepared] == [(4,)]
    np.testing.assert_array_equal(found, function(WEIGHTS, INPUTS))


def test_a_function_may_stay_whole():
    halves = precompute.unsplit(lambda w, x: layer(w["kernel"], w["bias"], x), WEIGHTS)
    assert not halves.compiled
    prepared = precompute.joined(halves.prepare(WEIGHTS), WEIGHTS)
    assert all(array is leaf for array, leaf in zip(prepared, jax.tree.leaves(WEIGHTS)))
    found = halves.run(prepared, INPUTS)
    np.testing.assert_array_equal(found, layer(WEIGHTS["kernel"], WEIGHTS["bias"], INPUTS))


def test_the_trees_survive_compilation():
    halves = precompute.split(lambda w, x: x @ w["kernel"] + jnp.exp(w["bias"]), WEIGHTS, INPUTS)
    made = jax.jit(halves.prepare).lower(WEIGHTS).compile()(WEIGHTS)
    found = jax.jit(halves.run)(precompute.joined(made, WEIGHTS), INPUTS)
    np.testing.assert_allclose(
        found, INPUTS @ WEIGHTS["kernel"] + jnp.exp(WEIGHTS["bias"]), rtol=1e-6
    )


def test_kernels_get_their_weights_as_they_are():
    def network(w, clips):
        x = pk.conv3d(clips, w["stem"], w["bias"], stride=(1, 2, 2), with_totals=True)
        gate = w["gate"], w["bias"]
        x = pk.gated_conv3d(x, w["kernel"], w["bias"], *gate, residual=x, with_totals=True)
        x = pk.gated_conv3d_transpose((x, x), w["up"], w["bias"], *gate)
        images = pk.conv2d(x.values[:, 0], w["kernel"][0], w["bias"])
        return pk.conv2d(images, w["out"], padding="reflect")

    shapes = {
        "stem": (3, 7, 7, 3, 32), "kernel": (3, 3, 3, 32, 32), "up": (3, 4, 4, 64, 32),
        "out": (7, 7, 32, 3), "gate": (32, 32), "bias": (32,),
    }  # fmt: skip
    weights = {name: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for name, shape in shapes.items()}
    clips = jax.ShapeDtypeStruct((1, 4, 128, 128, 3), jnp.bfloat16)
    with pk.assume_hopper():
        halves = precompute.split(network, weights, clips)
        prepared = jax.eval_shape(lambda w: precompute.joined(halves.prepare(w), w), weights)
        second = jax.make_jaxpr(halves.run)(prepared, clips)
    given = set(second.jaxpr.invars[:-1])
    readers = {
        step.params.get("name", step.primitive.name)
        for step in second.jaxpr.eqns
        if given & {atom for atom in step.invars if not isinstance(atom, jax.extend.core.Literal)}
    }
    assert readers == {"_launch", "reshape", "broadcast_in_dim"}  # kernels, and views for them
