# SPDX-License-Identifier: Apache-2.0
"""Removal of noise, on an image whose light without noise is known."""

import importlib.util
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.render import Image
from flavr_jax.render.denoise import by_filter, by_network

HAS_OIDN = importlib.util.find_spec("pyoidn") is not None


def picture(noise):
    """Two walls with stripes of paint: light, albedo and normals, and the light without noise."""
    row, column = np.mgrid[:32, :48]
    paint = np.where(row // 4 % 2, 0.8, 0.2)[..., None] * np.array([1.0, 0.7, 0.4])
    left = (column < 24)[..., None]
    normal = np.where(left, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    light = paint * np.where(left, 1.5, 0.4)
    random = np.random.default_rng(0).gamma(1 / noise**2, noise**2, light.shape)
    arrays = (jnp.asarray(each, jnp.float32) for each in (light * random, paint, normal))
    return Image(*arrays), light


def error(light, truth):
    return np.sqrt(np.mean((np.asarray(light, np.float64) - truth) ** 2))


@pytest.mark.parametrize(
    "denoise",
    [pytest.param(by_network, marks=pytest.mark.skipif(not HAS_OIDN, reason="no pyoidn")),
     by_filter],
)  # fmt: skip
def test_most_noise_goes_and_edges_stay(denoise):
    image, truth = picture(noise=0.4)
    assert error(denoise(image), truth) < 0.35 * error(image.light, truth)


def test_the_filter_leaves_an_image_without_noise_alone():
    image, truth = picture(noise=1e-3)
    assert error(by_filter(image), truth) < 2e-3


def test_a_sky_without_normals_is_filtered_too():
    random = np.random.default_rng(1).gamma(25, 1 / 25, (24, 24, 3))
    arrays = (random, np.ones_like(random), np.zeros_like(random))
    image = Image(*(jnp.asarray(each, jnp.float32) for each in arrays))
    assert error(by_filter(image), 1.0) < 0.35 * error(image.light, 1.0)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyoidn", None)
    with pytest.raises(ModuleNotFoundError, match=r"pyoidn.*denoise\]"):
        by_network(picture(noise=0.4)[0])
