# SPDX-License-Identifier: Apache-2.0
"""Traversal of the hierarchy, against every triangle tested in double precision."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.render import bvh, traversal


@pytest.fixture(scope="module")
def soup():
    """60 random triangles, and 300 rays among them."""
    random = np.random.default_rng(0)
    vertices = (random.uniform(-2, 2, (60, 1, 3)) + random.uniform(-1, 1, (60, 3, 3))).reshape(
        -1, 3
    )
    faces = np.arange(180).reshape(60, 3)
    origin = random.uniform(-4, 4, (300, 3))
    direction = random.uniform(-2, 2, (300, 3)) - origin
    return bvh.build(vertices, faces, np.ones((180, 3))), vertices[faces], origin, direction


@pytest.fixture(params=["whole", "divided", "kernel"])
def way(request, monkeypatch):
    """How rays are traced: in one array, with slow rays in a smaller one, in a kernel."""
    divided = range(16, 1000) if request.param == "divided" else range(0)
    monkeypatch.setattr(traversal, "_DIVIDED", divided)
    if request.param == "kernel":
        on_gpu = jax.default_backend() == "gpu"
        kernel = functools.partial(traversal._by_kernel, interpret=not on_gpu)
        monkeypatch.setattr(traversal, "_by_xla", kernel)
    return request.param


def by_hand(triangles, origin, direction):
    """Distances from solving o + t d = a + u (b − a) + v (c − a) for every triangle."""
    a, b, c = triangles.swapaxes(0, 1)
    matrix = np.stack([np.broadcast_to(-direction, a.shape), b - a, c - a], axis=-1)
    t, u, v = np.linalg.solve(matrix, (origin - a)[..., None])[..., 0].T
    return np.where((t > 0) & (u >= 0) & (v >= 0) & (u + v <= 1), t, np.inf)


def rays(origin, direction):
    return jnp.asarray(origin.T, jnp.float32), jnp.asarray(direction.T, jnp.float32)


def test_the_nearest_triangle_is_found(soup, way, monkeypatch):
    arrays = set()
    visit = traversal._visit

    def noted(tree, rays, state, nearest):
        arrays.add(len(state.node))
        return visit(tree, rays, state, nearest)

    monkeypatch.setattr(traversal, "_visit", noted)
    tree, triangles, origin, direction = soup
    find = jax.jit(lambda *rays: traversal.traverse(tree, *rays, nearest=True))
    distance, number = find(*rays(origin, direction), jnp.full(300, jnp.inf))
    expected = np.array([by_hand(triangles, *ray).min() for ray in zip(origin, direction)])
    assert 0.3 < np.isfinite(expected).mean() < 0.99
    np.testing.assert_allclose(distance, expected, rtol=1e-4)
    np.testing.assert_array_equal(number >= 0, np.isfinite(expected))
    # The slowest 18 rays and the slowest of these go on in arrays of their own.
    # JAX traces the kernel's 32 rays, too, wherever the program will run.
    assert arrays - {32} == {"whole": {300}, "divided": {300, 18, 1}, "kernel": set()}[way]


@pytest.mark.usefixtures("way")
def test_any_triangle_within_the_limit_makes_a_shadow(soup):
    tree, triangles, origin, direction = soup
    find = jax.jit(lambda *rays: traversal.traverse(tree, *rays, nearest=False))
    _, number = find(*rays(origin, direction), jnp.full(300, 0.9))
    expected = [by_hand(triangles, *ray).min() < 0.9 for ray in zip(origin, direction)]
    np.testing.assert_array_equal(number >= 0, expected)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("capability", "is_kernel"), [("9.0", True), ("8.0", True), ("7.5", False)]
)
def test_gpus_since_ampere_get_a_kernel_and_older_ones_a_loop(
    soup, monkeypatch, capability, is_kernel
):
    @jax.jit
    def find(*rays):
        with monkeypatch.context() as patch:
            device = types.SimpleNamespace(compute_capability=capability)
            patch.setattr(jax, "devices", lambda: [device])
            return traversal.traverse(soup[0], *rays, nearest=True)

    rays = jnp.ones((3, 40)), jnp.ones((3, 40)), jnp.ones(40)
    # Since 0.11, JAX asks for the GPU's kind.
    kind = getattr(jax.sharding, "AbstractDevice", None)
    device = {"abstract_device": kind("NVIDIA H200", 132, "gpu")} if kind else {}
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), **device)):
        traced = find.trace(*rays)
        program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert ("triton" in program) == is_kernel
    assert ("stablehlo.while" in program) != is_kernel
