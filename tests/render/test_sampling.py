# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.render import sampling

SEEDS = sampling.seeds(jnp.uint32(3), jnp.arange(20, dtype=jnp.uint32))


@pytest.fixture(scope="module")
def points():
    """64 samples of two uses in 20 pixels: [use, axis, sample, pixel]."""
    draw = jax.jit(
        jax.vmap(lambda sample, use: jnp.stack(sampling.pair(sample, SEEDS, use)), (0, None))
    )
    numbers = jnp.arange(64, dtype=jnp.uint32)
    return np.stack([np.asarray(draw(numbers, use)) for use in (0, 1)]).swapaxes(1, 2)


@pytest.mark.parametrize("shape", [(64, 1), (8, 8), (1, 64), (4, 16)])
def test_every_cell_of_every_grid_has_one_point(points, shape):
    # A (0, 6, 2)-net: scrambling and shuffling keep it.
    for x, y in (
        points.swapaxes(0, 1).reshape(2, -1, 64, 20).transpose(1, 3, 0, 2).reshape(-1, 2, 64)
    ):
        cells = (x * shape[0]).astype(int) * shape[1] + (y * shape[1]).astype(int)
        assert len(set(cells)) == 64


def test_uses_and_pixels_are_independent(points):
    for a, b in ((points[0, 0], points[1, 0]), (points[0, 0], points[0, 1])):
        correlation = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(20)]
        assert np.abs(np.mean(correlation)) < 0.15
    assert len(np.unique(points[0, 0, 0])) == 20


def test_directions_have_their_densities(points):
    uniform = tuple(jnp.asarray(axis.reshape(-1)) for axis in points[0])
    cosine = np.asarray(sampling.cosine(uniform))
    np.testing.assert_allclose(np.linalg.norm(cosine, axis=0), 1.0, atol=1e-5)
    assert cosine[2].mean() == pytest.approx(2 / 3, abs=0.01)  # ∫ cos² / π
    height = jnp.full(uniform[0].shape, 0.2)
    cone = np.asarray(sampling.cone(uniform, height))
    assert cone[2].min() >= 0.8 - 1e-6
    assert cone[2].mean() == pytest.approx(0.9, abs=0.005)  # uniform in the cosine
