# SPDX-License-Identifier: Apache-2.0
"""Bilinear look-up of several images, against a loop over pixels in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk

IMPLEMENTATIONS = ("xla", "reference")


def looked_up(images, displacements, weights):
    """The definition, one pixel after another."""
    batch, outputs, _, height, width = weights.shape
    total = np.zeros((batch, outputs, height, width, images.shape[-1]))
    for b, o, s, row, column in np.ndindex(*weights.shape):
        dx, dy = displacements[b, o, s, row, column]
        x, y = min(max(column + dx, 0), width - 1), min(max(row + dy, 0), height - 1)
        left, top = min(math.floor(x), width - 1), min(math.floor(y), height - 1)
        right, below = min(left + 1, width - 1), min(top + 1, height - 1)
        image, across, down = images[b, s], x - left, y - top
        upper = image[top, left] * (1 - across) + image[top, right] * across
        lower = image[below, left] * (1 - across) + image[below, right] * across
        total[b, o, row, column] += weights[b, o, s, row, column] * (
            upper * (1 - down) + lower * down
        )
    return total


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
    [{}, {"outputs": 1, "sources": 1}, {"sources": 4}, {"height": 1}, {"width": 1, "reach": 100.0}],
    ids=str,
)
def test_pixels_are_looked_up_between_neighbours_and_at_the_border(implementation, shape):
    arrays = case(**shape)
    ours = pk.sample(*(jnp.asarray(a, jnp.float32) for a in arrays), implementation=implementation)
    assert np.abs(ours - looked_up(*arrays)).max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_images_may_be_larger_than_the_output(implementation):
    # The same look-ups as from whole images: those of rows 2 and 3, moved down by 2 rows.
    images, displacements, weights = case(height=6)
    whole = looked_up(images, displacements, weights)
    moved = displacements[:, :, :, 2:4] + np.array([0, 2])
    arrays = (jnp.asarray(a, jnp.float32) for a in (images, moved, weights[:, :, :, 2:4]))
    ours = pk.sample(*arrays, implementation=implementation)
    assert np.abs(ours - whole[:, :, 2:4]).max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_whole_displacements_copy_pixels_exactly(implementation):
    images = jnp.asarray(case(height=6, width=8)[0][:, :1], jnp.float32)
    displacements = jnp.broadcast_to(jnp.array([2.0, -1.0]), (2, 1, 1, 6, 8, 2))
    ours = pk.sample(
        images, displacements, jnp.ones((2, 1, 1, 6, 8)), implementation=implementation
    )
    assert np.array_equal(ours[:, 0, 1:, :6], images[:, 0, :5, 2:])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_are_those_of_finite_differences(implementation):
    arrays = case(batch=1, outputs=2, height=4, width=5, reach=1.5)
    target = np.random.default_rng(1).random((1, 2, 4, 5, 3))

    def loss(*arrays):
        found = pk.sample(*arrays, implementation=implementation)
        return ((found - target) ** 2).sum()

    gradients = jax.grad(loss, (0, 1, 2))(*(jnp.asarray(a, jnp.float32) for a in arrays))

    def exact(*arrays):
        return ((looked_up(*arrays) - target) ** 2).sum()

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
def test_nan_shows_where_it_is_looked_up_and_nowhere_else(implementation):
    images = jnp.ones((1, 1, 4, 4, 3)).at[0, 0, 1, 1].set(jnp.nan)
    moved = jnp.zeros((1, 1, 1, 4, 4, 2)).at[..., 0].set(-1.0)
    ours = pk.sample(images, moved, jnp.ones((1, 1, 1, 4, 4)), implementation=implementation)
    ours = np.asarray(ours)[0, 0]
    assert np.isnan(ours[1, 2]).all()
    # A pixel whose neighbour is NaN may be NaN too (0 · NaN); those that read neither are not.
    assert np.isfinite(ours[2:]).all()
    assert np.isfinite(ours[:, 3:]).all()


def test_shapes_that_do_not_belong_together_are_refused():
    # Past the annotations, which only tests check.
    check = pk.sample.__wrapped__
    images, displacements, weights = (jnp.asarray(a, jnp.float32) for a in case())
    with pytest.raises(ValueError, match=r"`displacements` have .* must be"):
        check(images, displacements[..., :1], weights)
    with pytest.raises(ValueError, match=r"`weights`"):
        check(images, displacements, weights[:, :1])


def test_there_is_no_kernel_to_name():
    images, displacements, weights = (jnp.asarray(a, jnp.float32) for a in case())
    with pytest.raises(ValueError, match="sample has only xla and reference"):
        pk.sample(images, displacements, weights, implementation="mosaic_gpu")
