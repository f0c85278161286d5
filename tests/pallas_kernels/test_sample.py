# SPDX-License-Identifier: Apache-2.0
"""Bilinear look-up of several images, against float64 NumPy."""

import contextlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.sample.api import IMPLEMENTATIONS as BY_NAME
from pallas_kernels.sample.api import SampleArguments
from tests.pallas_kernels.oracles import needs_interpreter, oracle_sample

IMPLEMENTATIONS = [
    "xla",
    "xla for a GPU",
    "reference",
    pytest.param("mosaic_gpu", marks=needs_interpreter),
]


def where_it_runs(implementation):
    """What makes a CPU run an implementation; gradients must be computed inside it, too."""
    contexts = {"mosaic_gpu": pk.interpret, "xla for a GPU": pk.assume_hopper}
    return contexts.get(implementation, contextlib.nullcontext)()


def sample(images, displacements, weights, residual=None, *, implementation):
    """The operation, compiled as in use."""

    def call(*arrays):
        name = implementation.partition(" ")[0]
        return pk.sample(*arrays[:3], residual=arrays[3], implementation=name)

    with where_it_runs(implementation):
        return jax.jit(call)(images, displacements, weights, residual)


def as_float32(arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def case(seed=0, batch=2, outputs=3, sources=2, height=5, width=7, reach=4.0):
    random = np.random.default_rng(seed)
    shape = (batch, outputs, sources, height, width)
    return (
        random.random((batch, sources, height, width, 3)),
        random.uniform(-reach, reach, (*shape, 2)),
        random.uniform(-1, 1, shape),
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"outputs": 1, "sources": 1},
        {"sources": 4},
        {"height": 1},
        {"width": 1, "reach": 100.0},
        {"height": 10, "width": 45},  # tiles of 4 × 32 pixels, of which some overlap
    ],
    ids=str,
)
def test_pixels_are_looked_up_between_neighbours_and_at_the_border(implementation, shape):
    arrays = case(**shape)
    residual = np.random.default_rng(3).random(oracle_sample(*arrays).shape)
    ours = sample(*as_float32(arrays), implementation=implementation)
    assert np.abs(ours - oracle_sample(*arrays)).max() < 1e-5
    added = sample(*as_float32((*arrays, residual)), implementation=implementation)
    assert np.abs(added - oracle_sample(*arrays) - residual).max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_have_any_number_of_channels_and_more_pixels_than_a_tile(channels, implementation):
    # 17 · 20 pixels are two tiles of 128 and a part of the third.
    images, displacements, weights = case(batch=1, outputs=2, height=17, width=20)
    images = np.concatenate([images, images], axis=-1)[..., :channels]
    ours = sample(*as_float32((images, displacements, weights)), implementation=implementation)
    assert np.abs(ours - oracle_sample(images, displacements, weights)).max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_images_may_be_larger_than_the_output(implementation):
    # The same look-ups as from whole images: those of rows 2 and 3, moved down by 2 rows.
    images, displacements, weights = case(height=6)
    whole = oracle_sample(images, displacements, weights)
    moved = displacements[:, :, :, 2:4] + np.array([0, 2])
    arrays = as_float32((images, moved, weights[:, :, :, 2:4]))
    ours = sample(*arrays, implementation=implementation)
    assert np.abs(ours - whole[:, :, 2:4]).max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_whole_displacements_copy_pixels_exactly(implementation):
    images = jnp.asarray(case(height=6, width=8)[0][:, :1], jnp.float32)
    displacements = jnp.broadcast_to(jnp.array([2.0, -1.0]), (2, 1, 1, 6, 8, 2))
    ours = sample(images, displacements, jnp.ones((2, 1, 1, 6, 8)), implementation=implementation)
    assert np.array_equal(ours[:, 0, 1:, :6], images[:, 0, :5, 2:])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [(4, 5), (6, 35)])
def test_gradients_are_those_of_finite_differences(implementation, size):
    arrays = case(batch=1, outputs=2, height=size[0], width=size[1], reach=1.5)
    target = np.random.default_rng(1).random((1, 2, *size, 3))

    def loss(*arrays):
        found = sample(*arrays, implementation=implementation)
        return ((found - target) ** 2).sum()

    with where_it_runs(implementation):
        gradients = jax.grad(loss, (0, 1, 2))(*as_float32(arrays))

    def exact(*arrays):
        return ((oracle_sample(*arrays) - target) ** 2).sum()

    random = np.random.default_rng(2)
    for argument, gradient in enumerate(gradients):
        for place in (tuple(random.integers(0, arrays[argument].shape)) for _ in range(6)):
            step = 1e-6
            moved = [[a.copy() for a in arrays] for _ in range(2)]
            moved[0][argument][place] += step
            moved[1][argument][place] -= step
            slope = (exact(*moved[0]) - exact(*moved[1])) / (2 * step)
            assert gradient[place] == pytest.approx(slope, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_at_whole_displacements_the_slope_is_that_to_the_right_and_downwards(implementation):
    ramp = jnp.arange(5.0) + 10 * jnp.arange(4.0)[:, None]
    images = (ramp**2)[None, None, :, :, None]
    displacements = jnp.zeros((1, 1, 1, 4, 5, 2))
    weights = jnp.full((1, 1, 1, 4, 5), 2.0)

    def total(displacements):
        return sample(images, displacements, weights, implementation=implementation).sum()

    with where_it_runs(implementation):
        slopes = np.asarray(jax.grad(total)(displacements))[0, 0, 0]
    squares = np.asarray(ramp) ** 2
    # Inside; at the border, where the position is clamped, half of it or none.
    inner = np.s_[1:-1, 1:-1]
    assert slopes[..., 0][inner] == pytest.approx(2 * np.diff(squares, axis=1)[1:-1, 1:])
    assert slopes[..., 1][inner] == pytest.approx(2 * np.diff(squares, axis=0)[1:, 1:-1])
    assert slopes[:, 0, 0] == pytest.approx(np.diff(squares, axis=1)[:, 0])
    assert (slopes[:, -1, 0] == 0).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_residual_passes_the_gradient_on(implementation):
    arrays = as_float32(case(batch=1, outputs=1, height=4, width=5))
    weight = jnp.asarray(np.random.default_rng(5).random((1, 1, 4, 5, 3)), jnp.float32)

    def weighted(residual):
        return (sample(*arrays, residual, implementation=implementation) * weight).sum()

    with where_it_runs(implementation):
        gradient = jax.grad(weighted)(jnp.zeros_like(weight))
    assert np.array_equal(gradient, weight)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nan_shows_where_it_is_looked_up_and_nowhere_else(implementation):
    images = jnp.ones((1, 1, 4, 4, 3)).at[0, 0, 1, 1].set(jnp.nan)
    moved = jnp.zeros((1, 1, 1, 4, 4, 2)).at[..., 0].set(-1.0)
    ours = sample(images, moved, jnp.ones((1, 1, 1, 4, 4)), implementation=implementation)
    ours = np.asarray(ours)[0, 0]
    assert np.isnan(ours[1, 2]).all()
    # A pixel whose neighbour is NaN may be NaN too (0 · NaN); those that read neither are not.
    assert np.isfinite(ours[2:]).all()
    assert np.isfinite(ours[:, 3:]).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_displacement_that_is_not_finite_reads_inside_the_image(value, implementation):
    images, displacements, weights = as_float32(case(batch=1, outputs=1, sources=1))
    displacements = displacements.at[0, 0, 0, 2, 3].set(value)
    ours = np.asarray(sample(images, displacements, weights, implementation=implementation))[0, 0]
    pixel = ours[2, 3]
    if np.isnan(value):
        assert np.isnan(pixel).all()
    else:  # clamped to a corner
        corner = images[0, 0, -1, -1] if value > 0 else images[0, 0, 0, 0]
        assert pixel == pytest.approx(np.asarray(corner * weights[0, 0, 0, 2, 3]), abs=1e-6)
    assert np.isfinite(np.delete(ours.reshape(-1, 3), 2 * 7 + 3, axis=0)).all()


def test_shapes_that_do_not_belong_together_are_refused():
    # Past the annotations, which only tests check.
    check = pk.sample.__wrapped__
    images, displacements, weights = (jnp.asarray(a, jnp.float32) for a in case())
    with pytest.raises(ValueError, match=r"`displacements` have .* must be"):
        check(images, displacements[..., :1], weights)
    with pytest.raises(ValueError, match=r"`weights`"):
        check(images, displacements, weights[:, :1])
    with pytest.raises(ValueError, match=r"`residual` has the shape .* must be"):
        check(images, displacements, weights, residual=images)


@pytest.mark.parametrize(
    ("channels", "dtype", "reason"),
    [(5, "float32", "at most 4 channels, and got 5"), (3, "bfloat16", "float32 throughout")],
)
def test_the_kernel_says_what_it_cannot_do(channels, dtype, reason):
    images = jnp.zeros((1, 2, 4, 5, channels), dtype)
    displacements, weights = jnp.zeros((1, 3, 2, 4, 5, 2), dtype), jnp.zeros((1, 3, 2, 4, 5), dtype)
    with pk.assume_hopper():
        with pytest.raises(NotImplementedError, match=reason):
            pk.sample(images, displacements, weights, implementation="mosaic_gpu")
        (choice,) = pk.explain(pk.sample, images, displacements, weights)
    assert choice.implementation == "xla"
    assert reason in choice.refused["mosaic_gpu"]


def test_after_hopper_the_kernel_runs_only_if_it_is_named(monkeypatch):
    arguments = SampleArguments(
        images=jnp.zeros((1, 2, 4, 5, 3)),
        displacements=jnp.zeros((1, 3, 2, 4, 5, 2)),
        weights=jnp.zeros((1, 3, 2, 4, 5)),
        residual=None,
    )
    gpu = SimpleNamespace(platform="gpu", device_kind="NVIDIA B200", compute_capability="10.0")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [gpu])
    kernel = BY_NAME["mosaic_gpu"]
    assert kernel.why_not(arguments) is None
    assert "must be named" in kernel.only_named()
    gpu.compute_capability = "9.0"
    assert kernel.only_named() is None
