# SPDX-License-Identifier: Apache-2.0
"""Cubic look-ups against Keys' kernel in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.sample import cubic
from tests.pallas_kernels.oracles import assert_slopes, needs_interpreter
from tests.pallas_kernels.test_warp import TIMES, UNIT, case, run

IMPLEMENTATIONS = ["xla", "reference", pytest.param("mosaic_gpu", marks=needs_interpreter)]


def keys(x):
    """Keys' kernel with a = -1/2 at a distance, and the one of linear interpolation."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0)), np.maximum(0.0, 1 - x)


def look_up(image, x, y):
    """One image at one position, without the product of both axes' corrections."""
    height, width = image.shape[:2]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = int(np.floor(x)), int(np.floor(y))
    total = np.zeros(image.shape[2:])
    for row in range(top - 1, top + 3):
        for column in range(left - 1, left + 3):
            (cubic_y, linear_y), (cubic_x, linear_x) = keys(y - row), keys(x - column)
            weight = linear_x * linear_y
            weight += (cubic_x - linear_x) * linear_y + linear_x * (cubic_y - linear_y)
            pixel = image[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
            total += weight * pixel
    return total


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_images_are_mixed_from_cubic_look_ups(implementation):
    images, fields, _ = case()
    fields[0, 0, 0, 0, 3:7] = 0.0  # a whole pixel
    made = run(pk.warp_and_mix, images, fields, cubic=True, implementation=implementation)
    for (b, o, y, x), colour in np.ndenumerate(fields[..., 0]):
        values = fields[b, o, y, x]
        weight = 1 / (1 + np.exp(-values[7]) * TIMES[o] / (1 - TIMES[o]))
        before = values[3:5] * TIMES[o] * UNIT + (x, y)
        after = values[5:7] * (1 - TIMES[o]) * UNIT + (x, y)
        expected = weight * look_up(images[b, 0], *before)
        expected = expected + (1 - weight) * look_up(images[b, 1], *after) + values[:3]
        assert np.abs(made[b, o, y, x] - expected).max() < 1e-5, (b, o, y, x, colour)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_a_parabola_is_looked_up_exactly(implementation):
    y, x = np.mgrid[:12, :16] / 4.0
    image = np.stack([1 + x - x * x, 2 - y + y * y, x * y], axis=-1)
    moves = np.random.default_rng(0).uniform(-1.5, 1.5, (1, 1, 8, 12, 2))
    fields = np.zeros((1, 1, 12, 16, 8))
    fields[:, :, 2:-2, 2:-2, 3:5] = fields[:, :, 2:-2, 2:-2, 5:7] = moves
    made = pk.warp_and_mix(
        jnp.asarray(image, jnp.float32)[None, None].repeat(2, 1), jnp.asarray(fields, jnp.float32),
        np.array([0.5]), unit=2.0, cubic=True, implementation=implementation,
    )  # fmt: skip
    x, y = (np.mgrid[2:10, 2:14][n] / 4 + moves[0, 0, ..., 1 - n] / 4 for n in (1, 0))
    expected = np.stack([1 + x - x * x, 2 - y + y * y, x * y], axis=-1)
    within = (x >= 0.25) & (x <= 3.5) & (y >= 0.25) & (y <= 2.5)  # farther out, edges are repeated
    assert within.mean() > 0.5
    assert np.abs(made[0, 0, 2:-2, 2:-2] - expected)[within].max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_stripe_is_that_of_whole_images(implementation):
    images, fields, _ = case()
    given = {"cubic": True, "pairs": 1, "implementation": implementation}
    whole = run(pk.warp_and_mix, images, fields, **given)
    part = run(pk.warp_and_mix, images, fields[:, :, 4:10], first_row=4, top=1, height=4, **given)
    assert np.abs(part - whole[:, :, 5:9]).max() < 1e-5


def test_the_gradient_is_the_slope():
    images, fields, _ = case(batch=1, height=4, width=6)

    def loss(images, fields):
        made = pk.warp_and_mix(
            images, fields, TIMES, unit=UNIT, cubic=True, implementation="reference"
        )
        return (made * jnp.cos(jnp.arange(made.size)).reshape(made.shape)).sum()

    assert_slopes(loss, [images, fields])


def test_second_differences_repeat_the_edge():
    found = cubic.second_differences(jnp.array([[1.0, 2.0, 5.0]]), 1)
    np.testing.assert_array_equal(found, [[1.0, 2.0, -3.0]])


def test_the_kernel_lowers_for_a_gpu():
    images, fields, _ = (jnp.asarray(x, jnp.float32) for x in case(height=16))

    def mix(images, fields):
        return pk.warp_and_mix(images, fields, TIMES, unit=UNIT, cubic=True)

    with pk.assume_hopper():
        text = jax.jit(mix).trace(images, fields).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@mosaic_gpu") == 1
    assert "gather" not in text  # the definition would look pixels up apart
